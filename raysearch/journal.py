"""An append-only record of answers: what was asked of the world, and what it said.

One JSON object a line, each with a CRC so that a torn last line is known for what it is. Tensors are not recorded: a
policy replayed against its answers asks for the same candidates, and those are recipes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from raysearch.recipe import canonical_json


class Journal:
    """Appends records to `folder/answers.jsonl`; a record is in the operating system's hands when `add` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / "answers.jsonl", "ab", buffering=0)  # noqa: SIM115 (closed in close)

    def add(self, record: dict[str, Any]) -> None:
        text = canonical_json(record).encode()
        self._file.write(b"%08x %s\n" % (crc32(text), text))

    def close(self) -> None:
        self._file.close()


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, up to the first that is torn."""
    path = folder / "answers.jsonl"
    if not path.exists():
        return
    with open(path, "rb") as lines:
        for line in lines:
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
                return
            yield json.loads(text)
