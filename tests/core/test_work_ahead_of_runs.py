"""Whole runs with work ahead of their searches, on fakes: every policy, any fleet, and what is told of it."""

from io import StringIO

import pyarrow.parquet as pq
import pytest
from fakes import config, run, same, session, unequal_fleet, unlucky
from rich.console import Console

from raysearch.config.policies import policy_names
from raysearch.session import display
from raysearch.session.ending import Command
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

SCHEDULED = {name: {"schedule": [2, 5]} for name in ("bfs", "halving", "rgrp", "tree")}
ARGUMENTS = SCHEDULED | {
    "dfs": {"schedule": [2, 5], "back": 2},
    "evolution": {"schedule": [0, 2, 5], "population": [4, 3, 3, 3], "elite": 1},
    "sequential": {"looks": [5], "bars": [0.5]},
    "draft_commit": {"draft_steps": 5},
}
ARMS = [
    {"name": name, "policy": {"name": name, **ARGUMENTS.get(name, {})}, "rewards": {"compare": {"name": "judge"}}}
    for name in policy_names()
]


def whole_run(path, on, seed: int, **values):
    """The rows and the progress of a run of every policy; every other seed has a stochastic solver."""
    arms = ARMS if seed % 2 else [a for a in ARMS if a["name"] not in ("dlbs", "rbf", "svdd", "tree")]
    backend = FakeBackend(on, needs=["frames", "latent", "estimate"][seed % 3], stochastic=bool(seed % 2))
    s = session(path, backend, arms=arms, prompts=["a"], seeds=[seed], **values)
    progress = run_virtual(s.run())
    return pq.read_table(path / "searches.parquet").to_pylist(), progress


@pytest.mark.parametrize("seed", range(6))
def test_winners_costs_and_what_is_run_are_the_same_on_any_fleet(tmp_path, seed):
    """Some fleets lose inputs and replicas, one has a small store, and some searches go on beside others."""
    fleet = unequal_fleet([2, 7, 12, 3, 6, 9][seed], [1, 3, 1, 2, 4, 1][seed], seed)
    if seed >= 2:
        unlucky(fleet)
    expected, off = whole_run(tmp_path / "expected", FakeFleet(), seed, max_searches=1)
    ahead = {"speculate": True, "store_gb": 4e-5 if seed == 3 else 1.0}
    rows, on = whole_run(tmp_path / "run", fleet, seed, max_searches=1 + seed // 2, fleet=ahead)
    assert same(rows) == same(expected)
    assert on.engine.nfe == sum(r["nfe_spent"] for r in rows)
    assert off.engine.speculation.wasted == 0 < on.engine.speculation.wasted
    assert (on.engine.store.evicted > 0) == (seed == 3)
    assert on.engine.speculation._searches == on.engine.speculation._unclaimed == {}
    assert on.dispatcher._scheduler.guessing == sum(on.dispatcher.tally.busy.values()) == 0


@pytest.mark.parametrize("policy", ["rgrp", "beam", "smc", "dlbs", "halving"])
def test_a_lone_search_is_sooner_done_and_runs_as_much_for_itself(tmp_path, policy):
    def alone(name, speculate):
        fleet = FakeFleet(6, 1, 1, {"scorer": 1.9})
        values = {"policy": {"name": policy, **ARGUMENTS.get(policy, {})}, "prompts": ["a"]}
        s = session(tmp_path / name, FakeBackend(fleet, stochastic=True), **values, fleet={"speculate": speculate})
        run_virtual(s.run())
        (row,) = pq.read_table(tmp_path / name / "searches.parquet").to_pylist()
        return row

    off, on = alone("off", False), alone("on", True)
    assert same([on]) == same([off])
    assert on["nfe_spent"] == off["nfe_spent"]
    assert on["wall_seconds"] < off["wall_seconds"]


def test_it_is_off_by_default_and_off_for_long_videos(tmp_path):
    assert not config().fleet.speculate
    arm = {"policy": {"name": "rgrp", "n": 3, "schedule": [2, 5]}, "prompts": ["a"]}
    fleet = {"speculate": True}
    on = FakeFleet(8, 1, 1, {"scorer": 5.0})
    _, alone = run(tmp_path / "alone", on, **arm, fleet=fleet)
    _, long = run(tmp_path / "long", on, **arm, fleet=fleet, long={"chunks": 2})
    assert alone.engine.speculation.wasted > 0 == long.engine.speculation.wasted
    wasted = f"NFE wasted: {alone.engine.speculation.wasted}, run ahead"
    for progress, told in ((alone, True), (long, False)):
        console = Console(file=(out := StringIO()), width=120)
        display.summary(console, progress.snapshot(0.0, 0.0, "finished"), "run", Command.given(["run"]))
        display.status(console, progress.snapshot(0.0, 0.0, "finished"), 0.0)
        assert out.getvalue().count(wasted) == 2 * told and out.getvalue().count("NFE wasted") == 2 * told
