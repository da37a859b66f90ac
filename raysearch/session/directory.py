"""The folder of a run: claiming it, comparing its config with one that would go on with it, and its files.

It holds config.yaml, journal/, searches.parquet, candidates.parquet, videos/ and the like, and is an interface.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig, ListConfig, OmegaConf

from raysearch.errors import ConfigError, check
from raysearch.files import write
from raysearch.session.tables import BATCH, CANDIDATES, SEARCHES, Table, ended, recorded, schema

FREE = ("fleet", "output", "run_dir", "resume", "address")  # keys that may differ when a run is gone on with
JOURNAL = "journal"
CONTENT = Path(JOURNAL, "content.json")
FOLDERS = {"mp4": "videos", "safetensors": "latents", "npy": "frames", "arrow": "rollouts"}


class RunDirectory:
    """The files of one run: its config, its two tables, and those of its winners."""

    def __init__(
        self,
        path: Path,
        resolved: str,
        search_components: list[str],
        judged_components: list[str],
        *,
        long: bool = False,
    ) -> None:
        """`path` was claimed; the resolved config is written there, unless it holds the one that its run began with.

        `long` videos have lists of what was judged, chunk by chunk, beside the means.
        """
        self.path, self.journal = path, path / JOURNAL
        if not (path / "config.yaml").stat().st_size:
            write(path / "config.yaml", resolved.encode())
        chunks = {f"{c}_chunks": pa.list_(pa.float64()) for c in judged_components} if long else {}
        self.searches = Table(
            path / "searches.parquet",
            schema(SEARCHES | chunks, judged_components),
            256,
            lambda: ((r["search_id"], [r]) for r in ended(self.journal)),
        )
        self.candidates = Table(
            path / "candidates.parquet",
            schema(CANDIDATES, search_components),
            BATCH,
            lambda: ((r["search_id"], recorded(r)) for r in ended(self.journal)),
        )

    def save(self, search_id: str, files: dict[str, bytes]) -> str | None:
        """Write a winner's files; returns the video's path within the directory."""
        for extension, content in files.items():
            write(self.path / FOLDERS[extension] / f"{search_id}.{extension}", content)
        return f"{FOLDERS['mp4']}/{search_id}.mp4" if "mp4" in files else None

    def flush(self) -> None:
        """Bring both tables up to the journal."""
        self.searches.flush()
        self.candidates.flush()


def chosen(run_dir: str | None, resume: str, name: str) -> Path:
    """The configured run directory; by default one under runs/, named after the config, and the time if it is new.

    Absolute, since it is shown: a job's working directory is none that its user knows.
    """
    when = f"-{time.strftime('%Y%m%d-%H%M%S')}" if resume == "never" else ""
    return Path(run_dir or f"runs/{name}{when}").expanduser().absolute()


@contextmanager
def claimed(path: Path, resolved: str, resume: str) -> Iterator[str | None]:
    """Make the directory, which must be new or empty and writable; take it away again if what follows fails.

    Where `resume` allows, one that holds a run of the same config will do as well, and stays: yields the config that
    this run began with.
    """
    key, made = "run_dir", not path.exists()
    if resume != "never" and (path / "config.yaml").is_file():
        yield _same(path, resolved)
        return
    check(resume != "require", key, str(path), "a folder that holds a run of this config (resume=require)")
    try:
        path.mkdir(parents=True, exist_ok=True)
        check(not any(path.iterdir()), key, str(path), "a new or empty folder: this one holds files, which are kept")
        (path / "config.yaml").touch(exist_ok=False)  # from now on it is nobody else's
    except OSError as error:
        raise ConfigError(
            f"{key}: {str(path)!r} is not allowed; it must be a writable folder ({error.strerror})"
        ) from error
    try:
        yield None
    except BaseException:
        (path / "config.yaml").unlink(missing_ok=True)
        if made:
            with suppress(OSError):
                path.rmdir()
        raise


def _same(path: Path, resolved: str) -> str | None:
    """The config of a run directory, None if it was stopped before it wrote any; another is refused.

    FREE keys may differ.
    """
    text = (path / "config.yaml").read_text()
    if not text and {p.name for p in path.iterdir()} <= {"config.yaml", "config.yaml.partial"}:
        return None
    fresh = "a new or empty folder, or one with a run of this config"
    try:
        before, now = _leaves(OmegaConf.create(text)), _leaves(OmegaConf.create(resolved))
    except Exception as error:  # yaml's own errors are of no one type
        raise ConfigError.of("run_dir", str(path), fresh) from error
    for key in [*now, *before]:
        if before.get(key) != now.get(key) and key.partition(".")[0] not in FREE:
            differs = f"this run holds {key}={before.get(key)!r}, and now it is {now.get(key)!r}"
            raise ConfigError.of("run_dir", str(path), f"{fresh}: {differs}")
    return text


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    """A nested config as a mapping of dotted keys."""
    if isinstance(value, DictConfig | ListConfig) and value:
        parts = value.items() if isinstance(value, DictConfig) else enumerate(value)
        return {k: v for part, below in parts for k, v in _leaves(below, f"{key}.{part!s}".lstrip(".")).items()}
    return {key: value}


def check_content(path: Path, content: bytes) -> None:
    """Refuse a run directory whose run had other prompts, weights or rewards, though its config reads the same.

    `content` is a JSON object of digests by what they are of. One that lacks a key is of an earlier version.
    """
    if (path / CONTENT).exists():
        before, now = json.loads((path / CONTENT).read_bytes()), json.loads(content)
        for key in now:
            check(key in before, "run_dir", str(path), "a new folder: an earlier version of raysearch began this run")
            allowed = f"a new folder: {key} have changed since its run began"
            check(before[key] == now[key], "run_dir", str(path), allowed)
