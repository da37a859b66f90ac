"""Going on with a run that was killed: at any record of its journal, on another fleet, with budgets in seconds."""

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, answers, cut, run, same, session

from raysearch.errors import ConfigError
from raysearch.session import journal
from raysearch.testing import FakeFleet

ROOT = Path(__file__).parents[2]
BEAM = {"name": "beam", "policy": {"name": "beam", "every": 3, "k": 2, "n": 2}}
FEW = {"arms": [*ARMS[1:], BEAM], "prompts": ["a"]}


def scored(fleet: FakeFleet) -> int:
    return sum(c.method == "score" for r in fleet.replicas for c in r.calls)


def test_killed_after_any_record_it_ends_as_if_nothing_had_been(tmp_path):
    fleet = FakeFleet(2, 2)
    expected, _ = run(tmp_path / "whole", fleet, **FEW)
    candidates = pq.read_table(tmp_path / "whole" / "candidates.parquet")
    records = len(list(journal.read(tmp_path / "whole" / "journal")))
    every = {(reward, asked) for _, reward, asked in answers(tmp_path / "whole")}
    assert scored(fleet) == len(every)
    for k in range(records + 1):
        path = cut(tmp_path / "whole", tmp_path / str(k), k)
        known = {(reward, asked) for _, reward, asked in answers(path)}
        done = sum(r["kind"] == "search" for r in journal.read(path / "journal"))
        fleet = FakeFleet(2, 2)
        rows, progress = run(path, fleet, **FEW, resume="require")
        assert same(rows) == same(expected)
        assert pq.read_table(path / "candidates.parquet").equals(candidates)
        assert scored(fleet) == len(every) - len(known)  # no recorded reward is asked again
        assert progress.kept == done
        assert Counter(answers(path)) == Counter(answers(tmp_path / "whole"))


def test_a_run_may_be_killed_again_and_again(tmp_path):
    expected, _ = run(tmp_path / "whole", **FEW)
    path = cut(tmp_path / "whole", tmp_path / "0", 2)
    for i in range(1, 6):
        rows, _ = run(path, **FEW, resume="require")
        path = cut(path, tmp_path / str(i), 2 + 2 * i)
    rows, _ = run(path, **FEW, resume="require")
    assert same(rows) == same(expected)


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


def test_candidates_that_were_not_written_yet_come_back_from_the_answers(tmp_path):
    expected, _ = run(tmp_path / "run", **FEW)
    table = tmp_path / "run" / "candidates.parquet"
    whole = pq.read_table(table)
    pq.write_table(whole.filter(pc.equal(whole["search_id"], "000000-s0-bon")), table)
    fleet = FakeFleet()
    rows, progress = run(tmp_path / "run", fleet, **FEW, resume="require")
    assert rows == expected and progress.kept == progress.total and not scored(fleet)
    assert pq.read_table(table).equals(whole)


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
    with pytest.raises(ConfigError, match=r"seeds\.0=0, and now it is 5"):
        session(tmp_path / "run", **FEW, seeds=[5], resume="auto")
    assert pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist() == expected
