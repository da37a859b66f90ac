"""Parquet files of rows of searches, which are written whole, a few thousand rows at a time."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysearch.errors import ConfigError, check
from raysearch.files import Folder

GROUP = 2_000  # rows of a Parquet file that are read or written at a time
BATCH = 20_000  # rows that wait in memory, as Python values, at most
SCHEMA_VERSION = 1  # of status.json and of the Parquet files in a run's folder: other programs read them

Rows = Sequence[dict[str, Any]]  # of one search


class Table:
    """A Parquet file that grows by whole searches, sorted by search_id, the rows of a search in their order.

    Rows are visible while the run goes on and do not pile up in memory: the file is rewritten (atomically) with every
    search, unless that would take more than a twentieth of the time; then rows wait, `bound` of them at most. A file
    that is not as this process left it (missing, torn, or an earlier process's) is made again from the journal.
    """

    def __init__(
        self,
        folder: Folder,
        name: str,
        columns: pa.Schema,
        bound: int,
        journaled: Callable[[], Iterable[Rows]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`journaled` reads the rows of every search in the journal, each search once."""
        self.path = folder.path / name
        self._folder, self._name = folder, name
        self._schema, self._bound, self._journaled, self._clock = versioned(columns), bound, journaled, clock
        self._rows = -1  # of the file as this process wrote it
        self._pending: dict[str, Rows] = {}
        self._waiting = 0  # searches and rows in `_pending`
        self._due = clock()

    def add(self, search_id: str, rows: Rows) -> None:
        """Take the rows of a search that has ended and is in the journal; they replace its rows of an earlier run."""
        self._pending[search_id] = rows
        self._waiting += 1 + len(rows)
        if self._clock() >= self._due or self._waiting > self._bound:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait, or make the whole file again if it is not as this process left it."""
        began = self._clock()
        try:
            if self._rows < 0:
                raise LookupError("another process wrote it")
            self._merge()
        except (LookupError, OSError, pa.ArrowException):  # missing, or torn
            whole = self._sorted(self._tables(self._journaled()))
            if not self._holds(whole):
                write_table(self._folder, self._name, whole)
            self._rows = whole.num_rows
        self._pending, self._waiting = {}, 0
        now = self._clock()
        self._due = now + 20 * (now - began)

    def _merge(self) -> None:
        """Write the rows that wait among those of the file, of which no more than two row groups are in memory."""
        with pq.ParquetFile(self.path) as held:
            if held.metadata.num_rows != self._rows or held.schema_arrow != self._schema:
                raise LookupError("another process wrote it")
            if not self._pending:
                return
            ids, fresh = pa.array(self._pending, pa.string()), self._sorted(self._tables(self._pending.values()))
            rows = 0
            with self._folder.file(self._name) as file, pq.ParquetWriter(file, self._schema) as writer:
                waiting = fresh.slice(0, 0)
                for i in range(held.num_row_groups):
                    group = held.read_row_group(i, use_threads=False)
                    before = pc.sum(pc.less_equal(fresh["search_id"], group["search_id"][-1])).as_py() or 0
                    others = group.filter(pc.invert(pc.is_in(group["search_id"], ids)))
                    waiting = self._sorted([waiting, others, fresh.slice(0, before)])
                    fresh = fresh.slice(before)
                    if len(waiting) >= GROUP:
                        writer.write_table(waiting)
                        rows, waiting = rows + len(waiting), waiting.slice(0, 0)
                waiting = self._sorted([waiting, fresh])
                writer.write_table(waiting)
                self._rows = rows + len(waiting)

    def _holds(self, whole: pa.Table) -> bool:
        try:
            return bool(whole.equals(pq.read_table(self.path, schema=self._schema)))
        except (OSError, pa.ArrowException):
            return False

    def _tables(self, searches: Iterable[Rows]) -> Iterator[pa.Table]:
        """The rows of searches, of which no more than a batch at a time are Python values."""
        waiting: list[dict[str, Any]] = []
        for rows in searches:
            waiting += rows
            if len(waiting) >= BATCH:
                yield pa.Table.from_pylist(waiting, schema=self._schema)
                waiting = []
        yield pa.Table.from_pylist(waiting, schema=self._schema)

    def _sorted(self, tables: Iterable[pa.Table]) -> pa.Table:
        whole = pa.concat_tables(tables).combine_chunks()
        return whole.take(pc.sort_indices(whole["search_id"]))  # stable: a search's rows keep their order


def write_table(folder: Folder, name: str, rows: pa.Table, *, group: int | None = None) -> None:
    """Write a Parquet file that is there whole or not at all. Raises FolderError."""
    with folder.file(name) as file:
        pq.write_table(rows, file, row_group_size=group or GROUP)


def versioned(columns: pa.Schema) -> pa.Schema:
    """The columns of a file in a run's folder, with the version of such files in the schema's metadata."""
    return columns.with_metadata({"schema_version": str(SCHEMA_VERSION)})


def run_table(run_dir: Path, name: str, columns: Sequence[str], *, more: bool = False) -> pa.Table:
    """Columns of a run's table, with `more` all others too. Raises ConfigError without the table or one of them."""
    try:
        file = run_dir.expanduser() / name
        allowed = "the folder of a run, with searches.parquet and candidates.parquet"
        check(file.is_file(), "RUN_DIR", str(run_dir), allowed)
        lacking = [c for c in columns if c not in pq.read_schema(file).names]
        allowed = f"the folder of a run of this version of raysearch: its {name} lacks {', '.join(lacking)}"
        check(not lacking, "RUN_DIR", str(run_dir), allowed)
        return pq.read_table(file, columns=None if more else list(columns))
    except (OSError, RuntimeError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise ConfigError.of("RUN_DIR", str(run_dir), f"a folder whose {name} can be read ({said})") from error
