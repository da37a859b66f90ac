"""Runs whose arms share a total budget out: the same on any fleet, after a kill, with whatever policy."""

import asyncio
import contextlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import ARMS, answers, candidates, config, cut, run, same, session, unequal_fleet, unlucky

from raysearch.config import config as configuration
from raysearch.config.policies import policy_names
from raysearch.errors import ConfigError
from raysearch.session import journal
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

BON = {"name": "best_of_n", "n": 12}
PROMPTS = [f"p{i}" for i in range(10)]
ALLOCATIONS = [
    {"name": "uniform"},
    {"name": "lowest_best", "share": 0.25},
    {"name": "threshold", "enough": 0.9},
    {"name": "expected_improvement", "share": 0.25},
]
VIDEO = 20  # NFE of one video of the fakes


def shared(trials=3.0, allocation=ALLOCATIONS[1], policy=BON, **values):
    """A config whose searches have so many trials each on average."""
    prompts = values.pop("prompts", PROMPTS)
    budget = {"total_nfe": int(len(prompts) * VIDEO * trials)}
    return {"prompts": prompts, "policy": policy, "allocation": allocation, "budget": budget} | values


def told(rows):
    return [(r["trials"], *s.values()) for r, s in zip(rows, same(rows), strict=True)]


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda a: a["name"])
def test_the_same_winners_on_any_fleet(tmp_path, allocation):
    expected, _ = run(tmp_path / "one", **shared(allocation=allocation))
    assert len({r["trials"] for r in expected}) > (allocation["name"] != "uniform")
    assert sum(r["nfe"] for r in expected) <= 600
    if allocation["name"] != "threshold":
        assert sum(r["nfe"] for r in expected) == 600
    fleets = [FakeFleet(3, 5), unequal_fleet(3, 2, 0), unlucky(FakeFleet(2, 2))]
    for i, fleet in enumerate(fleets):
        rows, _ = run(tmp_path / str(i), fleet, **shared(allocation=allocation), max_searches=1 + 3 * i)
        assert told(rows) == told(expected)


@pytest.mark.parametrize(
    ("steady", "patient"),
    [
        ({"name": "uniform"}, {"name": "sharing_out:patient"}),
        ({"name": "lowest_best", "share": 0.25}, {"name": "sharing_out:patient_lowest"}),
        ({"name": "threshold", "enough": 0.9}, {"name": "sharing_out:patient_threshold"}),
    ],
)
@pytest.mark.parametrize("trials", [2, 5.5])
def test_early_starts_change_nothing_but_the_time(tmp_path, steady, patient, trials):
    for i in range(2):
        times = []
        for name, allocation in (("early", steady), ("patient", patient)):
            rows, progress = run(
                tmp_path / f"{name}{i}", unequal_fleet(2, 3, i), **shared(trials, allocation), max_searches=50
            )
            times.append((told(rows), progress.engine.nfe))
        assert times[0] == times[1]


def test_a_trial_is_a_noise_and_the_total_is_met(tmp_path):
    rows, _ = run(tmp_path / "run", **shared())
    for r in rows:
        assert r["nfe"] == VIDEO * r["trials"] == VIDEO * r["reward_calls"]
        assert r["allocation"] == '{"cap":12,"name":"lowest_best","share":0.25}'
    assert sum(r["trials"] for r in rows) == 30


def test_a_search_alone_finds_what_a_shared_one_with_as_many_trials_does(tmp_path):
    rows, _ = run(tmp_path / "run", **shared())
    for r in rows:
        policy = {"name": "best_of_n", "n": r["trials"]}
        (alone,), _ = run(tmp_path / r["search_id"], prompts=[r["prompt"]], policy=policy)
        assert alone["winner"] == r["winner"]
        assert (alone["trials"], alone["allocation"]) == (r["trials"], None)


def test_killed_after_any_record_it_ends_as_if_nothing_had_been(tmp_path):
    plain = {"name": "plain", "policy": {"name": "best_of_n", "n": 2}}
    arms = [
        plain,
        {"name": "shared", "policy": BON, "allocation": ALLOCATIONS[1], "budget": {"total_nfe": 300}},
        {
            "name": "starts",
            "policy": {"name": "rgrp", "n": 2, "schedule": [2]},
            "allocation": {"name": "threshold", "enough": 0.9},
            "budget": {"total_nfe": 500},
        },
    ]
    values = {"prompts": PROMPTS[:5], "arms": arms}
    expected, _ = run(tmp_path / "whole", FakeFleet(2, 2), **values)
    asked = candidates(tmp_path / "whole")
    records = len(list(journal.read(tmp_path / "whole" / "journal")))
    every = {(reward, asked) for _, reward, asked in answers(tmp_path / "whole")}
    for k in range(0, records + 1, 6):
        path = cut(tmp_path / "whole", tmp_path / str(k), k)
        known = {(reward, asked) for _, reward, asked in answers(path)}
        fleet = FakeFleet(3, 5)
        rows, _ = run(path, fleet, **values, resume="require", max_searches=1 + k % 4)
        assert told(rows) == told(expected)
        assert candidates(path).equals(asked)
        assert sum(c.name == "look" for r in fleet.replicas for c in r.calls) == len(every) - len(known)


async def unstoppable(ctx):
    """Best of n, which has an answer whatever is raised."""
    xs, r = [], []
    with contextlib.suppress(BaseException):
        while await ctx.trials(12 - len(xs)):
            xs += ctx.denoise(ctx.noise(1))
            r += [*await ctx.score(xs[-1:])]
    return xs[r.index(max(r))] if r else xs[0]


@pytest.mark.parametrize("policy", [BON, {"name": "test_allocation:unstoppable"}], ids=lambda p: p["name"])
def test_interrupted_while_searches_wait_it_goes_on_to_the_same_end(tmp_path, policy):
    values = shared(policy=policy)
    expected, _ = run(tmp_path / "whole", **values)
    for seconds in (45, 130, 250):
        path = tmp_path / str(seconds)

        async def stopped(path=path, seconds=seconds):
            async with asyncio.timeout(seconds):
                await session(path, **values, max_searches=2).run()

        with pytest.raises(TimeoutError):
            run_virtual(stopped())
        rows = pq.read_table(path / "searches.parquet").to_pylist()
        assert {r["status"] for r in rows} == {"cancelled"}
        rows, _ = run(path, **values, max_searches=3, resume="require")
        assert told(rows) == told(expected)


def test_replica_seconds_are_shared_out(tmp_path):
    values = shared() | {"budget": {"total_replica_seconds": 330.0}}
    expected, _ = run(tmp_path / "run", **values)  # a trial takes 11 seconds: ten steps and a score
    assert sum(r["trials"] for r in expected) == 30
    rows, _ = run(tmp_path / "again", FakeFleet(3, 5), **values)
    assert told(rows) == told(expected)
    path = cut(tmp_path / "run", tmp_path / "cut", 33)
    rows, _ = run(path, FakeFleet(3, 5), **values, resume="require")
    assert told(rows) == told(expected)


ANY = {
    "sequential": {"looks": [3], "bars": [0.4]},
    "halving": {"schedule": [3]},
    "rgrp": {"schedule": [2, 4]},
    "bfs": {"schedule": [2, 4]},
    "dfs": {"schedule": [2, 4], "back": 2, "backtracks": 2},
    "evolution": {"schedule": [2, 4], "population": [3, 2, 2], "elite": 1},
    "paths": {"n": 1, "m": 2, "start": 4, "forward": 2, "backward": 4},
    "beam": {"every": 4},
    "tree": {"schedule": [3, 6]},
    "draft_commit": {"draft_steps": 4, "explore": {"name": "best_of_n", "n": 8}},
    "scaling_noise": {"k": 1, "n": 2},
}
GO_ON = ("best_of_n", "sequential", "tree", "draft_commit", "tournament")


@pytest.mark.parametrize("name", [n for n in policy_names() if n not in ("repulsion", "scaling_noise")])
def test_every_policy_can_be_allocated_to(tmp_path, name):
    values = shared(policy={"name": name} | ANY.get(name, {}), prompts=PROMPTS[:4]) | {"budget": {"total_nfe": 12_000}}
    values |= {"rewards": {"compare": {"name": "judge"}}}  # which a tournament asks
    backends = [FakeBackend(f, stochastic=True) for f in (FakeFleet(), FakeFleet(3, 5))]
    found = []
    for i, backend in enumerate(backends):
        run_virtual((s := session(tmp_path / str(i), backend, **values)).run())
        spent = s._allocations[name].rounds.cost.sum()
        found.append(pq.read_table(tmp_path / str(i) / "searches.parquet").to_pylist())
    assert told(found[0]) == told(found[1])
    rows, dearest = found[0], max(r["nfe"] / r["trials"] for r in found[0])
    assert {r["status"] for r in rows} == {"done"}
    assert sum(r["nfe"] for r in rows) == spent <= 12_000  # what an answer still costs was known in time
    assert max(r["trials"] for r in rows) > 2
    origins = pq.read_table(tmp_path / "0" / "candidates.parquet")["origin"].to_pylist()
    assert any("start 1" in o for o in origins) == (name not in GO_ON)
    assert dearest > 0


def test_a_start_that_is_better_wins_and_the_earliest_of_equals(tmp_path):
    policy = {"name": "paths", "n": 1, "m": 2, "start": 4, "forward": 2, "backward": 4}
    rows, _ = run(tmp_path / "run", **shared(30, {"name": "uniform"}, policy, prompts=PROMPTS[:3]))
    table = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    for r in rows:
        last = [c for c in table if c["search_id"] == r["search_id"] and c["step"] == 10]
        assert r["reward_search"] == max(c["reward"] for c in last)
        assert r["trials"] > 2


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("failing", "ZeroDivisionError: division by zero"),
        ("twice", "what it returned: [0, 0] is not allowed; it must be without repetition"),
        ("beyond", "an index that it returned: 10 is not allowed; it must be in 0..9"),
        ("below", "an index that it returned: -1 is not allowed; it must be in 0..9"),
        ("words", "TypeError: 'str' object cannot be interpreted as an integer"),
        ("none", "TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_an_allocator_that_fails_fails_the_searches_of_its_arm(tmp_path, name, line):
    arms = [
        {"name": "bad", "policy": BON, "allocation": {"name": f"sharing_out:{name}"}, "budget": {"total_nfe": 900}},
        ARMS[1],
    ]
    rows, progress = run(tmp_path / "run", FakeFleet(2, 2), prompts=PROMPTS, arms=arms)
    bad = {r["reason"] for r in rows if r["arm"] == "bad"}
    assert len(bad) == 1 and f"allocation sharing_out:{name} (arm bad): " in (said := bad.pop()) and line in said
    assert said.startswith("ConfigError: ")
    assert [r["status"] for r in rows if r["arm"] == "bon"] == ["done"] * 10
    assert progress.failed == 10


def test_an_allocator_cannot_write_over_what_the_rounds_know(tmp_path):
    expected, _ = run(tmp_path / "whole", **shared(allocation={"name": "uniform"}))
    rows, _ = run(tmp_path / "run", **shared(allocation={"name": "sharing_out:meddling"}))
    assert told(rows) == told(expected)


def test_searches_that_are_not_open_are_passed_over(tmp_path):
    rows, _ = run(tmp_path / "run", **shared(policy={"name": "best_of_n", "n": 3}, allocation={"name": "uniform"}))
    assert [r["trials"] for r in rows] == [3] * 10
    rows, _ = run(tmp_path / "first", **shared(allocation={"name": "sharing_out:first"}))
    assert [r["trials"] for r in rows] == [12] + [1] * 9
    rows, _ = run(tmp_path / "none", **shared(allocation={"name": "sharing_out:nobody"}))
    assert [r["trials"] for r in rows] == [1] * 10


def test_a_search_that_fails_leaves_and_the_others_go_on(tmp_path):
    fleet, calls = FakeFleet(2, 2), 0

    def fault(call):
        nonlocal calls
        calls += 1
        return ValueError("a bad day") if calls in (4, 19) else None

    for r in fleet.replicas:
        r.fault = fault if r.kind == "scorer" else None
    rows, _ = run(tmp_path / "run", fleet, **shared())
    assert sorted(r["status"] for r in rows) == ["done"] * 8 + ["failed"] * 2
    assert 28 * VIDEO <= sum(r["nfe"] for r in rows) <= 30 * VIDEO
    rows, _ = run(tmp_path / "run", **shared(), resume="require")
    assert {r["status"] for r in rows} == {"done"}


def test_no_more_searches_live_than_allowed_but_for_those_that_wait(tmp_path):
    busiest = []
    for most in (1, 3):
        fleet = FakeFleet(8, 8, 8)
        run(tmp_path / str(most), fleet, **shared(), max_searches=most)
        busiest.append(sum(r.most_running for r in fleet.replicas if r.kind == "denoiser"))
    assert busiest == [1, 3]


def test_lost_files_of_finished_searches_are_made_again(tmp_path):
    for name, policy in (("bon", BON), ("starts", {"name": "rgrp", "n": 2, "schedule": [2]})):
        expected, _ = run(tmp_path / name, **shared(policy=policy))
        videos = sorted((tmp_path / name / "videos").iterdir())
        before = {v.name: v.read_bytes() for v in videos}
        for v in videos[::2]:
            v.unlink()
        rows, progress = run(tmp_path / name, **shared(policy=policy), resume="require")
        assert rows == expected and not progress.lacking
        assert {v.name: v.read_bytes() for v in (tmp_path / name / "videos").iterdir()} == before


def test_rounds_are_told_and_the_cost_is_a_share(tmp_path):
    said = []
    s = session(tmp_path / "run", **shared(trials=4))
    s._report = said.append
    assert {k: (c.nfe, c.decodes) for k, c in s.costs.items()} == {"best_of_n": (80, 6)}
    run_virtual(s.run())
    assert said[0] == "best_of_n: allocation round 1, 13 trials, 25% of budget.total_nfe"
    assert said[-1].endswith("40 trials, 100% of budget.total_nfe")


def test_another_allocation_or_allocator_is_another_run(tmp_path, monkeypatch):
    run(tmp_path / "run", **shared())
    with pytest.raises(ConfigError, match=r"allocation\.share=0\.25, and the config allocation\.share=0\.5"):
        session(tmp_path / "run", **shared(allocation={"name": "lowest_best", "share": 0.5}), resume="require")
    monkeypatch.setattr("raysearch.session.plan.source", lambda f: repr(f.__name__))
    with pytest.raises(ConfigError, match="the policies have changed since its run began"):
        session(tmp_path / "run", **shared(), resume="require")


def test_arms_have_their_own_allocation_and_may_turn_the_configs_off():
    c = config(
        allocation={"name": "lowest_best", "share": 0.5},
        budget={"total_nfe": 100},
        arms=[
            {"name": "a"},
            {"name": "b", "allocation": {"cap": 3}},
            {"name": "c", "allocation": {"name": "threshold", "enough": 1.0}},
            {"name": "d", "allocation": None, "budget": {"total_nfe": None}},
        ],
    )
    assert [a.allocation for a in configuration.arms(c)] == [
        {"name": "lowest_best", "cap": 12, "share": 0.5},
        {"name": "lowest_best", "cap": 3, "share": 0.5},
        {"name": "threshold", "enough": 1.0, "cap": 12},
        None,
    ]


def test_two_hundred_searches_with_few_live(tmp_path):
    rows, _ = run(tmp_path / "run", FakeFleet(2, 4), **shared(2, prompts=[f"q{i}" for i in range(200)]), max_searches=8)
    assert sum(r["nfe"] for r in rows) == 200 * 2 * VIDEO
    uniform, _ = run(
        tmp_path / "uniform", FakeFleet(2, 4), **shared(2, {"name": "uniform"}, prompts=[f"q{i}" for i in range(200)])
    )
    assert sum(r["reward_search"] for r in rows) > sum(r["reward_search"] for r in uniform)


def test_the_shipped_config_is_whole():
    c = configuration.load(Path(__file__).parents[2] / "configs" / "allocation.yaml")
    assert {a.allocation["name"] for a in configuration.arms(c)} == {a["name"] for a in ALLOCATIONS}
