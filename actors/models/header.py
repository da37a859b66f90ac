"""The headers of safetensors files: which tensors a file holds. Read without torch, and without reading a tensor."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
# The bits of a float's exponent, which are all set in NaN and infinity, and in no finite number.
EXPONENTS: dict[str, np.unsignedinteger[Any]] = {
    "F64": np.uint64(0x7FF0 << 48),
    "F32": np.uint32(0x7F80 << 16),
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
}
LONGEST = 100_000_000  # bytes of a header, as the format says
CHUNK = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its type in safetensors' letters, its shape, and where its bytes are after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises ValueError, which ends the sentence "the file ...", for a file that is cut off or none; OSError.
    """
    _, found = _read(file)
    return found


def _read(file: Path) -> tuple[int, dict[str, Tensor]]:
    """The length of a file's header, in bytes, and its tensors in the order of their bytes."""
    with open(file, "rb") as f:
        size = file.stat().st_size
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > LONGEST:
            raise ValueError("is no safetensors file")
        if size < 8 + length:
            raise ValueError(f"is cut off: it has {size} bytes, and its header alone has {8 + length}")
        text = f.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        found = {k: Tensor(e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for k, e in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("is no safetensors file") from error
    found = dict(sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)))
    at = 0
    for name, t in found.items():
        if t.begin != at or (t.dtype in BYTES and t.end - t.begin != BYTES[t.dtype] * prod(t.shape)):
            raise ValueError(f"is damaged: its header gives {name} a wrong place")
        at = t.end
    if size != 8 + length + at:
        raise ValueError(f"is cut off: it has {size} bytes, and its header describes {8 + length + at}")
    return 8 + length, found


def finite_chunks(file: Path) -> Iterator[bytes]:
    """The bytes of a safetensors file, one chunk after the other. Raises ValueError for a tensor with NaN or inf."""
    start, found = _read(file)
    with open(file, "rb") as f:
        yield f.read(start)
        for name, t in found.items():
            exponent = EXPONENTS.get(t.dtype)
            for at in range(t.begin, t.end, CHUNK):
                chunk = f.read(min(CHUNK, t.end - at))
                if exponent is not None:
                    bits = np.frombuffer(chunk, exponent.dtype)
                    if ((bits & exponent) == exponent).any():
                        raise ValueError(f"has NaN or inf in {name}")
                yield chunk
