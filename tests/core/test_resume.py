"""Going on with a run that was killed: at any record of its journal, on another fleet, with budgets in seconds."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, GLIMPSES, answers, candidates, cut, run, same, session

from raysearch.engine.protocol import Call
from raysearch.errors import ConfigError, NoReplica, ReplicaDied
from raysearch.session import journal
from raysearch.testing import FakeFleet, run_virtual

ROOT = Path(__file__).parents[2]
BEAM = {"name": "beam", "policy": {"name": "beam", "every": 3, "k": 2, "n": 2}}
FEW = {"arms": [*ARMS[1:], BEAM], "prompts": ["a"]}


def scored(fleet: FakeFleet) -> int:
    return sum(c.name == "look" for r in fleet.replicas for c in r.calls)


@pytest.mark.parametrize("arms", [FEW["arms"], GLIMPSES], ids=["one reward", "two rewards"])
def test_killed_after_any_record_it_ends_as_if_nothing_had_been(tmp_path, arms):
    fleet, few = FakeFleet(2, 2), FEW | {"arms": arms}
    expected, _ = run(tmp_path / "whole", fleet, **few)
    asked = candidates(tmp_path / "whole")
    records = len(list(journal.read(tmp_path / "whole" / "journal")))
    every = {(reward, asked) for _, reward, asked in answers(tmp_path / "whole")}
    assert scored(fleet) == len(every)
    for k in range(records + 1):
        path = cut(tmp_path / "whole", tmp_path / str(k), k)
        known = {(reward, asked) for _, reward, asked in answers(path)}
        done = sum(r["kind"] == "search" for r in journal.read(path / "journal"))
        fleet = FakeFleet(2, 2)
        rows, progress = run(path, fleet, **few, resume="require")
        assert same(rows) == same(expected)
        assert candidates(path).equals(asked)
        assert scored(fleet) == len(every) - len(known)  # no recorded reward is asked again
        assert progress.kept == done
        assert Counter(answers(path)) == Counter(answers(tmp_path / "whole"))


def test_killed_at_any_byte_it_ends_as_if_nothing_had_been(tmp_path):
    """The tables stay as they were, ahead of the journal that was cut."""
    expected, _ = run(tmp_path / "whole", **FEW)
    asked = candidates(tmp_path / "whole")
    journaled = (tmp_path / "whole" / "journal" / "answers.jsonl").read_bytes()
    ends = [i for i, byte in enumerate(journaled) if byte == ord("\n")]
    for k in (0, *random.Random(0).sample(range(len(journaled)), 8), ends[-1], ends[-2]):
        path = tmp_path / str(k)
        shutil.copytree(tmp_path / "whole", path)
        (path / "journal" / "answers.jsonl").write_bytes(journaled[:k])
        rows, _ = run(path, **FEW, resume="require")
        assert same(rows) == same(expected)
        assert candidates(path).equals(asked)


def test_a_run_may_be_killed_again_and_again(tmp_path):
    expected, _ = run(tmp_path / "whole", **FEW)
    path = cut(tmp_path / "whole", tmp_path / "0", 2)
    for i in range(1, 6):
        rows, _ = run(path, **FEW, resume="require")
        path = cut(path, tmp_path / str(i), 2 + 2 * i)
    rows, _ = run(path, **FEW, resume="require")
    assert same(rows) == same(expected)


@pytest.mark.parametrize("kind", ["denoiser", "scorer", "encoder"])
def test_a_fleet_that_is_lost_fails_no_search(tmp_path, kind):
    """When the last replica of a kind is gone the run ends; what was not done is done when the run goes on."""
    expected, _ = run(tmp_path / "whole", **FEW)
    fleet, path = FakeFleet(2, 2), tmp_path / "run"
    calls = 0

    def gone(call: Call) -> Exception | None:
        nonlocal calls
        calls += 1
        return ReplicaDied("gone") if calls > {"denoiser": 20, "scorer": 20, "encoder": 1}[kind] else None

    for r in fleet.replicas:
        if r.kind == kind:
            r.fault, r.revives_after = gone, None
    with pytest.raises(NoReplica) as lost:
        run(path, fleet, **FEW, max_searches=2)
    line = str(lost.value)
    assert line.startswith(f"no {kind} is left ({kind}-")
    assert line.endswith(f"; to go on, give the same command again with run_dir={path} resume=require")
    rows = {r["search_id"]: r["status"] for r in pq.read_table(path / "searches.parquet").to_pylist()}
    assert "cancelled" in rows.values() and set(rows.values()) <= {"done", "cancelled"}
    found, progress = run(path, **FEW, max_searches=2, resume="require")
    assert same(found) == same(expected) and progress.kept == list(rows.values()).count("done")


def test_of_two_answers_to_a_question_the_first_stands(tmp_path):
    """On a file system without locks two runs may have written to one journal."""
    values = {"arms": [BEAM], "prompts": ["a"]}
    expected, _ = run(tmp_path / "whole", **values)
    records = [r for r in journal.read(tmp_path / "whole" / "journal") if r["kind"] == "answer"]
    path = cut(tmp_path / "whole", tmp_path / "run", 0)
    book = journal.Journal(path / "journal")
    for r in (*records, *(r | {"components": [[-c for c in row] for row in r["components"]]} for r in records)):
        book.add(r)
    book.close()
    rows, _ = run(path, **values, resume="require")
    assert same(rows) == same(expected)


TABLES = ("searches.parquet", "candidates.parquet")


@pytest.mark.parametrize("damage", ["missing", "torn", "behind", "another's"])
def test_tables_are_made_again_from_the_journal(tmp_path, damage):
    expected, _ = run(tmp_path / "run", **FEW)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in TABLES}
    for name in TABLES:
        file = tmp_path / "run" / name
        if damage == "missing":
            file.unlink()
        elif damage == "torn":
            file.write_bytes(before[name][:-20])
        elif damage == "behind":
            whole = pq.read_table(file)
            pq.write_table(whole.filter(pc.equal(whole["search_id"], "000000-s0-bon")), file)
        else:
            pq.write_table(pa.table({"mine": [1]}), file)
    fleet = FakeFleet()
    rows, progress = run(tmp_path / "run", fleet, **FEW, resume="require")
    assert rows == expected and progress.kept == progress.total and not any(r.calls for r in fleet.replicas)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in TABLES} == before


def test_tables_that_are_whole_are_not_written_again(tmp_path):
    run(tmp_path / "run", **FEW)
    written = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in TABLES}
    run(tmp_path / "run", **FEW, resume="require")
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in TABLES} == written


def test_a_table_that_is_deleted_while_a_run_goes_on_comes_back(tmp_path):
    expected, _ = run(tmp_path / "whole", **FEW)
    s = session(tmp_path / "run", **FEW)
    add = s.journal.add

    def losing(record):
        for name in TABLES if record["kind"] == "search" else ():
            (tmp_path / "run" / name).unlink(missing_ok=True)
        add(record)

    s.journal.add = losing
    run_virtual(s.run())
    assert same(pq.read_table(tmp_path / "run" / TABLES[0]).to_pylist()) == same(expected)
    assert pq.read_table(tmp_path / "run" / TABLES[1]).equals(pq.read_table(tmp_path / "whole" / TABLES[1]))


def test_a_search_that_is_run_again_takes_the_place_of_the_one_that_failed(tmp_path):
    def failing(after):
        fleet, scores = FakeFleet(), iter(range(10**6))
        fleet.replicas[1].fault = lambda call: ValueError("a bad day") if next(scores) >= after else None
        return fleet

    values = {"arms": [BEAM], "prompts": ["a"]}
    for after, resume in ((6, "never"), (0, "require")):  # after some scores; then at once, as some are recorded
        (row,), _ = run(tmp_path / "run", failing(after), **values, resume=resume)
        asked = len(answers(tmp_path / "run"))
        assert row["status"] == "failed"
        assert len(pq.read_table(tmp_path / "run" / TABLES[1])) == asked > 0
    (row,), _ = run(tmp_path / "run", **values, resume="require")
    expected, _ = run(tmp_path / "whole", **values)
    assert same([row]) == same(expected)
    assert candidates(tmp_path / "run").equals(candidates(tmp_path / "whole"))
    whole = pq.read_table(tmp_path / "run" / TABLES[1])
    (tmp_path / "run" / TABLES[1]).unlink()
    run(tmp_path / "run", **values, resume="require")
    assert pq.read_table(tmp_path / "run" / TABLES[1]).equals(whole)


def test_what_an_earlier_version_began_is_refused_in_one_line(tmp_path):
    run(tmp_path / "run", **FEW)
    file = tmp_path / "run" / "journal" / "content.json"
    content = json.loads(file.read_bytes())
    del content["the journal's records"]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="it must be a new folder: an earlier version of raysearch began this run"):
        session(tmp_path / "run", **FEW, resume="require")


def test_the_first_answer_stands(tmp_path):
    expected, _ = run(tmp_path / "whole", arms=ARMS[1:2], prompts=["a"])
    path = cut(tmp_path / "whole", tmp_path / "run", 1)
    (record,) = journal.read(path / "journal")
    best = record["components"].index(max(record["components"]))
    record["components"][best], record["components"][best - 1] = (
        record["components"][best - 1],
        record["components"][best],
    )
    (path / "journal" / "answers.jsonl").unlink()
    book = journal.Journal(path / "journal")
    book.add(record)
    book.close()
    rows, _ = run(path, arms=ARMS[1:2], prompts=["a"], resume="auto")
    assert rows[0]["winner"] == record["asked"][best - 1] != expected[0]["winner"]


@pytest.mark.parametrize("budget", [{"wall_seconds": 60}, {"replica_seconds": 20}, {"nfe": 90}])
def test_what_ended_at_its_budget_ends_there_again(tmp_path, budget):
    values = {"arms": [BEAM, ARMS[3]], "prompts": ["a"], "budget": budget}
    expected, _ = run(tmp_path / "whole", **values)
    assert {r["status"] for r in expected} == {"budget"}
    records = list(journal.read(tmp_path / "whole" / "journal"))
    for k in [i + 1 for i, r in enumerate(records) if r["kind"] == "exhausted"]:
        path = cut(tmp_path / "whole", tmp_path / str(k), k)
        rows, _ = run(path, FakeFleet(seconds={"denoiser": 0.01}), **values, resume="require")  # faster by far
        ended = {r["search"] for r in records[:k] if r["kind"] == "exhausted"}
        assert ended
        assert [r["winner"] for r in rows if r["search_id"] in ended] == [
            r["winner"] for r in expected if r["search_id"] in ended
        ]


def test_seconds_go_on_where_they_were(tmp_path):
    values = {"arms": [BEAM], "prompts": ["a"]}
    expected, _ = run(tmp_path / "whole", **values)
    (before,) = [r["wall"] for r in journal.read(tmp_path / "whole" / "journal") if r["kind"] == "answer"][-1:]
    assert before > 0
    path = cut(tmp_path / "whole", tmp_path / "run", len(list(journal.read(tmp_path / "whole" / "journal"))) - 1)
    rows, _ = run(path, **values, resume="require")
    assert rows[0]["wall_seconds"] > before
    assert rows[0]["nfe_spent"] > expected[0]["nfe_spent"]  # what was lost was made again, and counted


@pytest.mark.parametrize(
    ("resume", "line"),
    [
        ("sometimes", "resume: 'sometimes' is not allowed; it must be one of never, auto, require"),
        ("require", "a folder that holds a run of this config"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_and_leaves_nothing(tmp_path, resume, line):
    with pytest.raises(ConfigError, match=line):
        session(tmp_path / "run", resume=resume)
    assert not (tmp_path / "run").exists()


def test_never_keeps_what_is_there_and_another_config_is_refused(tmp_path):
    expected, _ = run(tmp_path / "run", **FEW)
    with pytest.raises(ConfigError, match="a new or empty folder"):
        session(tmp_path / "run", **FEW)
    with pytest.raises(ConfigError, match=r"this run has seeds=\[0\], and the config seeds=\[5\]"):
        session(tmp_path / "run", **FEW, seeds=[5], resume="auto")
    assert pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist() == expected


def test_a_caption_may_hold_what_yaml_takes_for_a_reference(tmp_path):
    given = {**FEW, "prompts": ["a ${foo} b"]}
    expected, _ = run(tmp_path / "run", **given)
    rows, progress = run(tmp_path / "run", **given, resume="require")
    assert same(rows) == same(expected) and progress.kept == len(rows)


def test_a_key_that_came_later_does_not_keep_a_run_from_going_on(tmp_path):
    run(tmp_path, **FEW)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("  truncate: false\n", "").replace("  variant: null\n", ""))
    assert "truncate" not in config.read_text()
    rows, progress = run(tmp_path, **FEW, resume="require")
    assert progress.kept == len(rows)
