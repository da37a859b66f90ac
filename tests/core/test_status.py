"""A run seen from elsewhere: snapshots against runs worked out by hand in virtual time, and what `status` says."""

import asyncio
import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import config, same, session
from fakes import run as unwatched
from rich.console import Console

from raysearch.__main__ import main
from raysearch.bootstrap import draws, interval
from raysearch.engine.store import OF_AN_ENTRY
from raysearch.errors import InputLost, NoReplica, ReplicaDied, single
from raysearch.session import display, journal
from raysearch.session.ending import Command
from raysearch.session.session import Session
from raysearch.session.snapshot import ArmStatus, parse
from raysearch.session.status import read
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now

ROOT = Path(__file__).parents[2]
BEST_OF_2 = {"name": "best", "policy": {"name": "best_of_n", "n": 2}}
COMMAND = Command(("raysearch",), ("run", "c.yaml"))
IDLE = {"denoiser": 0, "scorer": 0, "encoder": 0}


def watched(path, on=None, every=0.5, **values):
    """A run on a backend, and its snapshots by when they were taken; the last one under "end"."""
    seen = []
    s = session(path, on or FakeBackend(), **values)
    run_virtual(s.run([(every, seen.append)]))
    return {x.elapsed: x for x in seen[:-1]} | {"end": seen[-1]}


def stopped(path, after, **values):
    """A run that is interrupted."""
    s = session(path, **values)

    async def cancel():
        task = asyncio.create_task(s.run([]))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(cancel())


def shown(path, capsys) -> dict[str, str]:
    """What the command prints, piped, by what stands before the colon."""
    assert main(["status", str(path)]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b┃│━─┏└")
    return dict(line.split(": ", 1) for line in out.splitlines())


def test_snapshots_of_a_run_worked_out_by_hand(tmp_path):
    """One replica of a kind, a second for each step, score and encoding; two candidates of ten guided steps.

    0-2 two captions   2-12 and 12-22 candidates   12-13 and 22-23 their scores   23-24 the winner is decoded and judged
    """
    backend = FakeBackend()
    seen = watched(tmp_path / "run", backend, arms=[BEST_OF_2], prompts=["a"])

    def at(t):
        f = seen[t].fleet
        return f.busy, f.waiting, (f.nfe, f.decodes, f.rewards), f.store_latents

    assert [seen[t].state for t in (0, 0.5, 23.5, "end")] == ["starting", "running", "running", "finished"]
    assert seen[0].fleet is None
    assert at(0.5) == (IDLE | {"encoder": 1}, IDLE, (0, 0, 0), 0)
    assert at(5.5) == (IDLE | {"denoiser": 1}, IDLE | {"denoiser": 1}, (0, 0, 0), 0)
    assert at(12.5) == (IDLE | {"denoiser": 1, "scorer": 1}, IDLE, (20, 0, 0), 1)
    assert at(13.5) == (IDLE | {"denoiser": 1}, IDLE, (20, 1, 1), 1)
    assert at(23.5) == (IDLE | {"scorer": 1}, IDLE, (40, 2, 2), 2)
    assert at("end") == (IDLE, IDLE, (40, 3, 3), 0)
    end = seen["end"].fleet
    assert end.slots == {"denoiser": 1, "scorer": 1, "encoder": 1}
    assert seen[13.5].fleet.nfe_per_second == pytest.approx(20 / 13.5)
    assert end.decodes_per_second == end.rewards_per_second == pytest.approx(3 / 24)
    assert (end.seconds_per_step, end.seconds_per_score) == (1.0, 1.0)
    assert (end.store_bytes, end.evicted, end.recomputed, end.restarts) == (0, 0, 0, 0)
    assert seen[23.5].fleet.store_bytes == 2 * (1000 + OF_AN_ENTRY)
    (arm,) = seen["end"].arms.values()
    assert arm == ArmStatus(1, 1, 0, 0, "quality", ("quality",), (seen["end"].best,), (), 40, 40, 23.0)
    assert backend.published[-1].fleet == end
    kept = parse((tmp_path / "run" / "status.json").read_bytes())
    assert (kept.state, kept.elapsed, kept.fleet) == ("finished", 24, end)


@pytest.mark.parametrize("apart", [False, True])
def test_intervals_are_those_of_the_bootstrap(tmp_path, apart):
    """With noises of its own for each caption only captions are drawn."""
    values = {"arms": [BEST_OF_2], "prompts": list("abc"), "seeds": [0, 1], "seeds_apart": apart}
    end = watched(tmp_path / "run", **values)["end"]
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    captions, seeds = ([r[k] for r in rows] for k in ("prompt", "seed"))
    drawn = draws([r["holdout_quality"] for r in rows], captions, None if apart else seeds)
    low, high = interval(drawn)
    assert end.arms["best"].intervals == pytest.approx(((high - low) / 2,))


def test_the_file_is_written_every_two_seconds_and_at_the_end(tmp_path):
    backend = FakeBackend()
    watched(tmp_path / "run", backend, prompts=["a"])
    assert [s.elapsed for s in backend.published] == [2, 4, 6, 8, 10, 12, 13]


def test_the_time_left_is_by_the_searches_done(tmp_path):
    """One at a time: 2 s of captions, 10 steps, 1 s for the video; then a caption and so on: done at 13, 25, 37, 49."""
    seen = watched(tmp_path / "run", prompts=list("abcd"), max_searches=1)
    assert [(seen[t].done, seen[t].left) for t in (12.5, 13.5, 25.5)] == [(0, None), (1, 3 * 13.5), (2, 25.5)]
    assert (seen["end"].done, seen["end"].left, seen["end"].elapsed) == (4, None, 49)


def test_rates_are_those_of_five_minutes(tmp_path):
    """Thirty searches in 361 s, then the denoiser takes ten times as long."""
    fleet = FakeFleet()
    denoiser = fleet.replicas[0]
    slow = lambda call: setattr(denoiser, "seconds", 10.0 if len(denoiser.calls) > 30 else 1.0)  # noqa: E731
    denoiser.fault = slow
    seen = watched(tmp_path / "run", FakeBackend(fleet), every=10, prompts=[f"p{i}" for i in range(36)], max_searches=1)
    assert seen[350].fleet.nfe_per_second == pytest.approx((seen[350].fleet.nfe - seen[50].fleet.nfe) / 300)
    assert seen[700].fleet.nfe_per_second == pytest.approx((seen[700].fleet.nfe - seen[400].fleet.nfe) / 300)
    assert seen[700].fleet.nfe_per_second < 0.2 * seen[350].fleet.nfe_per_second


@pytest.mark.parametrize("apart", [False, True])
def test_gains_are_over_the_baseline_on_the_same_caption_and_seed(tmp_path, apart):
    """Two searches of the baseline fail, and one of another arm."""
    fleet = FakeFleet()
    scorer = fleet.replicas[1]
    scorer.fault = lambda call: ValueError("a bad day") if len(scorer.calls) in (2, 9, 20) else None
    arms = [{"name": "base", "policy": {"name": "best_of_n", "n": 1}}, BEST_OF_2]
    values = {"arms": arms, "prompts": list("abcde"), "seeds": [0, 1], "seeds_apart": apart, "baseline": "base"}
    end = watched(tmp_path / "run", FakeBackend(fleet), **values)["end"]
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    judged = {(r["arm"], r["prompt"], r["seed"]): r["reward_holdout"] for r in rows if r["status"] == "done"}
    pairs = [key for arm, *key in judged if arm == "base" and ("best", *key) in judged]
    found = np.array([judged["best", *k] - judged["base", *k] for k in pairs])
    captions, seeds = zip(*pairs, strict=True)
    low, high = interval(draws(found, captions, None if apart else seeds))
    best = end.arms["best"]
    assert 5 <= best.pairs == len(pairs) < 10 and len(rows) == 20
    assert (best.gain, best.gain_interval) == pytest.approx((found.mean(), (high - low) / 2))
    base = end.arms["base"]
    assert (end.baseline, base.gain, base.gain_interval, base.pairs) == ("base", None, None, 0)
    assert parse((tmp_path / "run" / "status.json").read_bytes()).arms == end.arms
    again = session(tmp_path / "run", resume="require", **values | {"baseline": "best"})  # failed ones go on
    back = again.progress.snapshot(0, 0).arms["base"]
    again.journal.close()
    assert (back.pairs, back.gain) == (best.pairs, pytest.approx(-best.gain))


def test_an_arm_that_another_reward_judges_gains_nothing(tmp_path):
    other = BEST_OF_2 | {"name": "other", "rewards": {"holdout": {"name": "verifier", "weights": {"TA": 2.0}}}}
    end = watched(tmp_path / "run", arms=[{"name": "single"}, BEST_OF_2, other], prompts=list("abc"))["end"]
    assert (end.arms["best"].pairs, end.arms["other"].pairs, end.arms["other"].gain) == (3, 0, None)


def test_prompts_of_one_caption_have_the_interval_of_their_noises(tmp_path):
    prompts = [{"prompt": "a", "negative_prompt": n} for n in "xy"]
    end = watched(tmp_path / "run", arms=[{"name": "single"}, BEST_OF_2], prompts=prompts, seeds_apart=True)["end"]
    assert end.arms["best"].pairs == 2 and end.arms["best"].gain_interval > 0


def test_gains_are_shown(tmp_path, capsys):
    watched(tmp_path / "run", arms=[{"name": "base"}, BEST_OF_2], prompts=list("abc"))
    s = read(tmp_path / "run")
    assert (s.baseline, s.arms["best"].pairs) == ("base", 3)
    gain = f"{s.arms['best'].gain:+.3f}", f"{s.arms['best'].gain_interval:.3f}"
    lines = shown(tmp_path / "run", capsys)
    assert f", gain over base {gain[0]} ± {gain[1]} of 3 pairs, " in lines["arm best"]
    assert "gain" not in lines["arm base"]
    out = StringIO()
    display.summary(Console(file=out, width=120), s, "runs/r", COMMAND)
    assert "gain: in the judged reward over base, paired" in out.getvalue() and " ± ".join(gain) in out.getvalue()
    alone = watched(tmp_path / "alone", arms=[BEST_OF_2])["end"]
    display.summary(Console(file=(out := StringIO()), width=120), alone, "runs/r", COMMAND)
    assert "gain" not in out.getvalue()


def test_faults_are_counted(tmp_path):
    faults = {3: ReplicaDied("killed"), 5: InputLost("gone")}
    fleet = FakeFleet()
    scorer = fleet.replicas[1]
    scorer.fault = lambda call: faults.pop(len(scorer.calls), None)
    end = watched(tmp_path / "run", FakeBackend(fleet), arms=[BEST_OF_2])["end"]
    assert (end.fleet.restarts, end.fleet.recomputed) == (1, 1)
    tight = watched(tmp_path / "tight", arms=[BEST_OF_2], fleet={"store_gb": 1e-6})["end"]
    made, groups = tight.fleet.nfe // 20, 2  # the last latent of each prompt and seed is not evicted: it goes with them
    assert (tight.fleet.store_latents, tight.fleet.evicted) == (0, made - groups)


def test_a_run_is_seen_while_it_goes_on_and_the_command_changes_nothing(tmp_path, capsys):
    outputs = []

    def look(s):
        if s.elapsed == 30.5:
            before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
            outputs.append(shown(tmp_path / "run", capsys))
            assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before

    s = session(tmp_path / "run", prompts=list("abcd"), max_searches=1)
    run_virtual(s.run([(0.5, look)]))
    (out,) = outputs
    assert out["state"] == "running"
    assert out["searches"] == "2/4"
    assert out["left"] == "about 30 s"  # of the file's, at 30
    assert out["made"].startswith("40 NFE (1.3/s), 2 decodes (0.1/s), 2 rewards")
    assert out["slots busy"] == "denoiser 1/1, encoder 0/1, scorer 0/1"
    assert out["arm single"].startswith("2/4, quality 0.")
    assert "±" in out["arm single"]


def test_a_finished_run(tmp_path, capsys):
    fleet = FakeFleet()
    fleet.replicas[1].fault = lambda call: ValueError("a bad day") if call.request.captions[0] == "b" else None
    watched(tmp_path / "run", FakeBackend(fleet))
    out = shown(tmp_path / "run", capsys)
    assert (out["state"], out["searches"]) == ("finished", "2/2, 1 failed")
    assert out["arm single"].startswith("2, failed 1, quality 0.")
    assert not {"left", "seen", "slots busy", "queue"} & set(out)


def test_an_interrupted_run(tmp_path, capsys):
    stopped(tmp_path / "run", 20, max_searches=1)
    out = shown(tmp_path / "run", capsys)
    assert (out["state"], out["searches"]) == ("interrupted", "1/2")


def test_a_run_that_broke_says_why(tmp_path, capsys):
    class Broken(FakeBackend):
        def fleet(self, config, plan, report):
            raise NoReplica("no denoiser is left")

    with pytest.raises(NoReplica):
        run_virtual(session(tmp_path / "run", Broken()).run([]))
    assert shown(tmp_path / "run", capsys)["state"] == "broken: NoReplica: no denoiser is left"
    assert isinstance(single(ExceptionGroup("all", [ExceptionGroup("one", [NoReplica("x")])])), NoReplica)


def test_a_killed_run_is_told_by_its_journal_that_nobody_holds(tmp_path, capsys):
    """The real thing: a process that is gone without a word, in its second search."""
    script = """
import os, sys
from pathlib import Path
from fakes import session
from raysearch.testing import run_virtual
s = session(Path(sys.argv[1]), max_searches=1)
run_virtual(s.run([(0.5, lambda seen: seen.elapsed > 20 and os._exit(9))]))
"""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], env=os.environ | {"PYTHONPATH": paths}
    )
    assert child.returncode == 9
    out = shown(tmp_path / "run", capsys)
    assert (out["state"], out["searches"]) == ("killed", "1/2")
    assert "left" not in out
    held = journal.Journal(tmp_path / "run" / "journal")
    assert read(tmp_path / "run").state == "running"
    held.close()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "of a run that has written status.json: this one has not started its fleet"),
        (
            '{"of": "another version"}',
            "of a run of this version of raysearch: its status.json is damaged or of another",
        ),
    ],
)
def test_a_run_without_a_status_of_this_version_is_one_clear_line(tmp_path, capsys, text, line):
    unwatched(tmp_path / "run", arms=[BEST_OF_2])
    if text:
        (tmp_path / "run" / "status.json").write_text(text)
    assert main(["status", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"raysearch: RUN_DIR: '{tmp_path / 'run'}' is not allowed; it must be the folder {line}\n"


@pytest.mark.parametrize("files", [None, [], ["mine"], ["config.yaml"], ["status.json"]])
def test_a_folder_that_holds_no_run_is_one_clear_line(tmp_path, capsys, files):
    folder = tmp_path / "folder"
    for name in files or []:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    if files == []:
        folder.mkdir()
    assert main(["status", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"RUN_DIR: '{folder}' is not allowed; it must be the folder of a run" in err
    assert sorted(p.name for p in folder.iterdir()) == files if files is not None else not folder.exists()


def test_on_a_terminal_there_are_tables(tmp_path):
    watched(tmp_path / "run")
    console = Console(file=StringIO(), force_terminal=True, width=120)
    display.status(console, read(tmp_path / "run"), 0.0)
    out = console.file.getvalue()
    assert "finished" in out
    assert "judged by quality (held out)" in out
    assert "┃" in out


@pytest.mark.parametrize("terminal", [True, False])
def test_text_out_of_files_is_shown_as_plain_text(tmp_path, terminal):
    """Escape sequences that clear a screen or set its title, markup, letters that run backwards, and a huge message."""
    evil = "\x1b]0;title\x07\x1b[2J[red]\u202e\r\n[/]"
    watched(tmp_path / "run")
    file = tmp_path / "run" / "status.json"
    values = json.loads(file.read_text())
    (arm,) = values["arms"].values()
    values["arms"] = {evil: arm | {"judge": evil, "components": [evil]}}
    kinds = {evil: 1}
    values["fleet"] |= {"slots": kinds, "busy": kinds, "waiting": kinds}
    file.write_text(json.dumps(values | {"run": evil, "state": "broken", "reason": evil + "x" * 10**6}))
    console = Console(file=StringIO(), force_terminal=terminal, color_system=None, width=120)
    display.status(console, read(tmp_path / "run"), 0.0)
    out = console.file.getvalue()
    assert not set(out) & set("\x07\r\u202e")
    assert set(re.findall(r"\x1b\[\S", out)) <= {"\x1b[1", "\x1b[0", "\x1b[3"}  # bold, plain, italic
    assert "[red]" in out and len(out) < 10_000


def test_a_display_draws_on_a_terminal_and_writes_lines_in_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    texts = {}
    for terminal in (True, False):
        console = Console(file=StringIO(), force_terminal=terminal, width=120)
        with display.Display(console) as screen:
            run_virtual(session(tmp_path / str(terminal), prompts=list("abc"), max_searches=1).run([screen.sink]))
        texts[terminal] = console.file.getvalue()
    lines = texts[False].splitlines()
    assert [line.partition(";")[0] for line in lines] == [f"{n}/3 searches" for n in (0, 1, 2)]  # at 10, 20 and 30
    assert lines[1].endswith("busy denoiser 1/1, encoder 0/1, scorer 0/1; 40 s left")
    assert "\x1b[" in texts[True]
    assert "2/3 searches" in texts[True]


class Gone(StringIO):
    """A terminal that goes away after its first line."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if "\n" in self.getvalue():
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(5, "gone"), ValueError("closed")])
def test_a_run_outlives_its_terminal(tmp_path, error):
    whole, _ = unwatched(tmp_path / "whole", prompts=list("abc"))
    for terminal in (True, False):
        gone = Gone(error)
        gone.fileno = lambda: os.open(os.devnull, os.O_WRONLY)
        console = Console(file=display.Lasting(gone), force_terminal=terminal, width=120)
        with display.Display(console) as screen:
            progress = run_virtual(session(tmp_path / str(terminal), prompts=list("abc")).run([screen.sink]))
        assert progress.done == 3
        assert read(tmp_path / str(terminal)).state == "finished"
        assert same(pq.read_table(tmp_path / str(terminal) / "searches.parquet").to_pylist()) == same(whole)


def test_a_lasting_console_takes_what_a_full_disk_does_not(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        console = display.console(lasting=True)
        console.print("a line")
        print("another line", flush=True)


def test_what_watches_a_run_cannot_end_it_and_is_reported_once(tmp_path):
    """The display, the metrics and status.json all break, and then the report itself."""

    class Backend(FakeBackend):
        def publish(self, snapshot):
            raise UnicodeEncodeError("ascii", "\xfc", 0, 1, "no ASCII")

    def broken(s):
        raise ZeroDivisionError("the screen is gone")

    said = []

    def report(line):
        said.append(line)
        raise BrokenPipeError

    s = Session(config(), Backend(), run_dir=tmp_path / "run", clock=virtual_now, report=report)
    (tmp_path / "run" / "status.json").mkdir()
    progress = run_virtual(s.run([(1.0, broken)]))
    assert progress.done == 2 and progress.failed == 0
    assert len(said) == 3 and all(line.startswith("the run goes on, but what watches it failed: ") for line in said)
    assert [line.split(": ")[1] for line in said] == ["FolderError", "ZeroDivisionError", "UnicodeEncodeError"]
