"""What a page knows of a run: the files of its folder, read without following a link and without writing anything.

A run may still go on, have been killed, or be an older version's: what is missing is None or empty.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from raysearch.config.config import label
from raysearch.errors import ConfigError, check
from raysearch.session import status
from raysearch.session.directory import CONFIG
from raysearch.session.snapshot import STATUS, Snapshot, parse
from raysearch.session.tables import CANDIDATES, SEARCHES

TABLES = ("searches", "candidates", "timeline", "trace", "curves", "fits")  # each a .parquet
NEEDED = ("search_id", "arm", "prompt", "seed", "status")  # columns of searches.parquet
MEDIA = {"videos": "mp4", "images": "png", "posters": "webp", "previews": "webp"}  # folder -> extension of its files
SUBFOLDER = re.compile(r"\d{6}")  # of a run with many searches
DEFAULT_BASELINE = "single"
NONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)  # of a name that is free, or no plain file's
COLUMNS = {
    "searches": SEARCHES,
    "candidates": CANDIDATES,
    "trace": dict.fromkeys(("kind", "what", "ended"), pa.string()),
}


@dataclass(frozen=True)
class Run:
    """A run's folder as it was when it was read. `shown` is how the user wrote its path."""

    path: Path
    shown: str
    snapshot: Snapshot | None
    config_text: str
    tables: dict[str, pa.Table]  # by name of TABLES, those that are there
    media: dict[str, dict[str, str]]  # folder of MEDIA -> search_id -> path below the run's folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.yaml holds; empty if it cannot be read."""
        try:
            found = OmegaConf.to_container(OmegaConf.create(self.config_text))
        except Exception:  # YAML errors have no common type
            return {}
        return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}

    @cached_property
    def blocks(self) -> dict[str, dict[str, Any]]:
        """By name, in the config's order, what the config says of each arm; empty for an arm of the tables alone."""
        policy = self.config.get("policy")
        name = str(policy.get("name", "")) if isinstance(policy, dict) else ""
        listed = self.config.get("arms") or ([{"name": name}] if name else [])
        listed = [a for a in listed if isinstance(a, dict)] if isinstance(listed, list) else []
        found = {label(str(a.get("name", ""))): a for a in listed}
        searches = self.tables.get("searches")
        more = searches["arm"].unique().to_pylist() if searches is not None else []
        return found | {a: {} for a in more if a is not None and a not in found}

    @property
    def baseline(self) -> str:
        """The arm over which the others gain, as the run's own summary has it; empty without any arm."""
        named = (self.snapshot.baseline if self.snapshot else "") or self.config.get("baseline") or DEFAULT_BASELINE
        named = str(named)  # a config may hold anything
        return named if named in self.blocks else next(iter(self.blocks), "")


def read(run_dir: Path) -> Run:
    """The run in a folder. Raises ConfigError if none has begun there, or if one of its tables cannot be read."""
    try:
        path = run_dir.expanduser()
        text = content(path, CONFIG, str(run_dir))
        searched = path.is_dir()
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # it cannot be read; there is no such user; a NUL
        raise ConfigError.of("RUN_DIR", str(run_dir), f"the folder of a run, which can be read ({error})") from error
    check(searched and text is not None, "RUN_DIR", str(run_dir), f"the folder of a run, with {CONFIG}")
    assert text is not None
    tables = {name: found for name in TABLES if (found := _table(path, run_dir, name)) is not None}
    state, media = _snapshot(path, str(run_dir), tables), listed(path, str(run_dir))
    return Run(path, str(run_dir), state, text.decode(errors="replace"), tables, media)


def _snapshot(path: Path, shown: str, tables: dict[str, pa.Table]) -> Snapshot | None:
    try:
        return status.read(path)
    except ConfigError:
        text = content(path, STATUS, shown)  # of a copy without its journal
        found = parse(text) if text is not None else None
        if found is None and not tables:
            raise  # there is nothing to show
        return found


def _table(path: Path, run_dir: Path, name: str) -> pa.Table | None:
    """A table, sorted by search; None where there is none. Raises ConfigError."""
    file = f"{name}.parquet"
    found = content(path, file, str(run_dir))
    if found is None:
        return None
    try:
        table = pq.read_table(pa.BufferReader(found))
    except (OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise ConfigError.of("RUN_DIR", str(run_dir), f"a folder whose {file} can be read ({said})") from error
    wanted = NEEDED if name == "searches" else ("search_id", "candidate") if name == "candidates" else ()
    lacking = [c for c in wanted if c not in table.column_names]
    allowed = f"the folder of a run of this version of raysearch: its {file} lacks {', '.join(lacking)}"
    check(not lacking, "RUN_DIR", str(run_dir), allowed)
    try:
        table = _typed(table, COLUMNS.get(name, {}))
    except pa.ArrowException as error:
        said = str(error).splitlines()[0]
        raise ConfigError.of("RUN_DIR", str(run_dir), f"a folder whose {file} is a run's ({said})") from error
    if name != "searches":
        return table
    check(
        not table["search_id"].null_count, "RUN_DIR", str(run_dir), f"a folder whose {file} has an id for each search"
    )
    return table.sort_by("search_id")


def _typed(table: pa.Table, types: dict[str, pa.DataType]) -> pa.Table:
    """A table whose columns have the types of a run's, whatever wrote it. Raises ArrowException."""
    for i, name in enumerate(table.column_names):
        if name in types and table.column(i).type != types[name]:
            table = table.set_column(i, name, table.column(i).cast(types[name]))
    return table


# -- files, of which no part of the way may be a link -----------------------------------------------------------------


def opened(folder: Path, name: str) -> BinaryIO:
    """A plain file below a folder, open to read; only the folder itself may be a link. Raises OSError, ValueError."""
    *above, last = name.split("/")
    if not all(part and part not in (".", "..") for part in (*above, last)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    holder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in above:
            outer = holder
            holder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
            os.close(outer)
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=holder)
    finally:
        os.close(holder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return open(file, "rb")


def content(folder: Path, name: str, shown: str) -> bytes | None:
    """The content of a file below a folder; None if there is none, or if it is a link or no plain file.

    Raises ConfigError where the disk does not give the file: what is there may not be taken for missing. `shown` is how
    the user wrote the folder's path.
    """
    try:
        with opened(folder, name) as file:
            return file.read()
    except OSError as error:
        if error.errno in NONE:
            return None
        raise _unreadable(shown, name, error) from error


def _unreadable(shown: str, name: str, error: OSError) -> ConfigError:
    return ConfigError.of("RUN_DIR", shown, f"a folder whose {name} can be read ({error.strerror or error})")


def listed(path: Path, shown: str) -> dict[str, dict[str, str]]:
    """The media of a run: by folder, and by search_id, their paths below the run's folder. Raises ConfigError."""
    return {folder: dict(_files(path, shown, folder, f".{extension}")) for folder, extension in MEDIA.items()}


def _files(path: Path, shown: str, folder: str, extension: str) -> Iterator[tuple[str, str]]:
    if (path / folder).is_symlink():
        return
    try:
        entries = list(os.scandir(path / folder))
    except OSError as error:
        if error.errno in NONE:
            return
        raise _unreadable(shown, folder, error) from error
    for e in entries:
        if e.is_dir(follow_symlinks=False) and SUBFOLDER.fullmatch(e.name):
            yield from _files(path, shown, f"{folder}/{e.name}", extension)
        elif e.name.endswith(extension) and e.is_file(follow_symlinks=False):
            yield e.name.removesuffix(extension), f"{folder}/{e.name}"
