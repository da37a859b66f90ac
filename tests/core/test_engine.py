"""One item runs per trajectory: later requests attach to it, add stops or extend it; its last waiter ends it."""

import asyncio
from collections import deque
from weakref import WeakSet

import pytest

from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import IN_FLIGHT, Engine
from raysearch.engine.protocol import Denoise
from raysearch.engine.sharing import Memo, Spent
from raysearch.engine.store import Store
from raysearch.errors import InputLost
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.origins import Derived, Noise, Perturb
from raysearch.testing import FakeFleet, FakeReplica, fake_reward, fake_sampler, run_virtual

SAMPLER = fake_sampler(10)
START = Candidate(Prompt("for the engine"), SAMPLER, Noise(0, 0))
REWARD = fake_reward()


def at(step: int, start: Candidate = START) -> Candidate:
    return denoise(start, step)


def with_engine(work, fleet: FakeFleet | None = None, capacity: int = 10**6):
    """Run `work(engine)` in virtual time; returns its result and the legs (step, until) that denoisers ran."""
    fleet = fleet or FakeFleet(2, 2, 2)

    async def run():
        async with Dispatcher.open(fleet.replicas) as dispatcher, asyncio.TaskGroup() as tasks:
            return await work(Engine(dispatcher, Store(capacity), fleet.fetch, tasks))

    result = run_virtual(run())
    calls = [c for r in fleet.replicas for c in r.calls if isinstance(c.request, Denoise)]
    return result, [(c.request.step, c.request.until, c.request.velocity) for c in calls]


def test_equal_requests_are_one_item():
    async def work(engine):
        return await asyncio.gather(*(engine.latent(at(5), False, Spent(i)) for i in range(10)))

    entries, legs = with_engine(work)
    assert legs == [(0, 5, False)]
    assert len({e.ref for e in entries}) == 1


def test_a_later_stop_extends_the_running_item_and_an_earlier_one_is_made_on_the_way():
    async def work(engine):
        await asyncio.gather(*(engine.latent(at(s), False, Spent()) for s in (8, 3, 6, 3)))

    assert with_engine(work)[1] == [(0, 3, False), (3, 6, False), (6, 8, False)]


def test_a_preview_is_added_to_a_state_that_exists_and_paid_once():
    async def work(engine):
        await engine.latent(at(5), False, Spent())
        await engine.latent(at(5), True, Spent())
        await engine.latent(at(6), False, Spent())
        return engine.nfe

    nfe, legs = with_engine(work)
    assert legs == [(0, 5, False), (5, 5, True), (5, 6, False)]
    assert nfe == 12


def test_an_item_is_cancelled_when_its_last_waiter_leaves_and_not_before():
    async def work(engine):
        first, second = (asyncio.create_task(engine.latent(at(10), False, Spent(i))) for i in range(2))
        await asyncio.sleep(3)
        first.cancel()
        await asyncio.sleep(1)
        busy = engine._dispatcher.tally.busy["denoiser"]
        second.cancel()
        await asyncio.sleep(0)
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(0)
        return busy, engine._dispatcher.tally.busy["denoiser"], len(engine._jobs), len(engine._turns)

    assert with_engine(work)[0] == (1, 0, 0, 0)


def test_a_waiter_that_stays_gets_the_result():
    async def work(engine):
        leaves, stays = (asyncio.create_task(engine.latent(at(10), False, Spent(i))) for i in range(2))
        await asyncio.sleep(3)
        leaves.cancel()
        return await stays

    entry, legs = with_engine(work)
    assert entry.ref.step == 10
    assert legs == [(0, 10, False)]


def test_parents_are_made_first_however_long_the_chain():
    x = at(1)
    for i in range(900):
        x = Candidate(x.prompt, x.sampler, Derived(x, i, Perturb(beta=0.1)))

    async def work(engine):
        return await engine.latent(x, False, Spent())

    entry, legs = with_engine(work)
    assert (entry.ref.step, len(legs)) == (1, 901)


def test_rewards_are_remembered():
    async def work(engine):
        first = await engine.score([at(5), at(7)], REWARD, Spent())
        again = await engine.score([at(7), at(5)], REWARD, Spent())
        return first, again, engine.decodes

    (first, again, decodes), _ = with_engine(work)
    assert again == first[::-1]
    assert decodes == 2


def test_what_keeps_getting_lost_is_an_error_in_the_end():
    fleet = FakeFleet()
    for r in fleet.replicas:
        if r.kind == "scorer":
            r.fault = lambda call: InputLost("gone")

    async def work(engine):
        with pytest.raises(InputLost, match="lost 8 times"):
            await engine.score([at(2)], REWARD, Spent())

    with_engine(work, fleet)


def test_the_memo_forgets_the_least_recently_used():
    memo: Memo[int] = Memo(2)
    memo.keep(b"a", 1)
    memo.keep(b"b", 2)
    assert memo.recall(b"a") == 1
    memo.keep(b"c", 3)
    assert [memo.recall(k) for k in (b"a", b"b", b"c")] == [1, None, 3]


def test_many_candidates_pass_through_a_small_store():
    """Latents that exist at a time: those of the store and those in work, however many are asked."""
    alive = WeakSet()

    class Denoiser(FakeReplica):
        async def run(self, call):
            answer = await super().run(call)
            alive.add(answer.ref)
            most[0] = max(most[0], len(alive))
            return answer

    most, n = [0], 400
    replicas = [Denoiser(f"d{i}", "denoiser", seconds=0.1) for i in range(2)]
    replicas += [FakeReplica("s", "scorer", seconds=1.0), FakeReplica("e", "encoder")]  # the scorer is the slow one
    for r in replicas:
        r.calls = deque(maxlen=0)  # they would keep what they read
    starts = [Candidate(START.prompt, SAMPLER, Noise(1, i)) for i in range(n)]

    async def work(engine):
        for step in (3, 6):
            xs = [at(step, x) for x in starts]
            scores = await engine.score(xs, REWARD, Spent())
            assert len(scores) == n
        return engine.store.most, len({s.components for s in scores})

    (stored, different), _ = with_engine(work, FakeFleet(replicas=replicas), capacity=20_000)
    assert stored <= 21_000
    assert different == n
    assert most[0] <= 20 + IN_FLIGHT * 4 + 1
