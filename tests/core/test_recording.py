"""What a run leaves of its own course: each item in trace.parquet, snapshots in timeline.parquet, and the version."""

import json
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, session, unlucky

from raysearch.errors import FolderError
from raysearch.files import Folder
from raysearch.session.recording import BATCH, Log, Recording
from raysearch.session.snapshot import parse
from raysearch.testing import FakeBackend, FakeFleet, run_virtual


def recorded(path, fleet=None, **values):
    """The items and the snapshots of a run on fakes, and its progress."""
    s = session(path, FakeBackend(fleet or FakeFleet()), **values)
    progress = run_virtual(s.run([]))
    return *(pq.read_table(path / f"{name}.parquet").to_pylist() for name in ("trace", "timeline")), progress


def test_each_item_is_a_row_of_the_trace(tmp_path):
    fleet = FakeFleet(seconds={"denoiser": 2.0, "scorer": 0.5, "encoder": 0.25})
    trace, _, progress = recorded(
        tmp_path / "run", fleet, prompts=["a"], arms=[{"name": "best", "policy": {"name": "best_of_n", "n": 2}}]
    )
    assert len(trace) == sum(len(r.calls) for r in fleet.replicas)
    rows = {what: [r for r in trace if r["what"] == what] for what in ("encode", "denoise", "look", "finish")}
    assert {what: len(found) for what, found in rows.items()} == {"encode": 2, "denoise": 2, "look": 2, "finish": 1}
    assert sum(r["nfe"] for r in trace) == progress.engine.nfe
    for r in rows["denoise"]:
        assert (r["kind"], r["evaluations"], r["seconds"], r["nbytes"]) == ("denoiser", 10, 20.0, 1000)
        assert r["end"] - r["start"] == pytest.approx(20.0)
    assert [r["decodes"] for r in rows["look"]] == [1, 1] and rows["finish"][0]["seconds"] == 0.5
    first, second = sorted(rows["denoise"], key=lambda r: r["start"])
    assert first["waited"] == 0.0 and second["waited"] == pytest.approx(20.0)  # the only slot was taken
    assert {(r["session"], r["search"], r["ended"], r["slots"]) for r in trace} == {(0, 0, "done", 1)}


def test_items_that_failed_are_rows_too(tmp_path):
    fleet = unlucky(FakeFleet(2, 2))
    trace, timeline, progress = recorded(tmp_path / "run", fleet, arms=ARMS)
    ended = [r["ended"] for r in trace]
    assert set(ended) == {"done", "lost", "died"}
    assert ended.count("died") >= progress.dispatcher.tally.deaths == timeline[-1]["restarts"] > 0
    assert all((r["seconds"] is None) == (r["ended"] != "done" or r["what"] == "encode") for r in trace)
    assert max(r["slots"] for r in trace) == 2


def test_the_timeline_has_a_row_each_ten_seconds_and_one_at_the_end(tmp_path):
    _, timeline, progress = recorded(tmp_path / "run", FakeFleet(2), prompts=["a", "b", "c"])
    elapsed = [r["elapsed"] for r in timeline if r["nfe_run"] is not None]
    assert [b - a for a, b in pairwise(elapsed[:-1])] == [10.0] * (len(elapsed) - 2)
    assert [r["done"] for r in timeline] == sorted(r["done"] for r in timeline)
    last = timeline[-1]
    assert (last["total"], last["done"], last["failed"], last["best"]) == (3, 3, 0, progress.best)
    assert (last["nfe_run"], last["slots_denoiser"], last["slots_scorer"]) == (progress.engine.nfe, 2, 1)
    assert (timeline[0]["nfe_run"], timeline[0]["elapsed"]) == (None, None)  # the fleet was not up


def test_a_resumed_run_goes_on_with_both_files(tmp_path):
    first, before, _ = recorded(tmp_path / "run", prompts=["a"])
    again, after, _ = recorded(tmp_path / "run", prompts=["a", "b"], resume="extend")
    assert again[: len(first)] == first and {r["session"] for r in again[len(first) :]} == {1}
    assert after[: len(before)] == before and {r["session"] for r in after[len(before) :]} == {1}


def test_a_finished_run_that_is_asked_for_again_changes_nothing(tmp_path):
    recorded(tmp_path / "run", prompts=["a"])
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    recorded(tmp_path / "run", prompts=["a"], resume="auto")
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before


def test_every_file_says_its_version(tmp_path):
    recorded(tmp_path / "run", prompts=["a"])
    files = sorted((tmp_path / "run").glob("*.parquet"))
    assert [f.stem for f in files] == ["candidates", "searches", "timeline", "trace"]
    assert {pq.read_schema(f).metadata[b"schema_version"] for f in files} == {b"1"}
    status = json.loads((tmp_path / "run" / "status.json").read_bytes())
    assert status["schema_version"] == 1 and parse(json.dumps(status).encode())
    assert parse(json.dumps(status | {"schema_version": 2}).encode()) is None


# -- the log of rows -------------------------------------------------------------------------------------------------

COLUMNS = pa.schema({"session": pa.int32(), "x": pa.int64()})


def log(folder, said, clock=lambda: 0.0):
    return Log(Folder(folder), "x.parquet", COLUMNS, said.append, clock)


def held(folder):
    return [(r["session"], r["x"]) for r in pq.read_table(folder / "x.parquet").to_pylist()]


def test_a_log_without_rows_writes_no_file(tmp_path):
    log(tmp_path, []).close()
    assert list(tmp_path.iterdir()) == []


def test_rows_are_on_disk_half_a_minute_later(tmp_path):
    now = 0.0
    rows = log(tmp_path, [], lambda: now)
    rows.add({"x": 1})
    assert not (tmp_path / "x.parquet").exists()
    now = 31.0
    rows.add({"x": 2})
    rows._writing.result()
    assert held(tmp_path) == [(0, 1), (0, 2)]
    rows.add({"x": 3})
    rows.close()
    assert held(tmp_path) == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("damage", ["torn", "other columns"])
def test_a_file_that_is_no_log_is_kept_beside(tmp_path, damage):
    file = tmp_path / "x.parquet"
    if damage == "torn":
        file.write_bytes(b"PAR1")
    else:
        pq.write_table(pa.table({"y": [1]}), file)
    before = file.read_bytes()
    rows = log(tmp_path, [])
    rows.add({"x": 1})
    rows.close()
    assert held(tmp_path) == [(0, 1)] and (tmp_path / "x.parquet.old").read_bytes() == before


def test_a_disk_that_refuses_is_told_once_and_rows_do_not_pile_up(tmp_path, monkeypatch):
    def full(folder, name, rows, group):
        raise FolderError("no room")

    monkeypatch.setattr("raysearch.session.recording.write_table", full)
    said, now = [], 31.0
    rows = log(tmp_path, said, lambda: now)
    for _ in range(3):
        now += 60
        rows.add({"x": 1})
        rows._writing.result()
    rows.close()
    assert said == ["x.parquet is not written any more: no room"] and rows._rows == []


def test_what_was_kept_beside_before_stays(tmp_path):
    for torn in (b"PAR1", b"PAR1 again"):
        (tmp_path / "x.parquet").write_bytes(torn)
        log(tmp_path, []).close()
    assert (tmp_path / "x.parquet.old").read_bytes() == b"PAR1"
    assert (tmp_path / "x.parquet.old1").read_bytes() == b"PAR1 again"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_file_that_the_disk_does_not_give_stays_where_it_is(tmp_path, monkeypatch, at_once):
    first = log(tmp_path, [])
    first.add({"x": 1})
    first.close()
    said, read, failing = [], Path.read_bytes, at_once

    def read_bytes(path):
        if failing:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    rows, failing = log(tmp_path, said), True
    rows.add({"x": 2})
    rows.close()
    failing = False
    assert held(tmp_path) == [(0, 1)] and len(list(tmp_path.iterdir())) == 1
    assert said == ["x.parquet is not written any more: [Errno 5] Input/output error"]


def test_both_files_of_a_run_count_the_same_sessions(tmp_path):
    recorded(tmp_path / "run", prompts=["a"])
    (tmp_path / "run" / "timeline.parquet").unlink()
    both = Recording(Folder(tmp_path / "run"), [].append)
    assert both._timeline.session == both._trace.session == 1
    both.close()


def test_no_second_write_begins_before_the_first_is_done(tmp_path):
    now = 31.0
    rows = log(tmp_path, [], lambda: now)
    now = 62.0
    busy = rows._writing = Future()
    rows.add({"x": 1})
    assert rows._writing is busy and len(rows._rows) == 1
    busy.set_result(None)
    rows.add({"x": 2})
    rows._writing.result()
    rows.close()
    assert held(tmp_path) == [(0, 1), (0, 2)]


def test_rows_that_wait_are_packed(tmp_path):
    rows = log(tmp_path, [])
    for x in range(BATCH):
        rows.add({"x": x})
    assert rows._rows == [] and [t.num_rows for t in rows._waiting] == [BATCH]
    rows.close()
