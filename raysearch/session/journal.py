"""The journal: an append-only file of the rewards that searches were answered, and of how searches ended.

Each line is a CRC and a JSON object, so that a torn last line is recognised. Tensors are not recorded: a policy that is
replayed against its recorded answers asks for the same candidates, and candidates are recipes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from raysearch.errors import ConfigError, FolderError
from raysearch.files import Folder
from raysearch.recipe.digests import canonical_json

ANSWERS = "answers.jsonl"
MISREAD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)  # of what is no record
FORMAT = 3  # of the records: a run whose journal has another format is not resumed


class Journal:
    """Appends records to `folder/answers.jsonl`, and holds its lock until it is closed.

    An earlier run's file is first cut off at its first torn record, as records after that one could not be read.
    Raises ConfigError if another process has the journal open.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._name = Folder(folder.parent), Path(folder.name, ANSWERS)
        self._broken: FolderError | None = None
        self._file = self._folder.append(self._name)
        try:
            _lock(self._file, folder)
        except ConfigError:
            self.close()
            raise
        self._file.truncate(sum(len(line) for line, _ in _records(folder / ANSWERS)))

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; when this returns the operating system has it. Raises FolderError.

        A journal that could not take a record takes no other: what a policy makes of the error must not be recorded.
        """
        text = canonical_json(record).encode()
        try:
            if self._broken is None:
                with self._folder.told(self._name):
                    self._file.write(b"%08x %s\n" % (crc32(text), text))
                    self._file.flush()
        except FolderError as error:
            self._broken = error
        if self._broken is not None:
            raise self._broken

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Read the journal's records in this context: an error closes the journal.

        Raises ConfigError where the error shows that this version did not write the records.
        """
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, ConfigError) or not isinstance(error, MISREAD):
                raise
            allowed = f"a folder whose {self._name} holds nothing but records of this version"
            said = f"{allowed} ({type(error).__name__}: {error})"
            raise ConfigError.of("run_dir", str(self._folder.path), said) from error

    def close(self) -> None:
        """Let go of the file and its lock."""
        with suppress(OSError):  # what the disk did not take
            self._file.close()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder without a journal, such as a training's. Raises ConfigError if another process does."""
    with Folder(folder.parent).append(Path(folder.name, "lock")) as file:
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
    """The records of a journal, up to the first torn one; none without a journal."""
    path = folder / ANSWERS
    if path.exists():
        yield from (json.loads(text) for _, text in _records(path))


def written(folder: Path) -> bool | None:
    """True if a process has the journal open for writing; None on a file system without locks."""
    with open(folder / ANSWERS, "rb") as file:
        try:
            flock(file, LOCK_SH | LOCK_NB)  # closing the file releases this lock at once
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _records(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Each line and its JSON text, up to the first torn line."""
    with open(path, "rb") as lines:
        for line in lines:
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
                return
            yield line, text
