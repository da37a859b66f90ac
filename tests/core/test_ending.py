"""What a run came to: the lines at its end, the command that goes on with it, and the object of `--json`."""

import asyncio
import json
import sys
from dataclasses import replace
from io import StringIO

import pytest
from fakes import session
from rich.console import Console

from raysearch.__main__ import main
from raysearch.errors import counted
from raysearch.session import display
from raysearch.session.ending import Command, described, unfinished
from raysearch.session.progress import MOST_REASONS, OTHER, Reasons
from raysearch.session.snapshot import ArmStatus, Failure, Snapshot, parse
from raysearch.session.status import read
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

GIVEN = Command((".venv/bin/python", "-m", "raysearch"), ("run", "c.yaml", "seeds=[0, 1]", "resume=auto", "run_dir=r"))


def ended(path, *, bad=(), **values):
    """The last snapshot of a run in which the captions `bad` fail."""
    fleet = FakeFleet()

    def fault(call):
        caption = call.request.captions[0]
        return ValueError(f"a bad {bad[caption]}") if caption in bad else None

    fleet.replicas[1].fault = fault
    seen = []
    run_virtual(session(path, FakeBackend(fleet), **values).run([(1000.0, seen.append)]))
    return seen[-1]


def lines(s, width=200):
    console = Console(file=StringIO(), width=width)
    display.summary(console, s, "/runs/r", GIVEN)
    return console.file.getvalue().splitlines()


def test_failed_searches_are_grouped_by_reason(tmp_path, capsys):
    """The most frequent reason comes first, with its first search; and the command goes on with the rest."""
    bad = {"a": "day", "b": "night", "d": "night"}
    s = ended(tmp_path / "run", bad=bad, prompts=list("abcd"))
    assert [(f.reason, f.n, f.first) for f in s.failures] == [
        ("ValueError: a bad night", 2, "000001-s0-single"),
        ("ValueError: a bad day", 1, "000000-s0-single"),
    ]
    said = [
        "2 searches failed: ValueError: a bad night (first 000001-s0-single)",
        "1 search failed: ValueError: a bad day (000000-s0-single)",
    ]
    assert lines(s)[-5:] == [
        *said,
        "to go on: .venv/bin/python -m raysearch run c.yaml 'seeds=[0, 1]' run_dir=/runs/r resume=require",
        "results: /runs/r",
        "as a page: .venv/bin/python -m raysearch report /runs/r",
    ]
    assert parse((tmp_path / "run" / "status.json").read_bytes()).failures == s.failures
    assert main(["status", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == said
    assert "to go on: give its command again with its run_dir and resume=require" in out
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    display.status(console, read(tmp_path / "run"), 0.0)
    assert said[0] in console.file.getvalue()


def test_a_run_without_failures_ends_with_where_it_is(tmp_path):
    s = ended(tmp_path / "run")
    assert not unfinished(s)
    assert not [line for line in lines(s) if "to go on" in line or "failed" in line]
    assert lines(s)[-2:] == ["results: /runs/r", "as a page: .venv/bin/python -m raysearch report /runs/r"]


def test_what_was_retried_failed_no_longer(tmp_path):
    ended(tmp_path / "run", bad={"a": "day"})
    s = ended(tmp_path / "run", resume="require")
    assert (s.failures, s.done, s.kept) == ((), 2, 1) and not unfinished(s)


def test_files_that_cannot_be_made_are_told(tmp_path, monkeypatch):
    """A finished search whose video is gone, and whose winner can no longer be decoded."""
    ended(tmp_path / "run")
    for file in (tmp_path / "run" / "videos").iterdir():
        file.unlink()
    s = ended(tmp_path / "run", bad={"b": "day"}, resume="require")
    assert (s.failed, [(f.n, f.first) for f in s.unmade]) == (0, [(1, "000001-s0-single")])
    assert unfinished(s)
    line = "1 search finished, but files could not be made: ValueError: a bad day (000001-s0-single)"
    assert line in lines(s)
    assert described(s, "r")["searches"] == {"n": 2, "done": 2, "failed": 0, "kept": 2, "unmade": 1}


def test_a_stopped_run_says_how_far_it_came(tmp_path):
    seen = []
    s = session(tmp_path / "run", max_searches=1)

    async def cancel():
        task = asyncio.create_task(s.run([(1000.0, seen.append)]))
        await asyncio.sleep(20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(cancel())
    first, *_ = lines(seen[-1])
    assert first == "interrupted: 1 of 2 searches done" and unfinished(seen[-1])
    assert not unfinished(replace(seen[-1], state="running"))  # nobody is to start it a second time


def test_reasons_are_bounded():
    """However many there are, and however long."""
    reasons = Reasons()
    for i in range(1000):
        reasons.add(f"ValueError: {i}" + "x" * 10_000, str(i))
        reasons.add("often", "first of often")
    groups = reasons.groups
    assert len(groups) == MOST_REASONS + 1 and reasons.total == 2000
    assert (groups[0].reason, groups[0].n, groups[0].first) == ("often", 1000, "first of often")
    assert (groups[1].reason, groups[1].n, groups[1].first) == (OTHER, 981, "19")
    assert max(len(g.reason) for g in groups) < 400


def test_few_reasons_are_shown_and_the_others_counted(tmp_path):
    captions = list("abcdefgh")
    s = ended(tmp_path / "run", bad={c: c for c in captions}, prompts=captions)
    shown = [line for line in lines(s) if " failed" in line and "│" not in line]
    assert len(shown) == display.MOST_REASONS + 1
    assert shown[-1] == "3 searches failed for 3 other reasons (first 000005-s0-single)"


@pytest.mark.parametrize(
    ("n", "noun", "said"), [(0, "search", "0 searches"), (1, "search", "1 search"), (2, "decode", "2 decodes")]
)
def test_a_number_and_its_noun(n, noun, said):
    assert counted(n, noun) == said


@pytest.mark.parametrize(
    ("whole", "program"),
    [
        ([".venv/bin/python", "-m", "raysearch"], (".venv/bin/python", "-m", "raysearch")),
        (["python", "-u", "-m", "raysearch"], ("python", "-u", "-m", "raysearch")),
        (["/x/bin/python3", "/x/bin/raysearch"], ("/x/bin/raysearch",)),
    ],
)
def test_a_command_is_as_it_was_given(monkeypatch, whole, program):
    more = ["run", "c d.yaml", "seeds=[0, 1]"]
    monkeypatch.setattr(sys, "orig_argv", [*whole, *more])
    monkeypatch.setattr(sys, "argv", [whole[-1] if "-m" not in whole else "/x/raysearch/__main__.py", *more])
    given = Command.given(None)
    assert (tuple(given.program), tuple(given.arguments)) == (program, tuple(more))
    assert given.again("/a b").endswith(" run 'c d.yaml' 'seeds=[0, 1]' 'run_dir=/a b' resume=require")
    assert Command.given(["run", "c.yaml"]).report("r") == "raysearch report r"


def test_the_object_has_names_that_stay(tmp_path, capsys):
    """Other programs rely on these: a name may come, but none may go or change its meaning."""
    arms = [{"name": "single"}, {"name": "best", "policy": {"name": "best_of_n", "n": 2}}]
    s = ended(tmp_path / "run", bad={"b": "day"}, arms=arms, prompts=list("abc"))
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    s = parse((tmp_path / "run" / "status.json").read_bytes())
    assert found == json.loads(json.dumps(described(s, str(tmp_path / "run"))))
    assert list(found) == [
        *("schema_version", "run_dir", "run", "state", "reason", "at", "elapsed", "left", "searches", "best"),
        *("baseline", "arms", "cost", "failures", "unmade", "fleet"),
    ]
    assert (found["state"], found["run_dir"]) == ("finished", str(tmp_path / "run"))
    assert found["searches"] == {"n": 6, "done": 6, "failed": 2, "kept": 0, "unmade": 0}
    assert found["best"] == {"reward": s.best, "search": s.best_search}
    assert found["failures"] == [{"reason": "ValueError: a bad day", "n": 2, "first": "000001-s0-single"}]
    single, best = found["arms"]
    a = s.arms["best"]
    assert (single["name"], single["gain"], best["n"], best["done"], best["failed"]) == ("single", None, 3, 3, 1)
    assert best["gain"] == {"mean": a.gain, "interval": a.gain_interval, "pairs": 2}
    assert (best["judge"], best["means"], best["intervals"]) == (
        "quality",
        {"quality": a.means[0]},
        {"quality": a.intervals[0]},
    )
    assert found["cost"]["nfe"] == sum(arm["cost"]["nfe"] for arm in found["arms"]) > 0


def test_the_object_of_a_run_that_goes_on():
    arm = ArmStatus(4, 3, budget=2, gain=0.5, pairs=1)
    unmade = (Failure("a bad day", 3, "0"), Failure("a bad night", 1, "1"))
    s = Snapshot("r", "running", "", 0.0, 1.0, 5.0, 0.0, 0, {"a": arm}, None, unmade=unmade)
    found = described(s, "r")
    assert (found["left"], found["searches"]["unmade"], found["best"]["reward"]) == (5.0, 4, 0.0)
    assert (found["arms"][0]["at_budget"], found["arms"][0]["gain"]["pairs"]) == (2, 1)


def test_one_object_is_alone_on_standard_output(capsys):
    with display.one_object(True) as tell:
        print("a line")
        tell({"a": 1})
        print("another")
    out, err = capsys.readouterr()
    assert (out, err) == ('{"a": 1}\n', "a line\nanother\n")


def test_the_object_is_there_for_a_run_that_is_stopped_but_not_for_a_mistake(capsys):
    def command(told, error):
        with display.one_object(True) as tell:
            for each in told:
                tell(each)
            raise error

    with pytest.raises(KeyboardInterrupt):
        command([{"a": 2}], KeyboardInterrupt)
    assert capsys.readouterr() == ('{"a": 2}\n', "")
    with pytest.raises(ValueError, match="no"):
        command([], ValueError("no"))
    assert capsys.readouterr() == ("", "")


def test_without_the_option_nothing_is_redirected(capsys):
    with display.one_object(False) as tell:
        print("a line")
        tell({"a": 3})
    assert capsys.readouterr() == ("a line\n", "")
