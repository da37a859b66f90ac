import gc

from raysearch.engine.store import Entry, Store
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.origins import Derived, Noise, Perturb
from raysearch.testing import fake_sampler

PROMPT, SAMPLER = Prompt("for the store alone"), fake_sampler(10)


def candidate(index: int, step: int = 0) -> Candidate:
    return denoise(Candidate(PROMPT, SAMPLER, Noise(0, index)), step)


def entry(nbytes: int = 10) -> Entry:
    return Entry(object(), nbytes, "place", False, 0.0)


def filled(capacity: int, *xs: Candidate) -> Store:
    store = Store(capacity, own=0)
    for x in xs:
        store.put(x, entry())
    return store


def test_base_is_the_latest_state_that_a_candidate_can_be_made_from():
    store = filled(1000, candidate(0, 2), candidate(0, 5), candidate(1, 9))
    assert [store.base(candidate(0, s)) for s in (1, 2, 4, 5, 9)] == [None, 2, 2, 5, 5]
    store.drop(candidate(0, 2))
    assert store.base(candidate(0, 4)) is None


def test_within_the_bound_everything_stays():
    store = filled(30, *(candidate(i) for i in range(3)))
    assert (len(store), store.nbytes, store.evicted) == (3, 30, 0)


def test_beyond_it_the_least_recently_used_goes_first():
    xs = [candidate(i) for i in range(4)]
    store = filled(40, *xs)
    store.get(xs[0])
    store.put(candidate(9), entry())
    assert [store.get(x) is not None for x in xs] == [True, False, False, True]
    assert store.nbytes <= 40


def test_what_the_driver_holds_of_a_latent_counts_however_small_the_latent_is():
    store = Store(10 * (1024 + 1))
    for i in range(1000):
        store.put(candidate(i), entry(1))
        assert len(store) <= 10 and store.nbytes == len(store) * (1024 + 1)
    assert store.evicted == 1000 - len(store)


def test_the_latents_of_searches_that_have_ended_go_at_once_even_where_a_candidate_lives():
    store, alive = Store(10**9), candidate(0)
    store.watch(alive)
    for i in range(6):
        store.put(candidate(i), entry(), "odd" if i % 2 else "even")
    store.put(candidate(6), entry())
    store.drop(candidate(2))
    store.forget("even")
    assert [i for i in range(7) if store.get(candidate(i))] == [1, 3, 5, 6]
    assert store.nbytes == 4 * (10 + 1024) and store.evicted == 0
    store.forget("even")
    store.forget("odd")
    assert len(store) == 1 and store.base(candidate(6)) == 0 and store.base(candidate(1)) is None


def test_what_a_live_candidate_needs_outlasts_what_nobody_does():
    live = candidate(0, 5)
    store = filled(40, candidate(0, 3), *(candidate(i) for i in (1, 2, 3)))  # step 3 is what `live` is made from
    store.watch(live)
    store.put(candidate(9), entry())
    assert store.get(candidate(0, 3)) is not None
    assert store.get(candidate(1)) is None
    child = Candidate(PROMPT, SAMPLER, Derived(live, 0, Perturb(beta=0.1)))
    store.watch(child)  # not made: needs its parent's state
    del live
    for i in range(20, 30):
        store.put(candidate(i), entry())
    assert store.get(candidate(0, 3)) is not None


def test_what_only_dead_candidates_needed_goes():
    live = candidate(0)
    store = filled(40, live, *(candidate(i) for i in (1, 2, 3)))
    store.watch(live)
    del live
    gc.collect()
    store.put(candidate(9), entry())
    assert store.get(candidate(0)) is None


def test_the_bound_holds_even_when_every_candidate_is_alive():
    xs = [candidate(i) for i in range(100)]
    store = Store(200, own=0)
    for x in xs:
        store.watch(x)
        store.put(x, entry())
        assert store.nbytes <= 200
    assert store.get(xs[-1]) is not None


def test_the_reference_is_freed_with_its_entry():
    import weakref

    class Ref:
        pass

    store, ref = Store(10, own=0), Ref()
    alive = weakref.ref(ref)
    store.put(candidate(0), Entry(ref, 10, "", False, 0.0))
    del ref
    store.put(candidate(1), entry())
    gc.collect()
    assert alive() is None


def test_evicting_looks_at_the_live_candidates_no_more_often_than_it_pays(monkeypatch):
    looks, plain = [], Store._needed
    monkeypatch.setattr(Store, "_needed", lambda self: (looks.append(1), plain(self))[1])
    store, live = Store(100, own=0), [candidate(i) for i in range(1000)]
    for x in live:
        store.watch(x)
    for x in live:
        store.put(x, entry())
    assert store.evicted > 900
    assert len(looks) <= 2
