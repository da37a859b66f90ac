import pytest

from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.origins import Branch, Derived, Noise, Perturb, Renoise
from raysearch.search.budget import Budget, Cost, Ledger, Meter
from raysearch.testing import fake_sampler

PROMPT, SAMPLER = Prompt("a"), fake_sampler(10)  # guided: two NFE an evaluation


def at(step: int, origin=None) -> Candidate:
    return denoise(Candidate(PROMPT, SAMPLER, origin or Noise(0, 0)), step)


def charge(*asked: Candidate, preview: bool = False, finish: Candidate | None = None) -> list[int]:
    """NFE of each score in turn, and of finishing."""
    ledger = Ledger(needs_velocity=preview, decodes=preview)
    return [ledger.score([x]).nfe for x in asked] + ([ledger.finish(finish).nfe] if finish else [])


@pytest.mark.parametrize(
    ("asked", "preview", "expected"),
    [
        ([at(10)], False, [20]),
        ([at(10)], True, [20]),  # a finished latent is its own preview
        ([at(4), at(10)], False, [8, 12]),
        ([at(4), at(10)], True, [10, 10]),  # the preview's evaluation is the next step's
        ([at(0), at(1)], True, [2, 2]),
        ([at(4), at(4)], True, [10, 0]),
        ([at(10), at(4)], False, [20, 8]),  # alone, the earlier point would be made by itself
        ([at(4, Derived(at(4), 0, Perturb(beta=0.1)))], False, [8]),  # its parent
        (
            [at(4), at(6, Derived(at(4), 0, Perturb(beta=0.1)))],
            True,
            [10, 6],
        ),  # 2 steps and a preview, the parent is there
        ([at(6), at(6, Derived(at(6), 0, Renoise(to_step=2)))], False, [12, 8]),
        ([at(4), at(5, Derived(at(4), 0, Branch()))], True, [10, 2]),  # the branch inherits the parent's evaluation
    ],
)
def test_alone_costs(asked, preview, expected):
    assert charge(*asked, preview=preview) == expected


def test_finishing_continues_from_what_is_there():
    assert charge(at(4), preview=True, finish=at(4)) == [10, 10]
    assert charge(at(10), finish=at(10)) == [20, 0]
    assert charge(finish=at(0)) == [20]


def test_decodes_and_calls():
    ledger = Ledger(needs_velocity=True, decodes=True)
    assert ledger.score([at(4), at(4), at(5)]) == Cost(12, 2, 2)
    assert ledger.finish(at(5)) == Cost(8, 1, 0)


def meter(**budget) -> Meter:
    now = iter(range(1000))
    return Meter(Budget(**budget), Ledger(needs_velocity=False, decodes=False), lambda: float(next(now)))


def test_a_score_that_does_not_fit_charges_nothing():
    m = meter(nfe=20)
    assert m.admit([at(4)], lambda: [at(0)]) is None  # 8, and 12 to finish
    assert m.admit([at(3, Noise(0, 1))], lambda: [at(4)]) == "budget.nfe=20"
    assert m.charged.nfe == 8
    assert m.admit([at(6)], lambda: [at(4)]) is None
    assert m.charged.nfe == 12


def test_the_cost_of_finishing_the_dearest_candidate_is_held_back():
    dear = [at(10, Noise(0, i)) for i in range(2)] + [at(0, Noise(0, 2))]
    assert meter(nfe=59).admit(dear, lambda: [at(10)]) == "budget.nfe=59"
    assert meter(nfe=60).admit(dear, lambda: [at(10)]) is None
    assert meter(nfe=59).admit(dear[:2], lambda: [at(10), at(0, Noise(0, 3))]) == "budget.nfe=59"


def test_seconds_of_a_trajectory_are_charged_once_and_scoring_each_time():
    m = meter()
    m.charge_seconds(at(4), 4.0, 0.5)
    m.charge_seconds(at(6), 6.0, 0.5)
    m.charge_seconds(at(6), 6.0, 0.0)
    m.charge_seconds(at(1, Noise(0, 1)), 1.0, 0.5)
    assert m.charged.replica_seconds == 8.5


def test_budgets_in_seconds():
    m = meter(replica_seconds=5.0)
    m.charged += Cost(replica_seconds=4.9)
    assert m.admit([at(1)], lambda: [at(0)]) is None
    m.charged += Cost(replica_seconds=0.2)
    assert m.admit([at(2)], lambda: [at(0)]) == "budget.replica_seconds=5"
    m = meter(wall_seconds=3.0)
    assert m.admit([at(1)], lambda: [at(0)]) is None
    assert [m.admit([at(1)], lambda: [at(0)]) for _ in range(3)][-1] == "budget.wall_seconds=3"
