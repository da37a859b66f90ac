"""Two rewards in one search: the looks by rewards.early, and the last word by rewards.search.

On fakes the early reward `glimpse` reads latents and is ten times what `quality` is, which reads frames. Each solver
step, and each score, takes a second.
"""

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import replace

import pytest
from fakes import answers, candidates, cut, run, same, session

from raysearch.errors import BudgetExhausted, ConfigError
from raysearch.recipe.candidate import Prompt
from raysearch.recipe.reward import Reward, Score
from raysearch.search.budget import Budget, Ledger, Meter
from raysearch.search.context import Context
from raysearch.session import journal
from raysearch.testing import FakeBackend, FakeFleet, fake_reward, fake_sampler, run_virtual

EARLY = {"rewards": {"early": {"name": "pavrm"}}}
NONE, ALL = [-1e9], [1e9]  # bars that give nothing up, or everything


def sequential(**arguments):
    """A block of the policy with a look by rewards.early at step 4."""
    return {"name": "sequential", "n": 3, "looks": [4], "bars": NONE, "enough": None, "early": True} | arguments


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_say_by_which_reward_they_are(tmp_path):
    run(tmp_path / "run", prompts=["a"], policy=sequential(n=2), **EARLY)
    rows = candidates(tmp_path / "run").to_pylist()
    assert [(r["by"], r["step"]) for r in rows] == [("early", 4), ("search", 10)] * 2
    assert [r["trajectory"] for r in rows] == [t for t in dict.fromkeys(r["trajectory"] for r in rows) for _ in "12"]
    for r in rows:  # each has its own reward's components, and none of the other's
        mine, other = ("glimpse", "quality") if r["by"] == "early" else ("quality", "glimpse")
        assert r[mine] == r["reward"] and r[other] is None
    assert all(9 < look["reward"] / end["reward"] < 11 for look, end in zip(rows[::2], rows[1::2], strict=True))
    assert [(r["nfe"], r["making_s"], r["scoring_s"]) for r in rows] == [(8, 4, 1), (20, 10, 1)] * 2
    assert all(r["kept"] for r in rows if r["by"] == "early")  # each was scored again at its end


def test_nfe_of_a_row_are_those_of_its_candidate_alone(tmp_path):
    """Another arm has asked for the x0 prediction, which the trajectory's seconds then hold."""
    arms = [{"name": "frames", "policy": sequential(n=1, early=False)}, {"name": "latent", "policy": sequential(n=1)}]
    run(tmp_path / "run", prompts=["a"], max_searches=1, arms=arms, **EARLY)
    rows = {(r["search_id"].split("-")[2], r["step"]): r for r in candidates(tmp_path / "run").to_pylist()}
    assert [rows[arm, 4]["nfe"] for arm in ("frames", "latent")] == [10, 8]
    assert [rows[arm, 4]["making_s"] for arm in ("frames", "latent")] == [5, 5]
    assert rows["frames", 10]["nfe"] == rows["latent", 10]["nfe"] == 20


# -- what is charged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "nfe", "decodes", "calls", "seconds"),
    [
        # 3 noises of 10 steps, looks that decode nothing; 3 finished ones are decoded, and the winner again
        (sequential(), 60, 4, 6, 30 + 6 + 1),
        # all are given up at step 4, and the winner has its other 6 steps
        (sequential(bars=ALL), 3 * 8 + 12, 1, 3, 12 + 3 + 6 + 1),
        # looks by rewards.search need the x0 prediction, which the next step uses, and frames
        (sequential(bars=ALL, early=False), 3 * 10 + 10, 4, 3, 15 + 3 + 5 + 1),
        # halving: 4 looks, 2 looks and one finished without a last score; the schedule [2, 5] ends with one
        ({"name": "halving", "n": 4, "schedule": [2, 5], "early": True}, 4 * 4 + 2 * 6 + 10, 1, 6, 8 + 6 + 5 + 6 + 1),
    ],
    ids=["finished", "given up", "by search", "halving"],
)
def test_what_a_search_with_looks_is_charged(tmp_path, policy, nfe, decodes, calls, seconds):
    (row,), _ = run(tmp_path / "run", prompts=["a"], policy=policy, **EARLY)
    assert (row["nfe"], row["decodes"], row["reward_calls"]) == (nfe, decodes, calls)
    assert row["replica_seconds"] == seconds and row["nfe_spent"] == nfe


def test_the_dry_run_knows_what_looks_cost(tmp_path):
    s = session(tmp_path / "run", prompts=["a"], policy=sequential(), **EARLY)
    charged = run_virtual(s.run()).arms["sequential"].cost
    (cost,) = s.costs.values()
    assert (cost.nfe, cost.decodes, cost.reward_calls) == (charged.nfe, charged.decodes, charged.reward_calls)


@pytest.mark.parametrize(
    ("bars", "budget", "nfe"),
    [
        (NONE, 60, 60),
        (NONE, 59, 40),  # the third look costs 8 and its video 12 more: it is not begun
        (ALL, 36, 36),  # three looks, and 12 for the best one's video
        (ALL, 35, 28),
        (ALL, 20, 20),
    ],
)
def test_a_budget_holds_back_the_video_of_what_was_only_looked_at(tmp_path, bars, budget, nfe):
    (row,), _ = run(
        tmp_path / "run", prompts=["a"], policy=sequential(n=12, bars=bars), budget={"nfe": budget}, **EARLY
    )
    assert (row["nfe"], row["status"]) == (nfe, "budget")
    rows = [r for r in candidates(tmp_path / "run").to_pylist() if r["by"]]
    last = [r for r in rows if r["by"] == "search"] or rows
    best = max(last, key=lambda r: r["reward"])
    assert json.loads(row["origin"]) == json.loads(best["origin"])


# -- the best so far -------------------------------------------------------------------------------------------------


def context(rewards, early=True, **budget) -> Context:
    """A context whose answers are `rewards[by, index of the noise, step]`."""
    glimpse = Reward("glimpse", b"glimpse", ("glimpse",), (1.0,), "latent")

    async def answer(xs, reward):
        by = "early" if reward is glimpse else "search"
        return [Score((rewards[by, x.origin.index, x.step],)) for x in xs]

    ledger = Ledger(needs_velocity=True, decodes=True)
    return Context(
        Prompt("a"),
        fake_sampler(10),
        0,
        reward=fake_reward(),
        early=glimpse if early else None,
        meter=Meter(Budget(**budget), ledger),
        answer=answer,
        rng_key=(),
    )


def test_the_best_so_far_never_compares_two_scales():
    async def work():
        a, b, c = (ctx := context(rewards)).noise(3)
        best = []
        for by, x, step in rewards:
            await ctx.score(ctx.denoise([(a, b, c)[x]], step), by=by)
            best.append((ctx.best.origin.index, ctx.best.step))
        return best, ctx.history

    rewards = {
        ("early", 0, 2): 7.0,
        ("early", 1, 2): 9.0,
        ("search", 2, 10): 0.1,  # the first of this scale is the best so far, whatever looks said
        ("early", 0, 4): 99.0,
        ("search", 1, 10): 0.3,
        ("early", 1, 9): -5.0,  # a later look at what was judged changes nothing
        ("search", 0, 10): 0.2,
    }
    best, history = asyncio.run(work())
    assert best == [(0, 2), (1, 2), (2, 10), (2, 10), (1, 10), (1, 10), (1, 10)]
    assert [history.reward_of(history.best.candidate)] == [0.3]
    assert Counter(early for _, early in history.last) == {True: 2, False: 3}


def test_the_last_look_at_a_candidate_counts_among_looks():
    async def work():
        ctx = context({("early", 0, 2): 9.0, ("early", 1, 2): 5.0, ("early", 0, 4): 1.0})
        a, b = ctx.noise(2)
        await ctx.score(ctx.denoise([a, b], 2), by="early")
        await ctx.score(ctx.denoise([a], 4), by="early")
        return ctx.best.origin.index, ctx.history.reward_of(a)

    assert asyncio.run(work()) == (1, None)  # and no look is a reward of the search


def test_a_question_is_paid_once_for_each_reward():
    async def work():
        ctx = context({("early", 0, 4): 1.0, ("search", 0, 4): 0.5})
        (x,) = ctx.denoise(ctx.noise(1), 4)
        paid = []
        for by in ("early", "early", "search", "search", "early"):
            await ctx.score([x], by=by)
            paid.append((ctx.charged.nfe, ctx.charged.decodes, ctx.charged.reward_calls))
        return paid

    assert asyncio.run(work()) == [(8, 0, 1), (8, 0, 1), (10, 1, 2), (10, 1, 2), (10, 1, 2)]


def test_a_look_that_the_budget_does_not_allow_is_not_asked():
    async def work():
        ctx = context({}, nfe=19)
        with pytest.raises(BudgetExhausted):
            await ctx.score(ctx.denoise(ctx.noise(1), 4), by="early")
        return ctx.charged.nfe, ctx.history.rows, ctx.history.exhausted

    assert asyncio.run(work()) == (0, [], "budget.nfe=19")


@pytest.mark.parametrize("budget", [38, 39, 40, 44])
def test_the_budget_holds_when_another_look_is_the_best_again(budget):
    """`a` leads, then falls: the best is then `b`, whose video costs 18 more, and was held back for."""

    async def work():
        ctx = context({("early", 0, 9): 2.0, ("early", 1, 1): 1.0, ("early", 0, 10): 0.0}, nfe=budget)
        a, b = ctx.noise(2)
        await ctx.score([*ctx.denoise([a], 9), *ctx.denoise([b], 1)], by="early")  # 18 and 2
        with contextlib.suppress(BudgetExhausted):
            await ctx.score(ctx.denoise([a], 10), by="early")
        return ctx.charged.nfe + ctx.meter.ledger.finish(ctx.best).nfe

    assert asyncio.run(work()) <= budget


# -- the journal -----------------------------------------------------------------------------------------------------

ARMS = [
    {"name": "glimpses", "policy": sequential(bars=[5.0], enough=0.8)},
    {"name": "frames", "policy": sequential(bars=[0.5], enough=0.8, early=False)},
    {"name": "halving", "policy": {"name": "halving", "n": 4, "schedule": [3, 6], "early": True}},
    {"name": "rgrp", "policy": {"name": "rgrp", "n": 4, "schedule": [2, 5], "early": True}},
]


def test_killed_after_any_record_the_looks_are_not_asked_again(tmp_path):
    values = {"arms": ARMS, "prompts": ["a"], **EARLY}
    expected, _ = run(tmp_path / "whole", FakeFleet(2, 2), **values)
    every = {(reward, asked) for _, reward, asked in answers(tmp_path / "whole")}
    assert {reward for reward, _ in every} == {"glimpse", "quality"}
    for k in range(len(list(journal.read(tmp_path / "whole" / "journal"))) + 1):
        path = cut(tmp_path / "whole", tmp_path / str(k), k)
        known = {(reward, asked) for _, reward, asked in answers(path)}
        fleet = FakeFleet(2, 2)
        rows, _ = run(path, fleet, **values, resume="require")
        assert same(rows) == same(expected)
        assert candidates(path).equals(candidates(tmp_path / "whole"))
        asked = sum(c.name == "look" for r in fleet.replicas for c in r.calls)
        assert asked == len(every) - len(known)


def test_a_run_whose_early_reward_changed_is_not_resumed(tmp_path):
    values = {"policy": sequential(), "prompts": ["a"], "resume": "auto"}
    run(tmp_path / "run", **values, **EARLY)
    for rewards in ({"early": {"name": "latent"}}, {}):
        with pytest.raises(ConfigError, match="rewards"):
            session(tmp_path / "run", **values, rewards=rewards)

    class Trained(FakeBackend):
        """Whose early reward has other weights under the same name."""

        def prepare(self, *args):
            plan = super().prepare(*args)
            arms = [replace(a, early=replace(a.early, identity=b"trained more")) for a in plan.arms]
            return replace(plan, arms=tuple(arms))

    with pytest.raises(ConfigError, match="the rewards"):
        session(tmp_path / "run", Trained(), **values, **EARLY)


def test_files_are_made_again_without_asking(tmp_path):
    values = {"arms": ARMS, "prompts": ["a"], "resume": "auto", **EARLY}
    rows, _ = run(tmp_path / "run", **values)
    for r in rows:
        (tmp_path / "run" / r["video"]).unlink()
    fleet = FakeFleet()
    again, progress = run(tmp_path / "run", fleet, **values)
    assert same(again) == same(rows) and not progress.unmade.total
    assert all((tmp_path / "run" / r["video"]).is_file() for r in rows)
    assert not any(c.name == "look" for r in fleet.replicas for c in r.calls)


# -- beside what else there is ---------------------------------------------------------------------------------------


async def around(ctx):
    """Asks for the distances before and after both scores of the same candidate, and returns it."""
    xs = ctx.denoise(ctx.noise(1), 4)
    before = await ctx.distances(xs)
    await ctx.score(xs, by="early")
    await ctx.score(xs)
    assert (await ctx.distances(xs) == before).all() and before.shape == (1, 1)
    return xs[0]


def test_distances_to_obstacles_are_a_question_of_their_own(tmp_path):
    values = {"policy": {"name": "test_early:around"}, "obstacles": [{"text": "b"}], "prompts": ["a"]}
    (row,), _ = run(tmp_path / "run", **values, **EARLY)
    assert (row["status"], row["reason"], row["reward_calls"]) == ("done", "", 3)
    assert [r["by"] for r in candidates(tmp_path / "run").to_pylist()] == ["early", "search", None]


def test_an_obstacle_is_made_once_for_all_prompts(tmp_path):
    """What one prompt has made is forgotten when its searches have ended, but not what the others ask for, too."""
    values = {"policy": {"name": "test_early:around"}, "obstacles": [{"text": "o", "n": 2}], "prompts": ["a", "b", "c"]}
    rows, progress = run(tmp_path / "run", **values, **EARLY, seeds=[0], max_searches=1)
    assert [r["nfe_spent"] for r in rows] == [rows[1]["nfe_spent"] + 2 * 10 * 2, *[rows[1]["nfe_spent"]] * 2]
    assert len(progress.engine.store) == 2


async def farthest_from_the_first(ctx):
    """Returns the noise whose distance to the first obstacle exceeds that to the second one most, of three."""
    found = []
    for _ in range(3):
        (x,) = ctx.denoise(ctx.noise(1), 4)
        ((first, second),) = await ctx.distances([x])
        found.append((first - second, x))
    return max(found, key=lambda pair: pair[0])[1]


def test_a_killed_search_does_not_mistake_one_distance_for_another(tmp_path):
    """Several questions by rewards of one key: their answers stay apart in the journal."""
    values = {"policy": {"name": "test_early:farthest_from_the_first"}, "prompts": ["a", "d"]}
    values["obstacles"] = [{"text": "b"}, {"text": "c"}]
    expected, _ = run(tmp_path / "whole", **values)
    for k in range(len(list(journal.read(tmp_path / "whole" / "journal"))) + 1):
        rows, _ = run(cut(tmp_path / "whole", tmp_path / str(k), k), **values, resume="require")
        assert same(rows) == same(expected)


def test_a_collection_keeps_the_winners_of_looks(tmp_path):
    rows, _ = run(
        tmp_path / "run",
        policy=sequential(bars=ALL),
        collect={"levels": [0.9, 0.3], "train": 0.5},
        rewards={"early": {"name": "pavrm"}, "final": {"name": "verifier"}},
        seeds=[0],
    )
    assert [r["status"] for r in rows] == ["done"] * 2
    assert len(list((tmp_path / "run" / "rollouts").glob("*.arrow"))) == 2


async def looks(ctx):
    """Asks for a look."""
    xs = ctx.noise(1)
    await ctx.score(xs, by="early")
    return xs[0]


@pytest.mark.parametrize("policy", [{"name": "test_early:looks"}, sequential(), ARMS[2]["policy"], ARMS[3]["policy"]])
def test_a_look_without_an_early_reward_is_a_mistake(tmp_path, policy):
    with pytest.raises(ConfigError) as raised:
        session(tmp_path / "run", policy=policy)
    line = "rewards.early is missing: the policy asks for it; say rewards.early.name=pavrm"
    assert str(raised.value).endswith(line) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
