"""A run's searches in the real trackers, offline and in a folder of the test's: what was told is read back."""

import json
import os
import struct
from importlib.machinery import ModuleSpec
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import config, run, session

from raysearch.config.track import TrackConfig
from raysearch.errors import ConfigError, RaysearchError
from raysearch.export import command, libraries, trackers
from raysearch.session import journal
from raysearch.testing import run_virtual

ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "bon+4", "policy": {"name": "best_of_n", "n": 4}},
]
GIF = (b"GIF89a", b"GIF87a")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """Where Trackio writes: it reads its variable once, when it is imported."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture(autouse=True)
def offline(tmp_path, places, monkeypatch):
    """No network, no home: a home is given in which nothing may be found afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    own = {"WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own |= {f"WANDB_{k}_DIR": str(tmp_path / "wandb" / k.lower()) for k in ("CACHE", "CONFIG", "DATA")}
    own |= {"HOME": str(home), "TRACKIO_DIR": str(places)}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    yield
    assert not [p for p in home.rglob("*") if p.is_file()]


def track(to: str, tmp_path: Path, **more) -> TrackConfig:
    where = {"wandb": {"dir": str(tmp_path / "wandb")}, "mlflow": {"url": f"file://{tmp_path / 'mlruns'}"}}
    return TrackConfig(to, **({"project": tmp_path.name} | where.get(to, {}) | more))


def clip(path: Path) -> None:
    """A video of five frames, 640 x 320, the first of which is red."""
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 640, 320, "yuv420p"
        for i in range(5):
            frame = np.zeros((320, 640, 3), np.uint8)
            frame[..., min(i, 2)] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def finished(run_dir: Path, **values) -> Path:
    """A run whose videos are real ones."""
    run(run_dir, arms=ARMS, **values)
    for file in (run_dir / "videos").iterdir():
        clip(file)
    return run_dir


# -- what a tracker was told: (step, numbers) in order, the number of videos, the rows of the latest table ------------


def read_wandb(tmp_path: Path, run_dir: Path):
    from wandb.proto import wandb_internal_pb2

    steps, media, tables = [], [], []
    for file in sorted((tmp_path / "wandb" / "wandb").glob("*offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                media += [k for k, v in items.items() if k.startswith("videos/") and v == "video-file"]
                tables += [v for k, v in items.items() if k == "searches/nrows"]
                steps.append((items["_step"], numbers_in(items)))
    return steps, len(media), tables[-1]


def numbers_in(items):
    return {k: v for k, v in items.items() if k.rpartition("/")[2] in trackers.MEANS}


def records(data: bytes):
    """The records in a file of LevelDB's log format, which begins with seven bytes of W&B's own."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its end
            yield whole
            whole = b""


def read_tensorboard(tmp_path: Path, run_dir: Path):
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    steps, images, rows = [], [], 0
    for file in sorted((run_dir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        for event in LegacyEventFileLoader(str(file)).Load():
            values = event.summary.value
            if numbers := {v.tag: v.simple_value for v in values if v.HasField("simple_value")}:
                steps.append((event.step, numbers))
            images += [v.image for v in values if v.HasField("image")]
            texts = [v.tensor.string_val[0].decode() for v in values if v.HasField("tensor")]
            rows = texts[-1].count("\n") - 1 if texts else rows
    for image in images:
        assert image.encoded_image_string[:6] in GIF and (image.width, image.height) == (320, 160)
    return steps, len(images), rows


def read_mlflow(tmp_path: Path, run_dir: Path):
    import mlflow

    client = mlflow.MlflowClient(f"file://{tmp_path / 'mlruns'}")
    experiment = client.get_experiment_by_name(tmp_path.name)
    (one,) = client.search_runs([experiment.experiment_id])
    assert (one.info.run_name, one.info.status) == (run_dir.name, "FINISHED")
    found: dict[int, dict[str, float]] = {}
    for name in one.data.metrics:
        for m in client.get_metric_history(one.info.run_id, name):
            found.setdefault(m.step, {})[name.replace("bon_4", "bon+4")] = m.value
    videos = client.list_artifacts(one.info.run_id, "videos")
    table = next((tmp_path / "mlruns").rglob("artifacts/searches.parquet"))
    return sorted(found.items()), len(videos), pq.read_metadata(table).num_rows


def read_trackio(tmp_path: Path, run_dir: Path):
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs(tmp_path.name)
    steps, media, rows = [], 0, 0
    for log in SQLiteStorage.get_logs(tmp_path.name, name):
        media += sum(isinstance(v, dict) and v["_type"] == "trackio.video" for v in log.values())
        if "searches" in log:
            rows = len(log["searches"]["_value"])
        else:
            steps.append((log["step"], numbers_in(log)))
    return steps, media, rows


READ = {"wandb": read_wandb, "tensorboard": read_tensorboard, "mlflow": read_mlflow, "trackio": read_trackio}


def expected(rows):
    """The means over the searches of an arm after each search, by another way than the trackers'."""
    found = []
    for i, r in enumerate(rows, 1):
        of_arm = [q for q in rows[:i] if q["arm"] == r["arm"]]
        columns = {"nfe": "nfe", "holdout": "reward_holdout", "reward": "reward_search"}
        values = {k: [q[c] for q in of_arm if q[c] is not None] for k, c in columns.items()}
        found.append((i, {f"{r['arm']}/{k}": float(np.mean(v)) for k, v in values.items() if v}))
    return found


@pytest.mark.parametrize("to", READ)
def test_searches_are_told_once_and_new_ones_go_on_in_the_same_run(tmp_path, to):
    run_dir = finished(tmp_path / "run")
    assert trackers.export(run_dir, track(to, tmp_path)) == 4
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    for again in (0, 4):
        steps, videos, table = READ[to](tmp_path, run_dir)
        assert (len(steps), videos, table) == (len(rows), len(rows), len(rows))
        for (step, numbers), (at, means) in zip(steps, expected(rows), strict=True):
            assert step == at and "replica_seconds" in " ".join(numbers)
            assert {k: numbers[k] for k in means} == pytest.approx(means)
        for folder in (tmp_path / "wandb" / "wandb").glob("offline-run-*"):
            folder.rename(folder.with_name(f"first-{folder.name}"))  # named by the second, in which others may begin
        if not again:
            assert trackers.export(run_dir, track(to, tmp_path)) == 0
            continue
        finished(run_dir, resume="extend", seeds=[0, 1])
        assert trackers.export(run_dir, track(to, tmp_path)) == 4
        told = [r["search_id"] for r in rows]
        rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
        rows = sorted(rows, key=lambda r: r["search_id"] not in told)  # stable: the new ones come after
        steps, videos, table = READ[to](tmp_path, run_dir)
        assert [s for s, _ in steps] == list(range(1, 9)) and (videos, table) == (8, 8)
        assert steps[-1][1] == pytest.approx(steps[-1][1] | expected(rows)[-1][1])


def test_another_project_is_told_everything(tmp_path):
    run_dir = finished(tmp_path / "run")
    for name in ("one", "two"):
        where = track("tensorboard", tmp_path, dir=str(tmp_path / name), videos=False)
        assert [trackers.export(run_dir, where) for _ in range(2)] == [4, 0]
        assert len(list((tmp_path / name).iterdir())) == 1


def test_a_run_tells_its_tracker_while_it_goes_on(tmp_path):
    where = {"to": "tensorboard", "videos": False}
    values = {"arms": ARMS, "track": where, "seeds": [0, 1, 2]}
    sinks = trackers.sinks(config(**values), tmp_path / "run")
    seen = []

    def look(snapshot):
        folder = tmp_path / "run" / "tracked"
        lines = [p.read_text().count("\n") - 1 for p in folder.glob("*.txt")] if folder.exists() else []
        seen.append((snapshot.state, sum(lines)))

    run_virtual(session(tmp_path / "run", **values).run([*sinks, (1.0, look)]))
    steps, _, table = read_tensorboard(tmp_path, tmp_path / "run")
    assert seen[-1] == ("finished", 12) and table == 12
    assert [s for s, _ in steps] == list(range(1, 13))
    assert trackers.export(tmp_path / "run", TrackConfig(**where)) == 0
    with journal.held(tmp_path / "run" / "tracked"), pytest.raises(ConfigError, match="no other run is writing"):
        trackers.export(tmp_path / "run", TrackConfig(**where))


def test_a_tracker_that_fails_is_a_line_and_the_run_goes_on(tmp_path, monkeypatch):
    def refuse(*args):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(trackers, "opened", refuse)
    values = {"arms": ARMS, "track": {"to": "tensorboard"}}
    said: list[str] = []
    work = session(tmp_path / "run", **values)
    work._report = said.append
    progress = run_virtual(work.run(trackers.sinks(config(**values), tmp_path / "run")))
    assert progress.done == 4
    assert [s for s in said if "what watches it failed" in s] == [
        "the run goes on, but what watches it failed: RaysearchError: tensorboard: ConnectionError: no route to host"
    ]
    with pytest.raises(RaysearchError, match="no route"):
        trackers.export(tmp_path / "run", TrackConfig("tensorboard"))
    monkeypatch.undo()


def test_a_search_that_was_not_taken_is_told_again(tmp_path, monkeypatch):
    run_dir = finished(tmp_path / "run")
    where, calls = track("tensorboard", tmp_path, videos=False), []
    log = libraries.TensorBoard.log

    def second_fails(self, step, *args):
        calls.append(step)
        if len(calls) == 2:
            raise OSError("gone")
        log(self, step, *args)

    monkeypatch.setattr(libraries.TensorBoard, "log", second_fails)
    with pytest.raises(RaysearchError, match="gone"):
        trackers.export(run_dir, where)
    assert trackers.export(run_dir, where) == 3
    assert calls == [1, 2, 2, 3, 4]
    steps, _, _ = read_tensorboard(tmp_path, run_dir)
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert steps[-1][1]["single/nfe"] == pytest.approx(expected(rows)[-1][1]["single/nfe"])


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)], ids=["missing", "a folder of that name"])
def test_a_library_that_is_not_installed_is_one_line(tmp_path, monkeypatch, spec):
    monkeypatch.setattr(libraries, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[wandb\]'"):
        trackers.sinks(config(track={"to": "wandb"}), tmp_path / "run")


def test_mlflow_is_told_where_its_server_is(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_dir = finished(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^track.url: None .* or in the environment variable MLFLOW_TRACKING_URI$"):
        trackers.sinks(config(track={"to": "mlflow"}), run_dir)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    assert trackers.export(run_dir, track("mlflow", tmp_path, url=None)) == 4


@pytest.mark.parametrize("own", [None, "false"])
def test_mlflow_sends_no_telemetry_unless_it_is_asked_to(tmp_path, monkeypatch, own):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")  # so that it is as before afterwards
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    if own:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", own)
    libraries.Mlflow(track("mlflow", tmp_path), "a run", None)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == (own or "true")


def test_mistakes_are_one_line(tmp_path):
    for values, said in [
        ({"to": "comet"}, "track.to"),
        ({}, "track.to"),
        ({"to": "mlflow", "dir": "x"}, "track.dir"),
        ({"to": "tensorboard", "url": "x"}, "track.url"),
        ({"to": "wandb", "project": " "}, "track.project"),
        ({"to": "wandb", "videos": "yes"}, "track.videos"),
        ({"to": "wandb", "entity": "me"}, "track.entity"),
    ]:
        with pytest.raises(ConfigError, match=said):
            config(track=values)
    with pytest.raises(ConfigError, match="--arm"):
        command.export(tmp_path, command.Asked(["wandb"], arm="a"), [], None, print)
    with pytest.raises(ConfigError, match="--to"):
        command.split(["wandb", "folder"])
    with pytest.raises(ConfigError, match="RUN_DIR"):
        trackers.export(tmp_path, TrackConfig("tensorboard"))


@pytest.mark.parametrize(
    "url",
    [
        *("http://me:SECRET@host", "http://SECRET@host/x", "me:SECRET@host", "http:/me:SECRET@host"),
        *("https://host/?key=SECRET", "https://host/#SECRET", "postgresql://me:SECRET@host/db", "http://host:SECRET"),
    ],
)
@pytest.mark.parametrize("to", READ)
def test_an_address_with_a_secret_is_refused_and_not_shown(tmp_path, to, url):
    for tried in (
        lambda: config(track={"to": to, "url": url}),
        lambda: command.export(tmp_path, command.Asked([to], url=url), [], None, print),
    ):
        with pytest.raises(ConfigError, match=r"^track\.url: the value, which is not shown, ") as raised:
            tried()
        assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://host:5000", "file:///a b/é/mlruns", "databricks://mine", "org/space"])
def test_addresses_of_trackers(url):
    assert config(track={"to": "mlflow", "url": url}).track.url == url


def test_a_resumed_run_may_have_another_tracker(tmp_path):
    run(tmp_path / "run", arms=ARMS)
    run(tmp_path / "run", arms=ARMS, resume="require", track={"to": "tensorboard"})
