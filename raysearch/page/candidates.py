"""The table of a page's candidates: the rows of candidates.parquet, with parents and trajectories as numbers.

Shapes: N rows.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.page.block import digits, texts
from raysearch.page.searches import ID_BYTES, Columns
from raysearch.session.tables import CANDIDATES

PARENT = r'"parent":"[0-9a-f]*",?'  # in an origin's JSON
MOST_ORIGINS = 65535
MOST_TEXT = 8_000_000  # characters of all different origins
LONG = ("obstacles", "start")  # keys of an origin that no page shows
LEFT_OUT = ("search_id", "candidate", "parent", "origin", "trajectory")


@dataclass(frozen=True)
class Candidates:
    """The N candidates of the searches in a page, sorted by search; `search` (N,) is the row of each one's search."""

    rows: pa.Table
    search: np.ndarray
    winners: pa.ChunkedArray  # the ids of the winners of all searches

    @classmethod
    def of(cls, table: pa.Table, searches: pa.Table) -> "Candidates":
        """Those of a table that belong to `searches`, whose order they take."""
        found = pc.index_in(table["search_id"], value_set=searches["search_id"].combine_chunks())
        search = found.fill_null(-1).to_numpy().astype(np.int64)
        order = np.argsort(search, kind="stable")
        order = order[np.searchsorted(search[order], 0) :]
        if not np.array_equal(order, np.arange(table.num_rows)):
            table = table.take(pa.array(order))
        has = "winner" in searches.column_names
        none = pa.chunked_array([pa.nulls(searches.num_rows, pa.string())])
        return cls(table.combine_chunks(), search[order], searches["winner"] if has else none)

    @cached_property
    def components(self) -> list[str]:
        """The columns of reward components."""
        own = (*CANDIDATES, "num_steps", "call", "asked_s", "nfe_after", "preview")
        return [k for k in self.rows.column_names if k not in own]

    @cached_property
    def first(self) -> np.ndarray:
        """The first row of each search, and one more: all rows."""
        return np.searchsorted(self.search, np.arange(len(self.winners) + 1))

    @cached_property
    def _known(self) -> pa.Array:
        return self.rows["candidate"].unique()

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys of all (search, id), and the first row of each."""
        return np.unique(self._keys(self.search, self.rows["candidate"]), return_index=True)

    def _keys(self, search: np.ndarray, ids: pa.ChunkedArray) -> np.ndarray:
        code = pc.index_in(ids, value_set=self._known).fill_null(-1).to_numpy().astype(np.int64)
        return np.where(code < 0, -1, search * len(self._known) + code)

    def row_of(self, search: np.ndarray, ids: pa.ChunkedArray) -> np.ndarray:
        """The row of each id (M,) in its search, -1 where the search has no such candidate."""
        keys, rows = self._places
        wanted = self._keys(search, ids)
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        if not len(keys):
            return np.full(len(wanted), -1)
        found: np.ndarray = np.where((wanted >= 0) & (keys[place] == wanted), rows[place], -1)
        return found

    @cached_property
    def parent_row(self) -> np.ndarray:
        """The row (N,) of each one's parent, or -1."""
        if "parent" not in self.rows.column_names:
            return np.full(len(self.search), -1)
        return self.row_of(self.search, self.rows["parent"])

    @cached_property
    def winner_row(self) -> np.ndarray:
        """The row of each search's winner, or -1."""
        return self.row_of(np.arange(len(self.winners)), self.winners)

    @cached_property
    def trajectory(self) -> np.ndarray:
        """Of each row (N,) the number of its trajectory, which counts from 0 in each search."""
        code = self.rows["trajectory"].combine_chunks().dictionary_encode().indices.fill_null(0).to_numpy()
        keys = self.search * (int(code.max(initial=0)) + 1) + code
        _, first, of = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")  # in the order of asking, and so by search
        number = np.empty(len(first), np.int64)
        search = self.search[first[order]]
        number[order] = np.arange(len(first)) - np.searchsorted(search, search)
        found: np.ndarray = number[of]
        return found

    @cached_property
    def _origins(self) -> dict[str, pa.ChunkedArray]:
        """`kind`, and `origin` unless there are too many different ones."""
        if "origin" not in self.rows.column_names:
            return {}
        short = pc.replace_substring_regex(self.rows["origin"], PARENT, "").combine_chunks().dictionary_encode()
        found = [_described(t) for t in short.dictionary.to_pylist()]
        made: dict[str, list[str | None]] = {"kind": [k for k, _ in found]}
        if len(found) <= MOST_ORIGINS and sum(len(o) for _, o in found) <= MOST_TEXT:
            made["origin"] = [o for _, o in found]
        return {k: texts(v).combine_chunks().take(short.indices) for k, v in made.items()}

    def columns(self, first: int = 0, last: int | None = None) -> Columns:
        """The columns of the rows of searches `first` to `last`; `search` counts over all searches."""
        a, b = int(self.first[first]), int(self.first[len(self.winners) if last is None else last])
        rows = self.rows.slice(a, b - a)
        found: Columns = {k: rows[k] for k in rows.column_names if k not in LEFT_OUT}
        found |= {k: pa.chunked_array([v[a:b]]) for k, v in self._origins.items()}
        found["search"] = self.search[a:b]
        found["candidate"] = digits(rows["candidate"], width=ID_BYTES)
        found["parent_row"] = np.where(self.parent_row[a:b] < a, -1, self.parent_row[a:b] - a)
        if "trajectory" in rows.column_names:
            found["trajectory"] = self.trajectory[a:b]
        return found

    def shards(self, most: int) -> list[tuple[int, int]]:
        """Searches (first, last) whose candidates lie together: at most `most` rows, but at least one search."""
        cuts = [0]
        while cuts[-1] < len(self.winners):
            reach = int(np.searchsorted(self.first, self.first[cuts[-1]] + most, side="right")) - 1
            cuts.append(min(max(reach, cuts[-1] + 1), len(self.winners)))
        return list(pairwise(cuts))


def _described(text: str | None) -> tuple[str | None, str]:
    """The kind of an origin, and JSON of its other numbers."""
    try:
        found = json.loads((text or "{}").replace(",}", "}"))
        return str(found.pop("kind")), json.dumps({k: v for k, v in found.items() if k not in LONG})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, "{}"
