"""An append-only record of answers: what was asked of the world, and what it said.

One JSON object a line, each with a CRC so that a torn last line is known for what it is. Tensors are not recorded: a
policy replayed against its answers asks for the same candidates, and those are recipes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from raysearch.errors import ConfigError
from raysearch.recipe.digests import canonical_json

ANSWERS = "answers.jsonl"
FORMAT = 2  # of the records: a folder whose journal has another one is not gone on with


class Journal:
    """Appends records to `folder/answers.jsonl`; a record is in the operating system's hands when `add` returns.

    Of an earlier run's file what follows a torn record is cut off first, or nothing added could be read. One writer at
    a time: a second raises ConfigError.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ANSWERS
        self._file = open(path, "ab")  # noqa: SIM115 (closed in close)
        try:
            _lock(self._file, folder)
        except ConfigError:
            self.close()
            raise
        self._file.truncate(sum(len(line) for line, _ in _records(path)))

    def add(self, record: dict[str, Any]) -> None:
        text = canonical_json(record).encode()
        self._file.write(b"%08x %s\n" % (crc32(text), text))
        self._file.flush()  # what a full disk does not take stays in the buffer, and goes first the next time

    def close(self) -> None:
        self._file.close()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The lock of a run that records no answers. Raises ConfigError where another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        _lock(file, folder)
        yield


def _lock(file: IO[bytes], folder: Path) -> None:
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError.of("run_dir", str(folder.parent), "one that no other run is writing to now") from error
    except OSError:
        pass  # a file system without locks


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, up to the first that is torn."""
    path = folder / ANSWERS
    if path.exists():
        yield from (json.loads(text) for _, text in _records(path))


def written(folder: Path) -> bool | None:
    """Whether a process has the journal open for writing; None where a file system has no locks."""
    with open(folder / ANSWERS, "rb") as file:
        try:
            flock(file, LOCK_SH | LOCK_NB)  # let go when the file is closed, at once
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _records(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Each whole line and its record's text, up to the first that is torn."""
    with open(path, "rb") as lines:
        for line in lines:
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
                return
            yield line, text
