"""Experiment trackers: each takes numbers, a table of searches, and videos in the way in which its library shows them.

A tracker's `id` is that of its own run, under which a later process goes on. Whatever a library raises passes through.
"""

import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import av
from PIL import Image

from raysearch.config.track import Library, TrackConfig
from raysearch.errors import check

MODULES: dict[Library, str] = {
    "wandb": "wandb",
    "tensorboard": "tensorboard.summary.writer.event_file_writer",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
SIDE = 320  # pixels of an animation's longer side at most: a GIF is many times as large as an mp4
MOST = 1000  # rows of a table that is a text

Row = Mapping[str, Any]  # of searches.parquet


class Tracker(Protocol):
    """A run of a tracker."""

    id: str

    def log(self, step: int, scalars: Mapping[str, float], search: Row, video: Path | None) -> None:
        """Take the numbers after a search, and its winner's video if there is one."""
        ...

    def close(self, table: Path, searches: Sequence[Row]) -> None:
        """Take the table of all searches, as a file and as rows, and end."""
        ...


def check_library(track: TrackConfig) -> None:
    """Raises ConfigError where a tracker's library is not installed, or does not know where to write."""
    to = track.to
    module, _, _ = MODULES[to].partition(".")
    spec = find_spec(module)  # without an origin it is only a folder of that name, which trackers make
    there = spec is not None and spec.origin is not None
    check(there, "track.to", to, f"one whose library is installed: pip install -e '.[{to}]'")
    placed = to != "mlflow" or bool(track.url or os.environ.get("MLFLOW_TRACKING_URI"))
    where = "the server, such as http://host:5000, given here or in the environment variable MLFLOW_TRACKING_URI"
    check(placed, "track.url", track.url, where)


def opened(track: TrackConfig, name: str, known: str | None, own_id: str, run_dir: Path) -> Tracker:
    """A run of a tracker, the `known` one if there is one; `name` and `own_id` are for a new one."""
    new = known or own_id
    match track.to:
        case "wandb":
            return Wandb(track, name, new)
        case "tensorboard":
            return TensorBoard(Path(track.dir).expanduser() if track.dir else run_dir / "tensorboard")
        case "mlflow":
            return Mlflow(track, name, known)
        case "trackio":
            return Trackio(track, known or f"{name}-{new}")


class Wandb:
    """Weights & Biases. Without a network `WANDB_MODE=offline` keeps what `wandb sync` sends later."""

    def __init__(self, track: TrackConfig, name: str, own_id: str) -> None:
        import wandb

        folder = None if track.dir is None else Path(track.dir).expanduser()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # else wandb would write elsewhere
        where = {} if track.url is None else {"base_url": track.url}
        settings = wandb.Settings(console="off", silent=True, **where)
        self._library, self.id = wandb, own_id
        self._run = wandb.init(
            project=track.project, dir=folder, id=own_id, name=name, resume="allow", settings=settings
        )

    def log(self, step: int, scalars: Mapping[str, float], search: Row, video: Path | None) -> None:
        """One step of the run."""
        self._run.log({**scalars, **shown(self._library, search, video)}, step=step)

    def close(self, table: Path, searches: Sequence[Row]) -> None:
        """The table is `searches`, of which the latest one holds all."""
        columns = list(searches[0])
        rows = [[r[c] for c in columns] for r in searches]
        self._run.log({"searches": self._library.Table(columns=columns, data=rows)}, step=len(searches))
        self._run.finish()


class TensorBoard:
    """Event files in a folder. Videos are animated GIFs among the images, the table is a text."""

    id = "-"  # a folder is all that a run is

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._metadata, self._tensor, self._string = (
            summary_pb2.SummaryMetadata,
            tensor_pb2.TensorProto,
            types_pb2.DT_STRING,
        )
        self._writer = EventFileWriter(str(folder))

    def log(self, step: int, scalars: Mapping[str, float], search: Row, video: Path | None) -> None:
        """One event of all numbers, and the video's image."""
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        if video is not None:
            content, width, height = animation(video)
            image = self._summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
            values.append(self._summary.Value(tag=f"videos/{search['arm']}", image=image))
        self._add(step, values)

    def close(self, table: Path, searches: Sequence[Row]) -> None:
        """The text is a table in Markdown, of the first MOST searches."""
        columns = [c for c in searches[0] if c != "policy_args" and c != "origin"]
        lines = [columns, ["---"] * len(columns), *([str(r[c]) for c in columns] for r in searches[:MOST])]
        text = "\n".join("| " + " | ".join(re.sub(r"[|\n\r]", " ", cell) for cell in line) + " |" for line in lines)
        plugin = self._metadata(plugin_data=self._metadata.PluginData(plugin_name="text"))
        tensor = self._tensor(dtype=self._string, string_val=[text.encode()])
        self._add(len(searches), [self._summary.Value(tag="searches/text_summary", metadata=plugin, tensor=tensor)])
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._event(step=step, wall_time=time.time(), summary=self._summary(value=values)))


class Mlflow:
    """MLflow. Videos and the table are artifacts."""

    def __init__(self, track: TrackConfig, name: str, known: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it tells its makers of what is called
        import mlflow

        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient(tracking_uri=track.url)
        if known is None:
            experiment = self._client.get_experiment_by_name(track.project)
            of = experiment.experiment_id if experiment else self._client.create_experiment(track.project)
            known = self._client.create_run(of, run_name=name).info.run_id
        else:
            self._client.update_run(known, status="RUNNING")
        self.id: str = known

    def log(self, step: int, scalars: Mapping[str, float], search: Row, video: Path | None) -> None:
        """One batch of metrics, whose names have no + as MLflow's have none."""
        now = int(1000 * time.time())
        metrics = [self._metric(re.sub(r"[^\w./ -]", "_", k), v, now, step) for k, v in scalars.items()]
        self._client.log_batch(self.id, metrics=metrics)
        if video is not None:
            self._client.log_artifact(self.id, str(video), artifact_path="videos")

    def close(self, table: Path, searches: Sequence[Row]) -> None:
        """The artifact is the run's own table."""
        self._client.log_artifact(self.id, str(table))
        self._client.set_terminated(self.id)


class Trackio:
    """Trackio, whose database is local (`TRACKIO_DIR`), at a server or in a space of the Hugging Face hub."""

    def __init__(self, track: TrackConfig, name: str) -> None:
        import trackio

        url = track.url
        where = {} if url is None else {"server_url": url} if "://" in url else {"space_id": url}
        self._library, self.id = trackio, name
        self._run = trackio.init(
            track.project, name, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False, **where
        )

    def log(self, step: int, scalars: Mapping[str, float], search: Row, video: Path | None) -> None:
        """One step of the run."""
        self._run.log({**scalars, **shown(self._library, search, video)}, step=step)

    def close(self, table: Path, searches: Sequence[Row]) -> None:
        """The table is `searches`, of which the latest one holds all."""
        import pandas

        self._run.log({"searches": self._library.Table(dataframe=pandas.DataFrame(searches))}, step=len(searches))
        self._run.finish()


def shown(library: Any, search: Row, video: Path | None) -> dict[str, Any]:
    """A winner's video or picture, by its name, as the media of W&B or of Trackio, which are alike in this."""
    if video is None:
        return {}
    kind = library.Image if video.suffix == ".png" else library.Video
    caption = f"{search['prompt']} (seed {search['seed']}, {search['search_id']})"
    return {f"videos/{search['arm']}": kind(str(video), caption=caption)}


def animation(video: Path) -> tuple[bytes, int, int]:
    """A video as a GIF that repeats, or a picture as a PNG, with its width and height of at most SIDE pixels."""
    if video.suffix == ".png":
        pictures, rate = [Image.open(video).convert("RGB")], Fraction(1)
    else:
        with av.open(str(video)) as container:
            rate = container.streams.video[0].average_rate or Fraction(8)
            pictures = [frame.to_image() for frame in container.decode(video=0)]
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE))
    content, (first, *more) = io.BytesIO(), pictures
    if more:
        first.save(content, "GIF", save_all=True, append_images=more, duration=float(1000 / rate), loop=0)
    else:
        first.save(content, "PNG")
    return content.getvalue(), first.width, first.height
