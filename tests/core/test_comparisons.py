"""`ctx.compare`: what is asked, charged, journaled and asked again."""

import fakes
import numpy as np
import pytest
import scripted

from raysearch.errors import BudgetExhausted, ConfigError
from raysearch.recipe.reward import Pair, Reward, Score, score_key
from raysearch.search.budget import Budget, Ledger, Meter
from raysearch.search.context import Context
from raysearch.session import journal
from raysearch.testing import DUEL, FakeBackend, FakeFleet, run_virtual

JUDGE = Reward("duel", b"duel", ("preferred",), (1.0,), "frames", pairwise=True)
PLAIN = Reward("r", b"r", ("r",), (1.0,), "frames")


def virtual(test):
    """The test in a loop of virtual time."""
    return lambda: run_virtual(test())


class World:
    """Answers a pair by the first candidate's noise: the lower its index the better."""

    def __init__(self) -> None:
        self.asked: list = []

    async def answer(self, xs, reward):
        self.asked += xs
        return [Score((self.of(x),), 2.0, 3.0, (5.0,) if isinstance(x, Pair) else (), 7) for x in xs]

    def of(self, x) -> float:
        if isinstance(x, Pair):
            return 0.9 if x.first.origin.index < x.second.origin.index else 0.1
        return -float(x.origin.index)


def context(world, judge=JUDGE, reward=PLAIN, **budget) -> Context:
    s = scripted.sampler(10)
    meter = Meter(Budget(**budget), Ledger(needs_velocity=True, decodes=True))
    return Context(
        scripted.Prompt("a"), s, 0, reward=reward, judge=judge, meter=meter, answer=world.answer, rng_key=("test",)
    )


@virtual
async def test_both_ways_round_are_one_question():
    ctx, world = context(w := World()), w
    a, b, c = ctx.denoise(ctx.noise(3))
    there = await ctx.compare([a, b, c], [b, c, a])
    back = await ctx.compare([b, c, a], [a, b, c])
    assert there.tolist() == [0.9, 0.9, 0.1]
    assert np.allclose(back, 1 - there)
    assert len({x.identity for x in world.asked}) == 3 and len(world.asked) == 6
    assert (ctx.charged.reward_calls, ctx.charged.decodes, ctx.charged.tokens) == (3, 6, 21)
    assert ctx.charged.nfe == 3 * 20  # three videos, guided
    # Three judgements; the trajectory of whoever is always first takes 2 seconds, that of the others 5.
    assert ctx.charged.replica_seconds == 3 * 3.0 + 2.0 + 2 * 5.0
    assert not ctx.history.rows


@virtual
async def test_a_reward_that_does_not_compare_prefers_the_higher_one():
    ctx = context(w := World(), judge=Reward("q", b"q", ("q",), (1.0,), "frames"))
    a, b = ctx.denoise(ctx.noise(2))
    assert (await ctx.compare([a, b, a], [b, a, a])).tolist() == [1.0, 0.0, 0.5]
    assert (ctx.charged.reward_calls, ctx.charged.tokens) == (2, 14) and len(w.asked) == 6
    assert not ctx.history.rows


@virtual
async def test_the_searchs_own_reward_is_paid_once():
    ctx = context(World(), judge=PLAIN)
    a, b = ctx.denoise(ctx.noise(2))
    await ctx.score([a, b])
    before = ctx.charged
    assert (await ctx.compare([a], [b])).tolist() == [1.0]
    assert ctx.charged == before


@virtual
async def test_a_comparison_beyond_the_budget_asks_nothing():
    ctx = context(w := World(), nfe=30)
    a, b = ctx.denoise(ctx.noise(2))
    with pytest.raises(BudgetExhausted, match=r"budget\.nfe=30"):
        await ctx.compare([a], [b])
    assert not w.asked and ctx.charged.nfe == 0


@virtual
async def test_without_a_judge_one_line_says_what_is_missing():
    ctx = context(World(), judge=None)
    with pytest.raises(ConfigError, match=r"rewards\.compare is missing"):
        await ctx.compare(ctx.noise(1), ctx.noise(1))
    assert (await ctx.compare([], [])).shape == (0,)


async def knockout(ctx, *, n: int = 4):
    """A policy: the winner of a knockout of `n` videos."""
    xs = ctx.denoise(ctx.noise(n))
    while len(xs) > 1:
        p = await ctx.compare(xs[::2], xs[1::2])
        xs = [x if q >= 0.5 else y for x, y, q in zip(xs[::2], xs[1::2], p, strict=True)]
    return xs[0]


VALUES = {
    "policy": {"name": "test_comparisons:knockout"},
    "rewards": {"compare": {"name": "judge"}, "search": {"name": "pixel"}},
    "prompts": ["a", "b", "c"],
}


def test_a_knockout_on_fakes_finds_the_best_of_its_videos(tmp_path):
    rows, _ = fakes.run(tmp_path / "duel", **VALUES)
    best, _ = fakes.run(tmp_path / "best", prompts=VALUES["prompts"], policy={"name": "best_of_n", "n": 4})
    assert [r["winner"] for r in rows] == [r["winner"] for r in best]
    assert [r["reward_calls"] for r in rows] == [3] * 3
    asked = [r for r in journal.read(tmp_path / "duel" / "journal") if r["kind"] == "answer"]
    assert {r["reward"] for r in asked} == {DUEL}
    assert sorted(len(r["asked"]) for r in asked) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("records", range(1, 9))
def test_a_resumed_run_asks_no_comparison_twice(tmp_path, records):
    whole = tmp_path / "whole"
    rows, _ = fakes.run(whole, **VALUES)
    again = fakes.cut(whole, tmp_path / "again", records)
    kept = fakes.answers(again)
    fleet = FakeFleet()
    resumed, _ = fakes.run(again, fleet, resume="require", **VALUES)
    assert fakes.same(resumed) == fakes.same(rows)
    assert sorted(fakes.answers(again)) == sorted(fakes.answers(whole))
    compared = sum(type(c.request).__name__ == "Compare" for r in fleet.replicas for c in r.calls)
    assert compared == 9 - len(kept)


def test_an_unlucky_fleet_changes_no_winner(tmp_path):
    rows, _ = fakes.run(tmp_path / "lucky", **VALUES)
    other, _ = fakes.run(tmp_path / "unlucky", fakes.unlucky(FakeFleet(denoisers=2, scorers=2)), **VALUES)
    assert fakes.same(rows) == fakes.same(other)


def test_a_dry_run_knows_what_comparisons_cost(tmp_path):
    s = fakes.session(tmp_path / "run", FakeBackend(), **VALUES)
    s.journal.close()
    (cost,) = s.costs.values()
    assert (cost.nfe, cost.decodes, cost.reward_calls) == (80, 7, 3)  # two decodes a comparison, one of the winner


@virtual
async def test_the_dearer_of_a_pair_is_held_back():
    """Whichever of both the search returned, it could be finished."""
    budget = {"nfe": 20 + 6 + 14 - 1}  # a whole video, three steps of another, and the rest of that, but for one
    ctx = context(w := World(), **budget)
    a, b = ctx.noise(2)
    (a,), (b,) = ctx.denoise([a]), ctx.denoise([b], until=2)
    for pair in ((a, b), (b, a)):
        with pytest.raises(BudgetExhausted):
            await ctx.compare(*([x] for x in pair))
    assert not w.asked


@virtual
async def test_a_candidate_is_as_good_as_itself():
    ctx = context(w := World(), nfe=40)
    (a,) = ctx.denoise(ctx.noise(1))
    assert (await ctx.compare([a], [a])).tolist() == [0.5] and not w.asked


def test_tokens_and_seconds_of_a_pair_are_read_back(tmp_path):
    """A run that goes on charges for comparisons what they took at first."""
    fleet = FakeFleet()
    for r in fleet.replicas:
        r.tokens = 7
    rows, _ = fakes.run(tmp_path / "whole", fleet, **VALUES)
    assert [r["tokens"] for r in rows] == [21] * 3
    again = fakes.cut(tmp_path / "whole", tmp_path / "again", 4)
    resumed, _ = fakes.run(again, fleet, resume="require", **VALUES)
    assert [r["tokens"] for r in resumed] == [21] * 3
    assert [r["replica_seconds"] for r in resumed] == [r["replica_seconds"] for r in rows]
    # Four videos of ten steps, three comparisons of a second each, and the winner's decoding.
    assert rows[0]["replica_seconds"] == 4 * 10 + 3 + 1


def test_an_answer_is_kept_by_the_rewards_content_and_not_by_its_name():
    a, b = (Reward("r", identity, ("r",), (1.0,), "frames") for identity in (b"a", b"b"))
    x = scripted.Prompt("a").identity
    assert score_key(x, a) != score_key(x, b)
