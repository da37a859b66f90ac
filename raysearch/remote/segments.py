"""The journal in a store: segments that are written once, each sealed by a last line.

A segment holds whole lines of the journal, and then a line in the journal's own format: the segment's number, the
offset and the number of its bytes, and a digest of the journal from its beginning up to the segment's end. So the last
segment alone tells whether a journal on local disk has all that was sealed.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

from raysearch.recipe.digests import canonical_json
from raysearch.remote.store import Store, Taken, whole
from raysearch.session.directory import JOURNAL
from raysearch.session.journal import ANSWERS

SEGMENTS = f"{JOURNAL}/segments"
ANSWERED = f"{JOURNAL}/{ANSWERS}"
MOST = 8 << 20  # bytes of a segment, unless one line is longer


def _hash() -> Any:
    return blake2b(digest_size=16)


@dataclass(frozen=True)
class Sealed:
    """How much of a journal is in the store: the number of segments, their bytes, and the hash of these."""

    segments: int = 0
    end: int = 0
    hash: Any = field(default_factory=_hash, compare=False)

    def after(self, lines: bytes) -> "Sealed":
        """With one segment more."""
        h = self.hash.copy()
        h.update(lines)
        return replace(self, segments=self.segments + 1, end=self.end + len(lines), hash=h)


def name_of(number: int) -> str:
    """The name of a segment; the first has the number 1."""
    return f"{SEGMENTS}/{number:06d}.jsonl"


def numbered(names: Iterable[str]) -> int:
    """The number of the last segment among the names of a store's files; 0 without one."""
    stems = [n.removeprefix(f"{SEGMENTS}/").removesuffix(".jsonl") for n in names if n.startswith(f"{SEGMENTS}/")]
    return max((int(s) for s in stems if s.isdecimal()), default=0)


def unsealed(journal: Path, sealed: Sealed, end: int) -> bytes:
    """The whole lines of a journal after what is sealed, up to the byte `end` or to about MOST bytes."""
    with open(journal, "rb") as file:
        file.seek(sealed.end)
        left = max(end - sealed.end, 0)
        found = file.read(min(left, MOST))
        if b"\n" not in found:
            found += file.read(left - len(found))
    return found[: found.rfind(b"\n") + 1]


def seal(store: Store, sealed: Sealed, lines: bytes) -> Sealed:
    """Write a segment. Raises Taken if another process has written it, and StoreError."""
    after = sealed.after(lines)
    about = {"segment": after.segments, "offset": sealed.end, "bytes": len(lines), "upto": after.hash.hexdigest()}
    text = canonical_json(about).encode()
    content = lines + b"%08x %s\n" % (crc32(text), text)
    try:
        store.put_if(name_of(after.segments), content, None)
    except Taken:  # perhaps by this process: the answer to an earlier try was lost
        if whole(store, name_of(after.segments)) != content:
            raise Taken(f"another run has written segment {after.segments} of its journal") from None
    return after


def opened(content: bytes, number: int) -> tuple[bytes, int, str] | None:
    """The journal's lines in a segment, their end in the journal, and its digest up to there; None if it is torn."""
    start = content.rfind(b"\n", 0, len(content) - 1) + 1
    checksum, _, text = content[start:].rstrip(b"\n").partition(b" ")
    if not content.endswith(b"\n") or checksum != b"%08x" % crc32(text):
        return None
    try:
        about = json.loads(text)
        fits = about["segment"] == number and about["bytes"] == start
        return (content[:start], about["offset"] + start, str(about["upto"])) if fits else None
    except (KeyError, TypeError, ValueError):
        return None


def upto(journal: Path, end: int) -> Any:
    """The hash of a journal's first bytes; None if it is shorter."""
    h, left = _hash(), end
    try:
        with open(journal, "rb") as file:
            while left and (piece := file.read(min(left, 1 << 22))):
                h.update(piece)
                left -= len(piece)
    except OSError:
        return None
    return None if left else h
