"""The block of a page's columns: typed values one after the other, and the table that says where each begins.

README.md, beside this file, is the contract.
"""

import gzip
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ALIGNED = 8  # bytes, of which each column's offset is a multiple
MOST_I32 = 2**31 - 1
EXACT_F32 = 2**20  # beyond it a f32 has less than a tenth of exactness, which times and large sums need
MOST_LISTED = 64  # values of a list that are kept
CODES = ((255, "u8", np.uint8), (65535, "u16", np.uint16))  # how many texts, the name of the type, the type

Column = dict[str, Any]
Table = dict[str, Any]


class Block:
    """Columns of one or several tables. `bytes` is what lies in the page once it is gzipped."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def gzipped(self) -> bytes:
        """The same bytes for the same columns."""
        return gzip.compress(b"".join(self._parts), compresslevel=6, mtime=0)

    def table(self, columns: dict[str, "pa.ChunkedArray | np.ndarray | None"]) -> Table:
        """A table of columns of one length; those of a type that the page does not know are left out."""
        made, rows = {}, 0
        for name, values in columns.items():
            column = self.column(values)
            if column is not None:
                made[name], rows = column, column["length"] // column.get("width", 1)
        return {"n": rows, "columns": made}

    def column(self, values: "pa.ChunkedArray | np.ndarray | None") -> Column | None:
        """The column of Arrow or numpy values; numpy floats are numbers, and bytes (N, k) are hexadecimal digits."""
        if isinstance(values, np.ndarray):
            return self._hex(values) if values.dtype == np.uint8 else self._numbers(values)
        if values is None:
            return None
        kind = values.type
        if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return self._texts(values)
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return self._numbers(numbers(values))
        if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            return self._lists(values)
        return None

    def _add(self, content: bytes) -> int:
        offset = self._size
        content += bytes(-len(content) % ALIGNED)
        self._parts.append(content)
        self._size += len(content)
        return offset

    def _numbers(self, values: np.ndarray) -> Column:
        """Whole numbers from 0 as i32, others as floats; NaN and -1 are null."""
        if np.issubdtype(values.dtype, np.integer):
            if not len(values) or (values.min() >= -1 and values.max() <= MOST_I32):
                return {"type": "i32", "offset": self._add(values.astype("<i4").tobytes()), "length": len(values)}
            values = values.astype(float)
        there = values[np.isfinite(values)]
        whole = len(there) > 0 and bool((there == np.floor(there)).all())
        whole = whole and values.dtype != np.float32 and len(there) == np.count_nonzero(~np.isnan(values))
        if whole and there.min() >= 0 and there.max() <= MOST_I32:
            return self._numbers(np.where(np.isnan(values), -1, values).astype(np.int64))
        large = len(there) > 0 and float(np.abs(there).max()) >= EXACT_F32
        name, kind = ("f64", "<f8") if large else ("f32", "<f4")
        return {"type": name, "offset": self._add(values.astype(kind).tobytes()), "length": len(values)}

    def _hex(self, values: np.ndarray) -> Column:
        return {"type": "hex", "offset": self._add(values.tobytes()), "length": values.size, "width": values.shape[1]}

    def _texts(self, values: pa.ChunkedArray) -> Column:
        one = values.combine_chunks()
        if not pa.types.is_dictionary(one.type):
            one = one.dictionary_encode()
        known = one.dictionary.to_pylist()
        codes = one.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        name, kind = next(((n, k) for most, n, k in CODES if len(known) <= most), ("i32", np.dtype("<i4").type))
        offset = self._add(codes.astype(np.dtype(kind).newbyteorder("<")).tobytes())
        content = json.dumps(known, ensure_ascii=False).encode("utf-8", "replace")
        strings = {"offset": self._add(content), "bytes": len(content)}
        return {"type": "dict", "codes": name, "offset": offset, "length": len(codes), "strings": strings}

    def _lists(self, values: pa.ChunkedArray) -> Column:
        lists = values.combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        width = min(int(lengths.max(initial=0)), MOST_LISTED) or 1
        rows = np.full((len(lengths), width), np.nan, np.float32)
        flat = numbers(lists.flatten()).astype(np.float32)
        of = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows[of[place < width], place[place < width]] = flat[place < width]
        return {"type": "f32", "offset": self._add(rows.tobytes()), "length": rows.size, "width": width}


def numbers(values: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    """Arrow numbers or booleans as floats (N,), NaN where one is missing."""
    made: np.ndarray = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return made


def digits(ids: pa.ChunkedArray, *, width: int) -> np.ndarray:
    """The first `width` bytes of N hexadecimal ids, uint8 (N, width), zeros where an id is missing or is no such id."""
    found = np.zeros((len(ids), width), np.uint8)
    heads = pc.utf8_slice_codeunits(ids, 0, 2 * width)
    fits = pc.fill_null(pc.match_substring_regex(heads, f"^[0-9a-f]{{{2 * width}}}$"), False)
    there = fits.to_numpy(zero_copy_only=False)
    text = "".join(heads.filter(fits).to_pylist())
    found[there] = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, width)
    return found


def texts(values: Sequence[str | None]) -> pa.ChunkedArray:
    """Texts as a column."""
    return pa.chunked_array([pa.array(values, pa.string())])
