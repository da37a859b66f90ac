"""A run's stage and its store on fakes: killed and gone on with elsewhere, nothing sealed is done again."""

import asyncio
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, answers, config, cut, run, same, session
from stores import Clock, Memory, Wire

from raysearch.errors import ConfigError, StoreError
from raysearch.remote import command as remote
from raysearch.remote import segments
from raysearch.remote.command import copied, placed, status
from raysearch.remote.mirror import Mirror
from raysearch.remote.segments import Sealed, name_of, numbered
from raysearch.remote.stage import fetched, levelled, tried
from raysearch.remote.store import opened
from raysearch.session import journal
from raysearch.session.directory import chosen
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now

FEW = {"arms": ARMS[:3], "output": {"latents": True}}
ANSWERS = "journal/answers.jsonl"


def stored(path: Path, store: Memory, *, pieces: int = 1) -> Memory:
    """A store filled from a run's folder, its journal in several segments."""
    lines = [x for x in (path / ANSWERS).read_bytes().splitlines(keepends=True) if x.endswith(b"\n")]
    sealed, n = Sealed(), len(lines)
    for i in range(pieces):
        sealed = segments.seal(store, sealed, b"".join(lines[i * n // pieces : (i + 1) * n // pieces]))
    for file in path.rglob("*"):
        if file.is_file() and file != path / ANSWERS:
            store.put(str(file.relative_to(path)), file)
    return store


def scored(fleet: FakeFleet) -> int:
    return sum(c.name == "look" for r in fleet.replicas for c in r.calls)


def finished(fleet: FakeFleet) -> int:
    return sum(c.name == "finish" for r in fleet.replicas for c in r.calls)


def resumed(path: Path, store: Memory, said=lambda line: None):
    """A run that goes on from a store; its rows, and its fleet."""
    names = store.list()
    levelled(store, path, names, said)
    elsewhere = frozenset(n for n in names if not (path / n).is_file())
    fleet = FakeFleet(2, 2)
    values = config(**FEW, resume="require")
    run_virtual(Session(values, FakeBackend(fleet), run_dir=path, clock=virtual_now, elsewhere=elsewhere).run())
    return pq.read_table(path / "searches.parquet").to_pylist(), fleet


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_another_machine_goes_on_from_what_was_sealed(tmp_path, share):
    whole, fleet = tmp_path / "whole", FakeFleet(2, 2)
    expected, _ = run(whole, fleet, **FEW)
    records = list(journal.read(whole / "journal"))
    kept = int(share * len(records))
    path = cut(whole, tmp_path / "cut", kept, tables=True)
    every, known = ({(reward, asked) for _, reward, asked in answers(p)} for p in (whole, path))
    store, here = stored(path, Memory(), pieces=3), FakeFleet(2, 2)
    run(path, here, **FEW, resume="require")
    rows, again = resumed(tmp_path / "here", store)
    assert same(rows) == same(expected)
    assert finished(again) == finished(here)
    assert scored(again) == len(every) - len(known)  # no sealed reward is asked again


def test_files_that_the_store_has_are_not_made_again_and_others_are(tmp_path):
    expected, _ = run(tmp_path / "whole", **FEW)
    store = stored(tmp_path / "whole", Memory())
    first, second = (f"latents/{r['search_id']}.safetensors" for r in expected[:2])
    rows, fleet = resumed(tmp_path / "a", store)
    assert same(rows) == same(expected) and finished(fleet) == 0
    assert not (tmp_path / "a" / first).exists()
    store.delete(first)
    rows, fleet = resumed(tmp_path / "b", store)
    assert same(rows) == same(expected) and finished(fleet) == 1 and scored(fleet) == 0
    assert (tmp_path / "b" / first).exists() and not (tmp_path / "b" / second).exists()


def test_a_stage_that_has_all_that_was_sealed_is_kept(tmp_path):
    """It has records more, which no store knows."""
    run(tmp_path / "whole", **FEW)
    store = stored(tmp_path / "whole", Memory(), pieces=4)
    store.delete(name_of(4))
    before = {p: p.stat().st_ino for p in (tmp_path / "whole").rglob("*")}
    sealed = levelled(store, tmp_path / "whole", store.list(), pytest.fail)
    assert sealed.segments == 3 and sealed.end < (tmp_path / "whole" / ANSWERS).stat().st_size
    assert {p: p.stat().st_ino for p in (tmp_path / "whole").rglob("*")} == before
    mirror = Mirror(store, tmp_path / "whole", sealed, store.list(), Wire(Clock()).submit, pytest.fail)
    assert mirror.finish(None)
    assert numbered(store.files) == 4
    assert sum(call == "put" and name.startswith("latents") for call, name in store.calls) == len(
        list((tmp_path / "whole" / "latents").iterdir())
    )  # by `stored` alone


@pytest.mark.parametrize("change", ["behind", "another way", "nothing"])
def test_a_stage_that_lacks_what_was_sealed_is_made_again(tmp_path, change):
    expected, _ = run(tmp_path / "whole", **FEW)
    store, path, said = stored(tmp_path / "whole", Memory(), pieces=2), tmp_path / "stage", []
    if change != "nothing":
        shutil.copytree(tmp_path / "whole", path)
        content = (path / ANSWERS).read_bytes()
        (path / ANSWERS).write_bytes(
            content[: len(content) // 2] if change == "behind" else content.replace(b"1", b"2")
        )
        (path / "videos" / "old.mp4").write_bytes(b"x")
    sealed = levelled(store, path, store.list(), said.append)
    assert (path / ANSWERS).read_bytes() == (tmp_path / "whole" / ANSWERS).read_bytes()
    assert sealed.segments == 2 and sealed.end == (path / ANSWERS).stat().st_size
    assert not (path / "videos").exists() and not (path / "latents").exists()
    aside = path.with_name("stage.old")
    line = f"{path} lacks what the store has, and is made again from it; what it held is in {aside}"
    assert said == ([] if change == "nothing" else [line])
    assert change == "nothing" or (aside / "videos" / "old.mp4").read_bytes() == b"x"
    rows, _ = resumed(path, store)
    assert same(rows) == same(expected)


def test_a_download_that_ended_midway_is_begun_again(tmp_path):
    run(tmp_path / "whole", **FEW)
    store = stored(tmp_path / "whole", Memory(), pieces=2)
    reads = 0

    def fault(call, name):
        nonlocal reads
        reads += call == "read"
        if reads == 4:
            raise KeyboardInterrupt

    store.fault = fault
    with pytest.raises(KeyboardInterrupt):
        levelled(store, tmp_path / "here", store.list(), pytest.fail)
    store.fault = lambda call, name: None
    assert levelled(store, tmp_path / "here", store.list(), lambda line: None).segments == 2


@pytest.mark.parametrize("damage", [lambda c: c[:-3], lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c[5:]])
def test_a_torn_last_segment_is_left_out(tmp_path, damage):
    run(tmp_path / "whole", **FEW)
    store, said = stored(tmp_path / "whole", Memory(), pieces=3), []
    store.put(name_of(3), damage(store.content(name_of(3))))
    sealed = levelled(store, tmp_path / "here", store.list(), said.append)
    assert sealed.segments == 2 and name_of(3) not in store.files
    assert said == ["segment 3 of the journal is torn, and is left out: what it held is done again"]
    assert (tmp_path / "whole" / ANSWERS).read_bytes().startswith((tmp_path / "here" / ANSWERS).read_bytes())


@pytest.mark.parametrize("damage", ["torn", "missing", "swapped"])
def test_a_hole_in_the_journal_is_refused(tmp_path, damage):
    run(tmp_path / "whole", **FEW)
    store = stored(tmp_path / "whole", Memory(), pieces=3)
    if damage == "missing":
        store.delete(name_of(2))
    else:
        store.put(name_of(2), store.content(name_of(2))[3:] if damage == "torn" else store.content(name_of(1)))
    with pytest.raises(ConfigError, match=r"000002.jsonl is torn or missing"):
        levelled(store, tmp_path / "here", store.list(), pytest.fail)


def test_a_segment_is_known_by_its_number_and_by_what_came_before(tmp_path):
    store, other = Memory(), Memory()
    segments.seal(store, segments.seal(store, Sealed(), b"a\n"), b"b\n")
    segments.seal(other, segments.seal(other, Sealed(), b"x\n"), b"b\n")
    assert segments.opened(store.content(name_of(2)), 2)[:2] == (b"b\n", 4)
    assert segments.opened(store.content(name_of(2)), 1) is None
    store.put("config.yaml", b"a: 1")
    store.put(name_of(1), other.content(name_of(1)))  # of another journal, as long as this one's
    with pytest.raises(ConfigError, match="whose journal is whole: journal/segments/000002"):
        levelled(store, tmp_path / "here", store.list(), pytest.fail)


def test_no_file_of_a_store_lands_outside_the_stage(tmp_path):
    run(tmp_path / "whole", **FEW)
    store = stored(tmp_path / "whole", Memory())
    store.put("../outside", b"x")
    with pytest.raises(ConfigError, match="is no file's name"):
        levelled(store, tmp_path / "stage" / "here", store.list(), pytest.fail)
    assert not (tmp_path / "stage" / "outside").exists()


def test_a_call_that_fails_is_tried_again():
    waited, left = [], [StoreError("a"), StoreError("b")]

    def call():
        if left:
            raise left.pop()
        return 3

    assert tried(call, pause=waited.append) == 3 and waited == [1, 2]
    left = [StoreError("a")] * 9
    with pytest.raises(StoreError):
        tried(call, pause=waited.append)


# -- runs at a URL, through fsspec's store in memory -----------------------------------------------------------------


@pytest.fixture
def memory():
    yield fsspec.filesystem("memory")
    fsspec.filesystem("memory").store.clear()


def at(stage: Path, **values):
    return config(**FEW, run_dir="memory://bucket/run", stage=str(stage), **values)


def searched(stage: Path, work=None, **values):
    """A run at a URL; its lines and its rows."""
    said, values = [], at(stage, **values)
    with placed(values, "run", said.append) as place:
        s = Session(values, FakeBackend(), run_dir=place.path, clock=virtual_now, elsewhere=place.elsewhere)
        run_virtual(place.guarded(work(s, place) if work else s.run([])))
        rows = pq.read_table(place.path / "searches.parquet").to_pylist()
    return said, rows


def test_a_run_at_a_url_goes_up_and_can_be_read_anywhere(tmp_path, memory, monkeypatch):
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "cache"))
    expected, _ = run(tmp_path / "whole", **FEW)
    said, rows = searched(tmp_path / "a")
    assert same(rows) == same(expected)
    assert len(said) == 1 and said[0].endswith("no conditional writes: start a run on one machine alone")
    snapshot = status("memory://bucket/run")
    assert (snapshot.run, snapshot.state, snapshot.done) == ("run", "finished", len(rows))
    copy = copied("memory://bucket/run", said.append)
    for file in (f for f in (tmp_path / "a").rglob("run/**/*") if f.is_file()):
        assert (copy / file.relative_to(next((tmp_path / "a").glob("*/run")))).read_bytes() == file.read_bytes()
    assert "stage: " in (copy / "config.yaml").read_text()
    _, rows = searched(tmp_path / "b", resume="require")
    assert same(rows) == same(expected)


def test_a_copy_is_brought_up_to_date(tmp_path):
    run(tmp_path / "whole", **FEW)
    store, copy = stored(tmp_path / "whole", Memory()), tmp_path / "copy" / "run"
    (latents, *others) = sorted(n for n in store.files if n.startswith("latents/"))
    fetched(store, copy, store.list())
    store.calls.clear()
    store.put(latents, b"x" * len(store.content(latents)))  # made again, of the same size
    store.delete(others[0])
    store.delete("fits.parquet")
    fetched(store, copy, store.list())
    assert (copy / latents).read_bytes() == store.content(latents) and not (copy / others[0]).exists()
    assert [n for call, n in store.calls if call == "read" and n.startswith("latents/")] == [latents]
    (copy.parent / "run.copied.json").write_text("[")
    (copy / others[1]).write_bytes(b"damaged")
    fetched(store, copy, store.list())
    assert (copy / others[1]).read_bytes() == store.content(others[1])


def test_a_copy_may_have_any_name(tmp_path):
    run(tmp_path / "whole", **FEW)
    store, copy = stored(tmp_path / "whole", Memory()), tmp_path / "copy" / "copied.json"
    for _ in range(2):
        store.calls.clear()
        fetched(store, copy, store.list())
    assert not [n for call, n in store.calls if call == "read" and n.startswith("latents/")]


def test_a_copy_deletes_nothing_beside_itself(tmp_path):
    run(tmp_path / "whole", **FEW)
    store, copy = stored(tmp_path / "whole", Memory()), tmp_path / "copy" / "run"
    fetched(store, copy, store.list())
    (tmp_path / "copy" / "mine").write_text("kept")
    (copy.parent / "run.copied.json").write_text('{"../mine": "1"}')
    fetched(store, copy, store.list())
    assert (tmp_path / "copy" / "mine").read_text() == "kept"


def test_a_store_that_fails_at_the_start_ends_no_run_that_goes_on(tmp_path, monkeypatch):
    run(tmp_path / "whole", **FEW)
    store, waited = stored(tmp_path / "whole", Memory()), []
    left = ["fail"] * 2
    store.fault = lambda call, name: left.pop() if left and call == "list" else None
    monkeypatch.setattr(remote, "opened", lambda url: store)
    monkeypatch.setattr(remote, "tried", lambda call: tried(call, pause=waited.append))
    with placed(at(tmp_path / "a", resume="require"), "run", lambda line: None) as place:
        assert (place.path / "config.yaml").is_file()
    assert waited == [1, 2]
    left = ["fail"]
    with (
        pytest.raises(ConfigError, match=r"a folder in a store that can be reached, .* \(503 slow down\)"),
        placed(at(tmp_path / "b"), "run", pytest.fail),
    ):
        pass


def test_a_run_that_was_killed_is_shown_as_killed(tmp_path, memory):
    searched(tmp_path / "a")
    ended = status("memory://bucket/run")
    fewer = {name: replace(a, done=0) for name, a in ended.arms.items()}
    memory.pipe_file("/bucket/run/status.json", replace(ended, state="running", left=3.0, arms=fewer).json())
    assert (status("memory://bucket/run").state, status("memory://bucket/run").left) == ("killed", None)
    lease = {"owner": "b", "host": "host-b", "expires": time.time() + 60}
    memory.pipe_file("/bucket/run/lease.json", json.dumps(lease).encode())
    assert status("memory://bucket/run").state == "running"
    memory.rm("/bucket/run/lease.json")
    memory.pipe_file("/bucket/run/status.json", replace(ended, state="running").json())
    assert status("memory://bucket/run").state == "finished"  # it died after its last search


def test_a_run_whose_lease_is_lost_stops_with_one_line(tmp_path, memory):
    async def work(s, place):
        s.journal.close()
        place.end("a run on host-b has taken over its lease")
        await asyncio.sleep(3600)

    with pytest.raises(StoreError, match=r"^run_dir: memory://bucket/run: a run on host-b has taken over its lease; "):
        searched(tmp_path / "a", work)
    lease = memory.cat_file("/bucket/run/lease.json")
    assert b'"expires": 0.0' in lease


def test_a_run_that_has_to_end_for_two_reasons_writes_what_it_has(tmp_path, memory):
    """The lease's thread finds that it is lost, and then the mirror's thread, while the run is ending."""
    written = []

    async def work(s, place):
        s.journal.close()
        place.end("a run on host-b has taken over its lease")
        try:
            await asyncio.sleep(3600)
        finally:
            place.end("the mirror has failed")
            await asyncio.sleep(1)
            written.append("all")

    with pytest.raises(StoreError, match="host-b has taken over its lease"):
        searched(tmp_path / "a", work)
    assert written == ["all"]


@pytest.mark.parametrize("name", ["lease", "owner", "run.lease"])
def test_a_url_may_end_in_any_name(tmp_path, memory, name):
    values = config(**FEW, run_dir=f"memory://bucket/{name}", stage=str(tmp_path / "a"))
    with placed(values, "run", lambda line: None) as place:
        assert list(place.path.parent.iterdir()) == [place.path.with_name(f"{name}.lease")]


def test_a_cancelled_run_sends_what_it_has(tmp_path, memory):
    async def work(s, place):
        asyncio.get_running_loop().call_later(2.5, asyncio.current_task().cancel)
        await s.run([])

    with pytest.raises(asyncio.CancelledError):
        searched(tmp_path / "a", work)
    assert memory.exists("/bucket/run/config.yaml")
    _, rows = searched(tmp_path / "b", resume="require")
    assert rows


def test_lines_name_the_url_and_not_the_stage(tmp_path, memory):
    searched(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"^run_dir: 'memory://bucket/run' is not allowed; it must be a new or empty"):
        searched(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"^run_dir: 'memory://bucket/run' is not allowed; .*this run has seeds"):
        searched(tmp_path / "a", resume="auto", seeds=[3])
    memory.rm("/bucket", recursive=True)
    with pytest.raises(
        ConfigError, match=r"it must be one with a new stage: .* holds files of a run that the store lac"
    ):
        searched(tmp_path / "a")
    searched(tmp_path / "a", resume="auto")
    assert memory.exists("/bucket/run/config.yaml") and memory.exists("/bucket/run/journal/segments/000001.jsonl")
    with (
        pytest.raises(ConfigError, match=r"^run_dir: 'memory://bucket/other' is not allowed; it must be a folder that"),
        placed(config(run_dir="memory://bucket/other", stage=str(tmp_path), resume="require"), "x", print) as place,
    ):
        session(place.path, resume="require")
    assert not memory.exists("/bucket/other/lease.json")


def test_two_runs_on_one_machine_do_not_share_a_stage(tmp_path, memory):
    with placed(at(tmp_path / "a"), "run", print):
        with pytest.raises(ConfigError, match=r"^run_dir: 'memory://bucket/run' .* no other run is writing to now"):
            searched(tmp_path / "a", resume="auto")
        with pytest.raises(ConfigError, match=r"^run_dir: 'memory://bucket/run' .* has its lease for"):
            searched(tmp_path / "b")
    assert not list((tmp_path / "a").iterdir())


def test_a_file_url_is_a_path(tmp_path):
    with placed(config(run_dir=f"file://{tmp_path}/a%20b"), "run", pytest.fail) as place:
        assert place.path == tmp_path / "a b"


def test_a_training_has_its_folder_on_this_machine():
    with pytest.raises(ConfigError, match="it must be the path of a folder: URLs are for `run`, `sweep` and `collect`"):
        chosen("s3://bucket/run", "never", "x")


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"whose library is installed: pip install -e '\.\[remote\]'"):
        opened("gs://bucket/run")
