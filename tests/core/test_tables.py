"""Tables that grow by merging: what is in the file is as if all rows had been sorted at once."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch import parquet
from raysearch.engine.sharing import Memo
from raysearch.files import Folder
from raysearch.parquet import Table
from raysearch.session.tables import schema

COLUMNS = schema({"search_id": pa.string(), "n": pa.int64()}, [])


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_come_in_any_order_are_sorted_and_replaced(tmp_path, monkeypatch, seed):
    """Searches of 0 to 5 rows end in nearly the order of their ids, some twice; row groups have about 20 rows."""
    monkeypatch.setattr(parquet, "GROUP", 20)
    rng = random.Random(seed)
    journaled: dict[str, list[dict]] = {}
    table = Table(Folder(tmp_path), "t.parquet", COLUMNS, 10**6, journaled.values, lambda: 0.0)
    table._due = 1.0  # written when this test says so
    order = sorted(range(120), key=lambda i: i + rng.uniform(0, 15))
    for n, i in enumerate([*order, *rng.sample(order, 20)]):
        journaled[f"{i:03d}"] = [{"search_id": f"{i:03d}", "n": 10 * n + k} for k in range(rng.randrange(6))]
        table.add(f"{i:03d}", journaled[f"{i:03d}"])
        if rng.random() < 0.3:
            table.flush()
    table.flush()
    expected = [row for i in sorted(journaled) for row in journaled[i]]
    assert pq.read_table(table.path).to_pylist() == expected
    file = pq.ParquetFile(table.path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(sizes) > 3 and max(sizes) < 3 * 20  # few rows are in memory at a time
    again = Table(Folder(tmp_path), "t.parquet", COLUMNS, 10**6, journaled.values)
    before = table.path.stat().st_mtime_ns
    again.flush()
    assert table.path.stat().st_mtime_ns == before  # another process leaves a right file as it is


def test_what_was_kept_for_a_group_is_forgotten_with_it():
    memo: Memo[int] = Memo(3)
    for i, group in enumerate(["a", "a", "b", ""]):
        memo.keep(b"%d" % i, i, group)
    memo.keep(b"3", 4, "a")  # the first who asked counts
    assert list(memo) == [b"1", b"2", b"3"]  # bounded, too
    memo.forget("a")
    memo.forget("a")
    assert list(memo) == [b"2", b"3"]
    memo.forget("b")
    assert list(memo) == [b"3"]
