"""Runs at s3:// against a real server whose uploads fail, are slow, or whose client is killed midway."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import answers, same
from s3 import files, s3

from raysearch.errors import ConfigError, StoreError
from raysearch.remote import segments
from raysearch.remote.lease import LEASE, Lease
from raysearch.remote.segments import Sealed, name_of, numbered
from raysearch.remote.store import Missing, Objects, Taken, opened, whole
from raysearch.session import journal

ROOT = Path(__file__).parents[2]
CONFIG = ["configs/mixture.yaml", f"seeds={list(range(24))}", "max_searches=3"]
FAKES, REAL = ["-m", "tests.fake_command"], ["-m", "raysearch"]
LONGER = ([], ["policy.n=24"])  # so that a segment is sealed in the middle of a real run, too
URL = "s3://bucket/run"


@pytest.fixture(scope="module")
def server():
    with s3() as proxy:
        yield proxy


@pytest.fixture
def store(server, monkeypatch):
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    yield opened(URL)
    server.fault = lambda method, path: None
    for name in opened(URL).list():
        opened(URL).delete(name)
    server.puts.clear()


def command(server, stage: Path, *more: str, by=FAKES, words=("run", *CONFIG)) -> subprocess.Popen:
    environ = os.environ | server.environ | {"OMP_NUM_THREADS": "1", "RAYSEARCH_CACHE": str(stage)}
    line = [sys.executable, *by, *words, *LONGER[by is REAL], f"run_dir={URL}", *more]
    return subprocess.Popen(line, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (out, err)
    return out, err


def rows(stage: Path) -> list[dict]:
    (table,) = stage.glob("stages/*/run/searches.parquet")
    return same(pq.read_table(table).to_pylist())


def undisturbed(path: Path, by) -> list[dict]:
    subprocess.run([sys.executable, *by, "run", *CONFIG, *LONGER[by is REAL], f"run_dir={path}"], cwd=ROOT, check=True)
    return same(pq.read_table(path / "searches.parquet").to_pylist())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("local") / "run", FAKES)


# -- what the store must keep to -------------------------------------------------------------------------------------


def test_the_servers_conditions_hold(store):
    tag = store.put_if(LEASE, b"a", None)
    with pytest.raises(Taken):
        store.put_if(LEASE, b"b", None)
    newer = store.put_if(LEASE, b"b", tag)
    with pytest.raises(Taken):
        store.put_if(LEASE, b"c", tag)
    assert store.tagged(LEASE) == (b"b", newer)
    assert store.conditional


def test_files_come_back_as_they_went(store, tmp_path):
    large = random.Random(0).randbytes(20 << 20)
    (tmp_path / "large").write_bytes(large)
    store.put("a/large", tmp_path / "large")
    store.put("a/b c", b"small")
    assert {n: e.size for n, e in store.list().items()} == {"a/large": len(large), "a/b c": 5}
    assert whole(store, "a/large") == large and whole(store, "a/b c") == b"small"
    store.delete("a/b c")
    store.delete("a/b c")
    with pytest.raises(Missing):
        whole(store, "a/b c")


@pytest.mark.parametrize("fault", ["fail", "cut", "lost"])
def test_a_request_that_fails_is_an_error_of_the_store(server, store, fault):
    server.fault = lambda method, path: fault if method == "PUT" else None
    with pytest.raises(StoreError) as raised:
        store.put("a", b"content")
    assert "\n" not in str(raised.value)


def test_a_segment_of_which_no_answer_came_is_not_written_twice(server, store):
    server.fault = lambda method, path: "lost" if method == "PUT" else None
    with pytest.raises(StoreError):
        segments.seal(store, Sealed(), b"a\n")
    server.fault = lambda method, path: None
    assert segments.seal(store, Sealed(), b"a\n").segments == 1
    assert server.puts.count(f"run/{name_of(1)}") == 1


def test_there_is_no_such_bucket(server, store, tmp_path):
    environ = os.environ | server.environ
    line = [sys.executable, "-m", "raysearch", "run", *CONFIG, "run_dir=s3://nosuch/run", f"stage={tmp_path}"]
    done = subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "raysearch: run_dir: 's3://nosuch/run' is not allowed; it must be a folder in a bucket"
    )
    assert done.stderr.count("\n") == 1


def test_a_lease_of_another_machine(store):
    Lease(store, "a", "host-a").claim(pytest.fail)
    with pytest.raises(ConfigError, match="host-a has its lease"):
        Lease(Objects(URL, "run_dir"), "b", "host-b").claim(pytest.fail)


# -- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_whose_uploads_fail_loses_nothing(server, store, tmp_path, expected):
    """A third of all writes fail in one way or another, and some are slow."""
    rng = random.Random(0)

    def fault(method, path):
        if method != "PUT" or rng.random() > 0.35:
            return None
        return rng.choice(["fail", "cut", "lost", 0.5])

    server.fault = fault
    ended(command(server, tmp_path / "a"))
    server.fault = lambda method, path: None
    assert rows(tmp_path / "a") == expected
    (stage,) = (tmp_path / "a").glob("stages/*/run")
    there = files(server.environ)
    on_stage = {str(f.relative_to(stage)): f.read_bytes() for f in stage.rglob("*") if f.is_file()}
    answers = on_stage.pop("journal/answers.jsonl")
    n = numbered(there)
    assert b"".join(segments.opened(there.pop(name_of(i)), i)[0] for i in range(1, n + 1)) == answers
    there.pop(LEASE)
    assert there == on_stage


def killed(server, stage: Path, when: int, how: int, by=FAKES) -> subprocess.Popen:
    """A run that is ended when it writes its `when`th segment."""
    process = command(server, stage, by=by)
    count = 0

    def fault(method, path):
        nonlocal count
        if method == "PUT" and segments.SEGMENTS in path:
            count += 1
            if count == when:
                process.send_signal(how)
        return None

    server.fault = fault
    process.communicate(timeout=300)
    server.fault = lambda method, path: None
    return process


@pytest.mark.parametrize(("by", "when"), [(FAKES, 1), (FAKES, 4), (REAL, 1)], ids=["early", "late", "real model"])
def test_a_run_that_was_killed_goes_on_on_another_machine(server, store, tmp_path, expected, by, when):
    whole_run = undisturbed(tmp_path / "whole", by) if by is REAL else expected
    process = killed(server, tmp_path / "a", when, signal.SIGKILL, by)
    assert process.returncode == -signal.SIGKILL
    before = files(server.environ)
    n = numbered(before)
    sealed = b"".join(segments.opened(before[name_of(i)], i)[0] for i in range(1, n + 1))
    store.delete(LEASE)  # else the next one waits for it to run out
    server.puts.clear()
    ended(command(server, tmp_path / "b", "resume=require", by=by))
    assert rows(tmp_path / "b") == whole_run
    after = files(server.environ)
    assert all(after[name_of(i)] == before[name_of(i)] for i in range(1, n + 1))
    (stage,) = (tmp_path / "b").glob("stages/*/run")
    assert (stage / "journal" / "answers.jsonl").read_bytes().startswith(sealed)
    asked = Counter(answers(stage))
    assert asked and max(asked.values()) == 1  # what was sealed was not asked again
    ends = [r["search_id"] for r in journal.read(stage / "journal") if r["kind"] == "search"]
    assert len(ends) == len(set(ends)) == len(whole_run)
    made = {p.removeprefix("run/") for p in server.puts if p.startswith("run/latents/")}
    there = {p for p in before if p.startswith("latents/")}
    records = [json.loads(line.partition(b" ")[2]) for line in sealed.splitlines()]
    finished = {f"latents/{r['search_id']}.safetensors" for r in records if r["kind"] == "search"}
    assert finished <= there  # what is sealed as finished has its files
    assert not finished & made and len(finished | made) == len(whole_run)  # which were not made again


def test_an_interrupted_run_sends_what_it_has(server, store, tmp_path, expected):
    process = killed(server, tmp_path / "a", 1, signal.SIGTERM)
    assert process.returncode == 130
    assert b'"expires": 0.0' in whole(store, LEASE)
    (stage,) = (tmp_path / "a").glob("stages/*/run")
    there, n = files(server.environ), numbered(files(server.environ))
    sealed = b"".join(segments.opened(there[name_of(i)], i)[0] for i in range(1, n + 1))
    assert sealed == (stage / "journal" / "answers.jsonl").read_bytes()
    ended(command(server, tmp_path / "b", "resume=require"))
    assert rows(tmp_path / "b") == expected


def test_a_store_that_takes_nothing_more_leaves_the_rest_on_the_stage(server, store, tmp_path, expected):
    """The run ends with exit code 1, and the same command sends what is left."""
    count = 0

    def fault(method, path):
        nonlocal count
        count += method == "PUT" and not path.endswith(LEASE)
        return "fail" if method == "PUT" and count > 4 and not path.endswith(LEASE) else None

    server.fault = fault
    _, err = ended(command(server, tmp_path / "a"), 1)
    (line,) = err.splitlines()
    assert "files are not in s3://bucket/run but in" in line and "run_dir=s3://bucket/run resume=require" in line
    server.fault = lambda method, path: None
    out, _ = ended(command(server, tmp_path / "a", "resume=require"))
    assert "24 are done already" in out
    assert sum(p.startswith("latents/") for p in files(server.environ)) == 24
    ended(command(server, tmp_path / "b", "resume=require"))
    assert rows(tmp_path / "b") == expected


def test_a_run_that_loses_its_lease_stops(server, store, tmp_path):
    process = command(server, tmp_path / "a", "policy.n=2000")

    def fault(method, path):
        if "segments" in path:
            server.fault = lambda method, path: None
            other = Objects(URL, "run_dir")
            other.put(LEASE, b'{"owner": "b", "host": "host-b", "expires": 1e12}')
        return None

    server.fault = fault
    _, err = ended(process, 1)
    (line,) = err.splitlines()
    assert line.startswith(
        "raysearch: run_dir: s3://bucket/run: a run on host-b has taken over its lease; this run has"
    )
    assert b"host-b" in whole(store, LEASE)


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (("sweep", "configs/sweep_quick.yaml", "seeds=[0]"), ("curves.parquet", "fits.parquet", "curves.png")),
        (("collect", "configs/collect.yaml", "seeds=[0]"), ("dataset/train-", "dataset/test-")),
    ],
    ids=["sweep", "collect"],
)
def test_a_sweep_and_a_collection_go_on_elsewhere_with_all_their_files(server, store, tmp_path, words, made):
    process = command(server, tmp_path / "a", words=words)
    while not any("segments/" in p for p in server.puts):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    ended(command(server, tmp_path / "b", "resume=require", words=words))
    run = [sys.executable, *FAKES, *words, f"run_dir={tmp_path / 'local'}"]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    there = {str(f.relative_to(tmp_path / "local")) for f in (tmp_path / "local").rglob("*") if f.is_file()}
    # A store has segments in place of the one journal. The driver remembers previews
    # until their search ends: a run that was killed before that does not look again, on disk as in a store.
    own = ("lock", LEASE, "journal/", "previews/")
    assert {n for n in store.list() if not n.startswith(own)} == {n for n in there if not n.startswith(own)}
    for start in made:
        assert any(n.startswith(start) for n in store.list()), start


def test_what_reads_a_url(server, store, tmp_path):
    env = os.environ | server.environ | {"RAYSEARCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    ended(command(server, tmp_path / "cache"))
    lines = [["status", URL], ["export", URL, "--to", "files", str(tmp_path / "out"), "--pattern", "{seed}.mp4"]]
    done = [
        subprocess.run([sys.executable, "-m", "raysearch", *line], cwd=ROOT, env=env, capture_output=True, text=True)
        for line in lines
    ]
    assert done[0].returncode == 0 and "finished" in done[0].stdout
    assert done[1].returncode == 2 and done[1].stdout.startswith(f"# {URL} is copied to ")  # it has no videos
