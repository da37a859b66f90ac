"""The config block `track`: to which experiment tracker a run tells its finished searches."""

from dataclasses import dataclass
from typing import Literal, get_args

from raysearch.config.address import hidden, is_bare
from raysearch.errors import check

Library = Literal["wandb", "tensorboard", "mlflow", "trackio"]
LIBRARIES = get_args(Library)


@dataclass(frozen=True)
class TrackConfig:
    """A tracker, the project or experiment in it, where it is, and whether it gets the winners' videos."""

    to: Library
    project: str = "raysearch"
    dir: str | None = None  # of wandb: where its files are; of tensorboard: the logs, by default RUN_DIR/tensorboard
    url: str | None = None  # of wandb, mlflow or trackio: the server, or its space; None: as the library's own settings
    videos: bool = True


def check_track(track: TrackConfig | None) -> None:
    """Raises ConfigError where a tracker has no such place."""
    if track is None:
        return
    if track.url is not None and not is_bare(track.url):
        settings = f"which {track.to} takes from its own settings"
        raise hidden("track.url", f"an address without a user's name, a password, `?` or `#`, {settings}")
    allowed = "left out with {}: its own settings say where it writes"
    check(track.dir is None or track.to in ("wandb", "tensorboard"), "track.dir", track.dir, allowed.format(track.to))
    check(track.url is None or track.to != "tensorboard", "track.url", track.url, "left out with tensorboard")
    check(bool(track.project.strip()), "track.project", track.project, "a name")
