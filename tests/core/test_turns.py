"""Policies of the user's under an allocator: how they may ask for their turns, and what becomes of odd ones."""

import asyncio
import contextlib

import pyarrow.parquet as pq
from fakes import run
from test_allocation import PROMPTS, VIDEO, shared

from raysearch.session.allocation import IDLE
from raysearch.testing import FakeFleet


def test_a_policy_that_asks_twice_at_once_fails_and_does_not_hang(tmp_path):
    rows, _ = run(tmp_path / "run", **shared(policy={"name": "test_turns:hasty"}))
    failed = {r["reason"] for r in rows if r["status"] == "failed"}
    assert failed == {"ConcurrencyError: ctx.trials while the same search waits there already"}


async def stubborn(ctx):
    """Has its waits for a turn cancelled again and again, and goes on all the same."""
    xs = ctx.denoise(ctx.noise(1))
    await ctx.trials(1)
    await ctx.score(xs)
    for _ in range(20):
        with contextlib.suppress(BaseException):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(2):
                    tasks.create_task(ctx.trials(1))
    while await ctx.trials(1):
        xs += ctx.denoise(ctx.noise(1))
        await ctx.score(xs[-1:])
    return xs[-1]


def test_waits_that_are_cancelled_make_no_room_for_more_searches_and_no_trials(tmp_path):
    values = shared(policy={"name": "test_turns:stubborn"})
    for most in (1, 3):
        fleet = FakeFleet(8, 8, 8)
        rows, _ = run(tmp_path / str(most), fleet, **values, max_searches=most)
        assert {r["status"] for r in rows} == {"done"} and 200 < sum(r["nfe"] for r in rows) <= 600
        assert sum(r.most_running for r in fleet.replicas if r.kind == "denoiser") == most


async def idle(ctx):
    """Asks for one trial after the other, and makes none."""
    while await ctx.trials(1):
        pass
    return ctx.noise(1)[0]


async def slow_to_begin(ctx):
    """Every second trial asks what it has asked already."""
    xs = ctx.denoise(ctx.noise(1))
    while (k := ctx.history.trials) < 5 and await ctx.trials(1):
        xs += ctx.denoise(ctx.noise(1)) if k % 2 == 0 else []
        await ctx.score(xs[-1:])
    return xs[-1]


def test_trials_that_cost_nothing_end_in_the_end(tmp_path, monkeypatch):
    rows, _ = run(tmp_path / "idle", **shared(policy={"name": "test_turns:idle"}, prompts=PROMPTS[:2]))
    assert [r["trials"] for r in rows] == [12, 12]  # the allocator's cap
    values = shared(allocation={"name": "uniform"}, policy={"name": "test_turns:idle"}, prompts=PROMPTS[:2])
    rows, _ = run(tmp_path / "uniform", **values)
    assert [r["trials"] for r in rows] == [IDLE, IDLE]
    monkeypatch.setattr("raysearch.session.allocation.IDLE", 2)  # in a row
    rows, _ = run(tmp_path / "slow", **shared(9, {"name": "uniform"}, {"name": "test_turns:slow_to_begin"}))
    assert {(r["trials"], r["nfe"]) for r in rows} == {(5, 3 * VIDEO)}


def test_answers_without_a_reward_are_scored_so_that_a_further_start_can_win(tmp_path):
    early = {"rewards": {"early": {"name": "pavrm"}}}
    for policy in ({"name": "halving", "schedule": [3, 6], "early": True}, {"name": "single"}):
        rows, _ = run(tmp_path / policy["name"], **shared(6, {"name": "uniform"}, policy), **early)
        table = pq.read_table(tmp_path / policy["name"] / "candidates.parquet").to_pylist()
        for r in rows:
            ends = [c["reward"] for c in table if c["search_id"] == r["search_id"] and c["by"] == "search"]
            assert len(ends) == r["trials"] > 1 and r["reward_search"] == max(ends)
        assert any(r["winner"] for r in rows if "start" in r["origin"])
        assert sum(r["nfe"] for r in rows) <= 6 * VIDEO * 10


async def parallel(ctx):
    """Asks for a trial while a child of its own has a question open."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task((c := ctx.child("a")).score(c.denoise(c.noise(1))))
        await asyncio.sleep(0)
        await ctx.child("b").trials(1)
    return ctx.noise(1)[0]


def test_a_trial_is_not_asked_for_while_another_branch_of_the_search_is_at_work(tmp_path):
    """What it had cost by then would depend on which of both was faster."""
    for values in (shared(), {"prompts": PROMPTS}):
        rows, _ = run(tmp_path / str(len(values)), **values | {"policy": {"name": "test_turns:parallel"}})
        said = "ConcurrencyError: ctx.trials while a score of the same search is pending, if only of a child"
        assert {r["reason"] for r in rows} == {said}


async def hasty(ctx):
    xs = ctx.noise(1)
    while await ctx.trials(1):
        xs = ctx.denoise(ctx.noise(1))
        await ctx.score(xs)
        if ctx.history.trials > 1:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(2):
                    tasks.create_task(ctx.trials(1))
    return xs[0]
