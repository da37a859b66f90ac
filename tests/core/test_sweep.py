"""Sweeps: grids against hand-written tables, shared work, going on after an interruption, curves and laws."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fakes import candidates, same, virtual_now
from sweeps import BASE, BEST, RGRP, grid

from raysearch.__main__ import main
from raysearch.engine.protocol import Encode
from raysearch.errors import ConfigError
from raysearch.session import journal
from raysearch.session.session import Session
from raysearch.sweep import grid as sweep
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

ROOT = Path(__file__).parents[2]


def session(s, path, fleet=None, backend=None):
    return Session(s.config, backend or FakeBackend(fleet or FakeFleet()), run_dir=path, clock=virtual_now)


def run(s, path, fleet=None):
    progress = run_virtual(session(s, path, fleet).run())
    return pq.read_table(path / "searches.parquet").to_pylist(), progress


# -- sharing ---------------------------------------------------------------------------------------------------------


def test_best_of_1_to_64_costs_what_best_of_64_costs(tmp_path):
    s = grid({"policy": {"name": "best_of_n"}, "along": {"policy.n": [1, 2, 4, 8, 16, 32, 64]}})
    rows, progress = run(s, tmp_path / "run", FakeFleet(4, 4))
    assert progress.engine.nfe == sum(r["nfe_spent"] for r in rows) == 3 * 64 * 20
    alone, _ = run(grid({"policy": {"name": "best_of_n", "n": 64}}), tmp_path / "alone", FakeFleet(4, 4))
    assert sum(r["nfe_spent"] for r in rows) <= 1.02 * sum(r["nfe"] for r in alone)
    assert sum(r["nfe"] for r in rows) == 3 * 127 * 20


def test_a_shared_sweeps_winners_are_those_of_each_arm_alone(tmp_path):
    s = grid(BEST, RGRP)
    together, _ = run(s, tmp_path / "together", FakeFleet(3, 2))
    for block in s.config.arms:
        plain = sweep.configuration.build(BASE | {"arms": [block], "seeds_apart": True})
        alone = Session(plain, FakeBackend(), run_dir=tmp_path / block["name"], clock=virtual_now)
        run_virtual(alone.run())
        rows = pq.read_table(tmp_path / block["name"] / "searches.parquet").to_pylist()
        assert same(rows) == same(r for r in together if r["arm"] == block["name"])


# -- going on --------------------------------------------------------------------------------------------------------


def stopped(s, path, after, fleet=None):
    """Run until `after` virtual seconds, then cancel."""
    first = session(s, path, fleet)

    async def cancel():
        task = asyncio.create_task(first.run())
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(cancel())
    return pq.read_table(path / "searches.parquet").to_pylist()


def encoded(fleet):
    """The captions that were asked for."""
    return {c.request.what.text for r in fleet.replicas for c in r.calls if isinstance(c.request, Encode)} - {""}


def denoised(fleet):
    return sum(c.name == "denoise" for r in fleet.replicas for c in r.calls)


def test_an_interrupted_sweep_finishes_what_is_missing_and_redoes_nothing(tmp_path):
    s = grid(BEST, RGRP)
    expected, _ = run(s, tmp_path / "whole")
    before = stopped(s, tmp_path / "run", 200)
    done = [r for r in before if r["status"] == "done"]
    assert {r["status"] for r in before} == {"done", "cancelled"}
    assert {r["prompt"] for r in done} >= {"a"}
    fleet = FakeFleet()
    second = session(s, tmp_path / "run", fleet)
    assert second.progress.kept == second.progress.done == len(done)
    run_virtual(second.run())
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert same(rows) == same(expected)
    assert Counter(r["search_id"] for r in rows).most_common(1)[0][1] == 1
    kept = {r["search_id"]: r for r in done}
    assert [r for r in rows if r["search_id"] in kept] == list(kept.values())  # wall times too: nothing was run again
    asked = [r["search_id"] for r in journal.read(tmp_path / "run" / "journal") if r["kind"] == "search"]
    assert Counter(asked)[done[0]["search_id"]] == 1
    whole = {r["prompt"] for r in before} - {r["prompt"] for r in expected if r["search_id"] not in kept}
    assert whole and not encoded(fleet) & whole
    assert candidates(tmp_path / "run").equals(candidates(tmp_path / "whole"))


def test_a_finished_sweep_asks_for_nothing_and_starts_no_fleet(tmp_path):
    s = grid(BEST)
    expected, first = run(s, tmp_path / "run")

    class Backend(FakeBackend):
        def fleet(self, config, plan, report):
            raise AssertionError("a fleet was started")

    second = session(s, tmp_path / "run", backend=Backend())
    progress = run_virtual(second.run())
    assert pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist() == expected
    assert progress.arms["best_of_n-n4"].cost == first.arms["best_of_n-n4"].cost
    assert progress.arms["best_of_n-n4"].judged.mean == first.arms["best_of_n-n4"].judged.mean


@pytest.mark.parametrize("torn", [0, 7])
def test_a_crash_that_loses_the_tables_and_tears_the_journal_loses_no_finished_row(tmp_path, torn):
    """SIGKILL: nothing is flushed or closed. The journal was written as far as it got; the tables may lag behind."""
    s = grid(BEST, RGRP)
    expected, _ = run(s, tmp_path / "whole")
    stopped(s, tmp_path / "run", 200)
    (tmp_path / "run" / "searches.parquet").unlink()
    (tmp_path / "run" / "searches.partial").write_bytes(b"half a table")
    path = tmp_path / "run" / "journal" / "answers.jsonl"
    lines = [x for x in path.read_bytes().splitlines(keepends=True) if b'"cancelled"' not in x]
    path.write_bytes(b"".join(lines)[:-torn] if torn else b"".join(lines))
    finished = [r for r in journal.read(path.parent) if r["kind"] == "search"]
    assert finished
    fleet = FakeFleet()
    second = session(s, tmp_path / "run", fleet)
    assert second.progress.kept == len(finished)
    run_virtual(second.run())
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert same(rows) == same(expected)
    everything, after = FakeFleet(), list(journal.read(path.parent))
    run(s, tmp_path / "again", everything)
    assert denoised(fleet) < denoised(everything)
    assert len(after) > len(lines)  # what was added after the tear can be read
    third = session(s, tmp_path / "run")
    assert third.progress.kept == third.progress.total
    third.journal.close()


def test_a_killed_process_loses_no_finished_row(tmp_path):
    """The real thing: a process that is gone in the middle of a write, with nothing flushed or closed."""
    script = """
import json, os, sys
from fakes import virtual_now
from pathlib import Path
from raysearch.sweep import grid as sweep
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, run_virtual

config = sweep.build(json.loads(sys.argv[2])).config
s = Session(config, FakeBackend(), run_dir=Path(sys.argv[1]), clock=virtual_now)
s.directory.searches.flush = s.directory.candidates.flush = lambda: None  # the tables lag behind
add, rows = s.journal.add, []

def dying(record):
    rows.append(record["kind"] == "search")
    if sum(rows) == 12:
        s.journal._file.write(b"0a0a0a0a {")
        os._exit(9)
    add(record)

s.journal.add = dying
run_virtual(s.run())
"""
    values = json.dumps(BASE | {"sweep": {"curves": [BEST, RGRP]}})
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run"), values], env=os.environ | {"PYTHONPATH": paths}
    )
    assert child.returncode == 9
    assert (
        not (tmp_path / "run" / "searches.parquet").exists()
        or not pq.read_table(tmp_path / "run" / "searches.parquet").num_rows
    )
    s = grid(BEST, RGRP)
    expected, _ = run(s, tmp_path / "whole")
    rows, progress = run(s, tmp_path / "run")
    assert progress.kept == 11
    assert same(rows) == same(expected)


def test_failed_searches_are_run_again(tmp_path):
    s = grid(BEST)
    fleet = FakeFleet()
    fleet.replicas[1].fault = lambda call: ValueError("a bad day") if call.request.captions[0] == "b" else None
    rows, progress = run(s, tmp_path / "run", fleet)
    assert Counter(r["status"] for r in rows) == {"done": 6, "failed": 3}
    rows, progress = run(s, tmp_path / "run")
    assert Counter(r["status"] for r in rows) == {"done": 9}
    assert (progress.kept, progress.failed) == (6, 0)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"seeds": [0, 1]}, r"this run has seeds=\[0\], and the config seeds=\[0, 1\]; resume=extend adds"),
        ({"sampler": {"num_steps": 12}}, r"sampler\.num_steps=10, and the config sampler\.num_steps=12$"),
        ({"prompts": ["a", "b", "d"]}, r"prompts=\['a', 'b', 'c'\], and the config prompts=\['a', 'b', 'd'\]; "),
        ({"budget": {"nfe": 900}}, r"budget\.nfe=None, and the config budget\.nfe=900$"),
    ],
)
def test_a_run_of_another_config_is_refused_and_kept(tmp_path, values, line):
    expected, _ = run(grid(BEST), tmp_path / "run")
    with pytest.raises(ConfigError, match=f"^run_dir: .*{line}"):
        session(grid(BEST, **values), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"arms\.1\.name='best_of_n-n2', and the config arms\.1\.name='best_of_n-n3'"):
        session(grid(BEST | {"along": {"policy.n": [1, 3, 4]}}), tmp_path / "run")
    assert pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist() == expected
    elsewhere = {"fleet": {"denoisers": {"replicas": 2}}, "output": {"fps": 4}, "run_dir": "elsewhere"}
    rows, progress = run(grid(BEST, **elsewhere, max_searches=3, baseline="best_of_n-n4"), tmp_path / "run")
    assert progress.kept == progress.total
    assert rows == expected


def test_other_weights_under_the_same_config_are_refused(tmp_path):
    class Retrained(FakeBackend):
        def prepare(self, config, arms, begun=None):
            plan = super().prepare(config, arms, begun)
            arms = tuple(sweep.replace(a, sampler=sweep.replace(a.sampler, model=b"other")) for a in plan.arms)
            return sweep.replace(plan, arms=arms)

    run(grid(BEST), tmp_path / "run")
    with pytest.raises(ConfigError, match="the model's weights have changed"):
        session(grid(BEST), tmp_path / "run", backend=Retrained())


def test_a_folder_that_is_no_run_is_refused_and_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("- my\n- shopping\n")
    with pytest.raises(ConfigError, match="run_dir"):
        session(grid(BEST), tmp_path)
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="run_dir"):
        session(grid(BEST), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "thesis.tex"}


def test_two_runs_may_not_write_to_one_folder(tmp_path):
    s = grid(BEST)
    first = session(s, tmp_path / "run")
    with pytest.raises(ConfigError, match="no other run is writing to"):
        session(s, tmp_path / "run")
    run_virtual(first.run())


# -- outputs ---------------------------------------------------------------------------------------------------------


def test_what_a_sweep_writes(tmp_path):
    s = grid(
        {"policy": {"name": "single"}}, BEST | {"along": {"policy.n": [1, 2, 4, 8]}}, RGRP, seeds=[0, 1], max_searches=4
    )
    run(s, tmp_path)
    sweep.write_report(s, tmp_path)
    searches, rows = pq.read_table(tmp_path / "searches.parquet"), pq.read_table(tmp_path / "sweep.parquet")
    assert rows.select(searches.column_names).equals(searches)
    assert rows.column_names[len(searches.column_names) :] == [
        "curve",
        "nfe_alone",
        "axis_policy.n",
        "axis_policy.beta",
    ]
    row = next(r for r in rows.to_pylist() if r["search_id"] == "000001-s3-rgrp-beta0.5-n2")
    assert (row["curve"], row["axis_policy.n"], row["axis_policy.beta"]) == ("rgrp-beta0.5", 2, 0.5)
    assert row["nfe_alone"] == row["nfe"]
    single = next(r for r in rows.to_pylist() if r["arm"] == "single")
    assert (single["axis_policy.n"], single["axis_policy.beta"]) == (None, None)

    drawn = pq.read_table(tmp_path / "curves.parquet").to_pylist()
    point = next(r for r in drawn if (r["arm"], r["measure"]) == ("best_of_n-n4", "reward_search"))
    values = [r["reward_search"] for r in rows.to_pylist() if r["arm"] == "best_of_n-n4"]
    assert (point["policy"], point["curve"], point["axis_policy.n"], point["budget"], point["n"]) == (
        *("best_of_n", "best_of_n", 4, 80.0, 6),
    )
    assert point["mean"] == pytest.approx(np.mean(values))
    assert min(values) <= point["low"] <= point["mean"] <= point["high"] <= max(values)
    assert {r["measure"] for r in drawn} == {"reward_search", "reward_holdout", "holdout_quality", "gap"}
    paired = next(r for r in drawn if (r["arm"], r["measure"]) == ("best_of_n-n4", "reward_holdout"))
    judged = {(r["arm"], r["prompt"], r["seed"]): r["reward_holdout"] for r in rows.to_pylist()}
    differences = [v - judged["single", *key] for (arm, *key), v in judged.items() if arm == "best_of_n-n4"]
    assert (paired["difference"], paired["pairs"]) == (pytest.approx(np.mean(differences)), 6)
    assert paired["difference_low"] < paired["difference"] < paired["difference_high"]

    laws = pq.read_table(tmp_path / "fits.parquet").to_pylist()
    assert {(r["curve"], r["form"]) for r in laws} == {("best_of_n", "log"), ("best_of_n", "power")}  # others: too few
    assert {r["parameter"] for r in laws if r["form"] == "power"} == {"r_inf", "b", "alpha"}
    for picture in ("curves.png", "success.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "summary.md").read_text()
    for expected in ("## Gain in held-out reward at equal NFE", "| rgrp-beta0.5-n4 | 6 |", "With 3 captions"):
        assert expected in text
    assert "none: a fit needs at least 3 budgets" in text
    alone, spent = (sum(rows[k].to_pylist()) for k in ("nfe", "nfe_spent"))
    assert alone > spent and f"NFE: {alone} if each had run alone, {spent} spent" in text
    mean = np.mean([r["nfe_spent"] for r in rows.to_pylist() if r["arm"] == "best_of_n-n4"])
    assert f"| best_of_n-n4 | 6 | 80 | {mean:.0f} |" in text and mean < 80


def test_an_arm_that_another_reward_judges_has_no_gain_in_curves_parquet(tmp_path):
    other = {"name": "other", "policy": {"name": "best_of_n", "n": 2}, "rewards": {"holdout": {"name": "near"}}}
    s = grid({"name": "base", "policy": {"name": "best_of_n", "n": 1}}, other)
    run(s, tmp_path)
    sweep.write_report(s, tmp_path)
    rows = {(r["arm"], r["measure"]): r for r in pq.read_table(tmp_path / "curves.parquet").to_pylist()}
    assert [rows[arm, "reward_holdout"]["pairs"] for arm in ("base", "other")] == [3, 0]
    assert rows["other", "reward_search"]["pairs"] == rows["other", "reward_holdout"]["n"] == 3


def test_an_axis_without_a_value_stays_one_of_numbers_and_vast_numbers_are_text():
    searches = pa.table({"arm": ["best_of_n-nfe40", "best_of_n-nfe-None"], "nfe": [40, 80]})
    rows = sweep.table(grid({"policy": {"name": "best_of_n"}, "along": {"budget.nfe": [40, None]}}), searches)
    assert rows["axis_budget.nfe"].to_pylist() == [40, None]
    vast = grid({"policy": {"name": "best_of_n"}, "along": {"budget.nfe": [40, 10**20]}})
    rows = sweep.table(vast, pa.table({"arm": list(vast.points), "nfe": [40, 80]}))
    assert rows["axis_budget.nfe"].to_pylist() == ["40", "1" + 20 * "0"]


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupted_command_reports_what_there_is(tmp_path, capsys, monkeypatch, begun):
    path, s = tmp_path / "sweep.yaml", grid(BEST)
    path.write_text(yaml.safe_dump(BASE | {"sweep": {"curves": [BEST]}, "run_dir": str(tmp_path / "run")}))

    def searched(config, place, given, tell):
        if begun:
            stopped(s, place.path, 200)
        raise KeyboardInterrupt

    monkeypatch.setattr("raysearch.running.searched", searched)
    assert main(["sweep", str(path)]) == 130
    assert capsys.readouterr().err == "raysearch: interrupted\n"
    assert (tmp_path / "run" / "summary.md").exists() == begun


def test_a_sweep_with_no_finished_search_still_says_so(tmp_path):
    s = grid(BEST)
    fleet = FakeFleet()
    fleet.replicas[1].fault = lambda call: ValueError("a bad day")
    run(s, tmp_path, fleet)
    sweep.write_report(s, tmp_path)
    assert "**9 searches failed" in (tmp_path / "summary.md").read_text()
    assert pq.read_table(tmp_path / "curves.parquet").num_rows == 0
