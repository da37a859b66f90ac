"""Digests of values, 128 bits: what recipes, what is stored and what noise is keyed by."""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import TypeAlias

Digest: TypeAlias = bytes


def digest(*parts: object) -> Digest:
    """128 bits of a canonical encoding of `parts`: str, bytes, int, float, bool, None, and tuples of these."""
    h = blake2b(digest_size=16)
    for part in parts:
        _encode(h, part)
    return h.digest()


def digests(parts: Iterable[object]) -> Iterator[Digest]:
    """The digest of no parts, of the first one, of the first two, and so on."""
    h = blake2b(digest_size=16)
    yield h.digest()
    for part in parts:
        _encode(h, part)
        yield h.digest()


def _encode(h: "blake2b", part: object) -> None:
    if isinstance(part, tuple):
        h.update(b"(%d:" % len(part))
        for p in part:
            _encode(h, p)
        return
    if isinstance(part, bytes):
        tag, raw = b"b", part
    elif isinstance(part, str):
        tag, raw = b"s", part.encode()
    elif part is None or isinstance(part, bool | int):
        tag, raw = b"i", repr(part).encode()
    elif isinstance(part, float):
        tag, raw = b"f", part.hex().encode()
    else:
        raise TypeError(f"no canonical encoding of {type(part).__name__}")
    h.update(b"%s%d:" % (tag, len(raw)))
    h.update(raw)


def noise_key(lineage: Digest, purpose: str) -> int:
    """A 63-bit generator seed from a lineage digest and what the noise is for."""
    return int.from_bytes(digest("key", lineage, purpose)[:8], "big") >> 1


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
