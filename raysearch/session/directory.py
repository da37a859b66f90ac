"""The folder of a run: which files it holds, who may claim it, and which config may resume its run.

config.yaml, journal/, searches.parquet, candidates.parquet, videos/, latents/, frames/ and rollouts/ are an interface:
other programs read them.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig, ListConfig, OmegaConf

from raysearch.config import config as configuration
from raysearch.errors import ConfigError, check
from raysearch.files import write
from raysearch.session.tables import BATCH, CANDIDATES, SEARCHES, Table, candidates_in, schema, search_records

FREE = ("fleet", "output", "run_dir", "resume", "address")  # keys that may differ when a run is resumed
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
        """Write `resolved`, the run's config, to the claimed folder `path`, unless config.yaml holds one already.

        Components name the columns of rewards. For `long` videos searches.parquet has, beside each judged mean, the
        list of its values chunk by chunk.
        """
        self.path, self.journal = path, path / JOURNAL
        if not (path / "config.yaml").stat().st_size:
            write(path / "config.yaml", resolved.encode())
        chunks = {f"{c}_chunks": pa.list_(pa.float64()) for c in judged_components} if long else {}
        self.searches = Table(
            path / "searches.parquet",
            schema(SEARCHES | chunks, judged_components),
            256,
            lambda: ([r] for r in search_records(self.journal)),
        )
        self.candidates = Table(
            path / "candidates.parquet",
            schema(CANDIDATES, search_components),
            BATCH,
            lambda: map(candidates_in, search_records(self.journal)),
        )

    def save(self, search_id: str, files: dict[str, bytes]) -> str | None:
        """Write a winner's files, by extension; the mp4's path within the directory, or None without one."""
        for extension, content in files.items():
            write(self.path / FOLDERS[extension] / f"{search_id}.{extension}", content)
        return f"{FOLDERS['mp4']}/{search_id}.mp4" if "mp4" in files else None

    def flush(self) -> None:
        """Write both tables as the journal has them."""
        self.searches.flush()
        self.candidates.flush()


def chosen(run_dir: str | None, resume: str, name: str) -> Path:
    """The absolute path of the run directory: `run_dir`, or by default a folder in runs/ with the config's name.

    With resume=never the default name ends in the time. The path is absolute because it is printed, and the user of a
    Ray job does not know the job's working directory.
    """
    when = f"-{time.strftime('%Y%m%d-%H%M%S')}" if resume == "never" else ""
    return Path(run_dir or f"runs/{name}{when}").expanduser().absolute()


@contextmanager
def claimed(path: Path, resolved: str, resume: str) -> Iterator[str | None]:
    """Make a new or empty, writable run directory and claim it; remove it again if the body of the `with` fails.

    Unless `resume` is never, a folder with a run of the same config is accepted, too, and kept whatever happens: then
    the config with which that run began is yielded. Raises ConfigError.
    """
    key, made = "run_dir", not path.exists()
    if resume != "never" and (path / "config.yaml").is_file():
        yield _same(path, resolved)
        return
    check(resume != "require", key, str(path), "a folder that holds a run of this config (resume=require)")
    try:
        path.mkdir(parents=True, exist_ok=True)
        check(not any(path.iterdir()), key, str(path), "a new or empty folder: this one holds files, which are kept")
        (path / "config.yaml").touch(exist_ok=False)  # from now on no other run can claim the folder
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
    """The config.yaml of a run directory, or None if its run was stopped before writing it.

    Raises ConfigError if it differs from `resolved` in more than FREE keys.
    """
    text = (path / "config.yaml").read_text()
    if not text and {p.name for p in path.iterdir()} <= {"config.yaml", "config.yaml.partial"}:
        return None
    fresh = "a new or empty folder, or one with a run of this config"
    try:
        begun = configuration.build(OmegaConf.to_container(OmegaConf.create(text)))  # newer keys get their defaults
        before, now = (_leaves(OmegaConf.create(t)) for t in (configuration.resolved(begun), resolved))
    except Exception as error:  # YAML errors have no common type
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
    """Raise ConfigError if a run directory's run had other prompts, weights or rewards under the same config.

    `content` is a JSON object of digests, keyed by what was digested. content.json lacks a key if an earlier version
    of raysearch wrote it.
    """
    if (path / CONTENT).exists():
        before, now = json.loads((path / CONTENT).read_bytes()), json.loads(content)
        for key in now:
            check(key in before, "run_dir", str(path), "a new folder: an earlier version of raysearch began this run")
            allowed = f"a new folder: {key} have changed since its run began"
            check(before[key] == now[key], "run_dir", str(path), allowed)
