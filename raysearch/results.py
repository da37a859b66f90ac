"""The run directory, an interface: config.yaml, journal/, searches.parquet, candidates.parquet, videos/ and the like.

Finished rows and videos are visible while the run goes on, and rows do not pile up in memory: a table is rewritten
(atomically) with every search, unless that would take more than a twentieth of the time; then rows wait, up to a bound.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysearch.errors import ConfigError, check

FOLDERS = {"mp4": "videos", "safetensors": "latents", "npy": "frames"}

SEARCHES: dict[str, pa.DataType] = {
    "search_id": pa.string(),
    "arm": pa.string(),
    "prompt": pa.string(),
    "seed": pa.int64(),
    "policy": pa.string(),
    "policy_args": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "winner": pa.string(),
    "origin": pa.string(),
    "reward_search": pa.float64(),
    "reward_final": pa.float64(),
    "reward_holdout": pa.float64(),
    "nfe": pa.int64(),
    "decodes": pa.int64(),
    "reward_calls": pa.int64(),
    "nfe_spent": pa.int64(),
    "replica_seconds": pa.float64(),
    "wall_seconds": pa.float64(),
    "video": pa.string(),
}
CANDIDATES: dict[str, pa.DataType] = {
    "search_id": pa.string(),
    "candidate": pa.string(),
    "parent": pa.string(),
    "origin": pa.string(),
    "step": pa.int64(),
    "sigma": pa.float64(),
    "reward": pa.float64(),
    "kept": pa.bool_(),
}


def schema(columns: dict[str, pa.DataType], components: Iterable[str]) -> pa.Schema:
    return pa.schema([*columns.items(), *((c, pa.float64()) for c in components)])


class Table:
    """A Parquet file that grows by whole searches, sorted by search_id, the rows of a search in their order."""

    def __init__(self, path: Path, columns: pa.Schema, bound: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.rows = path, 0
        self._schema, self._bound, self._clock = columns, bound, clock
        self._pending: list[dict[str, Any]] = []
        self._due = clock()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self._pending += rows
        if self._clock() >= self._due or len(self._pending) >= self._bound:
            self.flush()

    def flush(self) -> None:
        if not self._pending and self.path.exists():
            return
        began = self._clock()
        tables = [pq.read_table(self.path, schema=self._schema)] if self.path.exists() else []
        whole = pa.concat_tables([*tables, pa.Table.from_pylist(self._pending, schema=self._schema)])
        order = pc.sort_indices(whole["search_id"])  # stable: a search's rows keep their order
        partial = self.path.with_suffix(".partial")
        pq.write_table(whole.take(order), partial)
        os.replace(partial, self.path)
        self.rows, self._pending = whole.num_rows, []
        now = self._clock()
        self._due = now + 20 * (now - began)


class RunDirectory:
    def __init__(self, path: Path, resolved: str, search_components: list[str], judged_components: list[str]) -> None:
        """`path` was claimed; the resolved config is written there."""
        self.path = path
        write(self.path / "config.yaml", resolved.encode())
        self.searches = Table(path / "searches.parquet", schema(SEARCHES, judged_components), 256)
        self.candidates = Table(path / "candidates.parquet", schema(CANDIDATES, search_components), 20_000)

    def save(self, search_id: str, files: dict[str, bytes]) -> str | None:
        """Write a winner's files; returns the video's path within the directory."""
        for extension, content in files.items():
            write(self.path / FOLDERS[extension] / f"{search_id}.{extension}", content)
        return f"{FOLDERS['mp4']}/{search_id}.mp4" if "mp4" in files else None

    def flush(self) -> None:
        self.searches.flush()
        self.candidates.flush()


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Make the directory, which must be new or empty and writable; take it away again if what follows fails."""
    key, made = "run_dir", not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        check(not any(path.iterdir()), key, str(path), "a new or empty folder: this one holds files, which are kept")
        (path / "config.yaml").touch(exist_ok=False)  # from now on it is nobody else's
    except OSError as error:
        raise ConfigError(
            f"{key}: {str(path)!r} is not allowed; it must be a writable folder ({error.strerror})"
        ) from error
    try:
        yield
    except BaseException:
        (path / "config.yaml").unlink(missing_ok=True)
        if made:
            with suppress(OSError):
                path.rmdir()
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
