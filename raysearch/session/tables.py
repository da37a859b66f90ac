"""The Parquet tables of a run: their columns, and files that grow by whole searches."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
    "part": pa.int64(),
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
        write_table(self.path, whole.take(order))
        self.rows, self._pending = whole.num_rows, []
        now = self._clock()
        self._due = now + 20 * (now - began)

    def retain(self, ids: Iterable[str]) -> None:
        """Drop the rows of all searches but these."""
        if self.path.exists():
            whole = pq.read_table(self.path, schema=self._schema)
            write_table(self.path, whole.filter(pc.is_in(whole["search_id"], pa.array(ids, pa.string()))))


def write_table(path: Path, rows: pa.Table) -> None:
    """Write a Parquet file that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    pq.write_table(rows, partial)
    os.replace(partial, path)
