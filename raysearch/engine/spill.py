"""Parts of long videos on disk, by identity: a cache, so that what was killed late does not begin at the first frame.

Numbers and arrays in numpy's .npz, read without pickle, after a digest of their bytes: what is not whole is not there.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.files import write
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest, digest

SPILL = "spill"  # the folder in a run's directory


class Spill:
    def __init__(self, folder: Path, put: Callable[[dict[str, Any]], Any]) -> None:
        """`put` gives a reference that replicas read to what was written."""
        self._folder, self._put = folder, put
        self._claimed: set[Digest] = set()

    def _file(self, identity: Digest) -> Path:
        return self._folder / f"{identity.hex()}.part"

    def __contains__(self, x: Candidate) -> bool:
        return x.finished and self._file(x.identity).is_file()

    def claim(self, x: Candidate) -> bool:
        """Whether it is yet to be written; to the first who asks."""
        if x.identity in self._claimed or x in self:
            return False
        self._claimed.add(x.identity)
        return True

    def write(self, x: Candidate, state: dict[str, Any], seconds: Sequence[float]) -> bool:
        """`seconds` are those of its trajectory and of those before it that do not show. False without room on disk."""
        buffer = io.BytesIO()
        arrays = {f"of_{k}": np.frombuffer(v, np.uint8) if isinstance(v, bytes) else v for k, v in state.items()}
        np.savez(buffer, allow_pickle=False, seconds=np.array(seconds), **arrays)
        content = buffer.getvalue()
        try:
            write(self._file(x.identity), digest(content) + content)
        except OSError:  # a cache: the search goes on without
            self.drop([x.identity])
            return False
        return True

    def read(self, x: Candidate) -> tuple[Any, int, list[float]] | None:
        """A reference, its size, and the seconds; None if it cannot be read."""
        try:
            found = self._file(x.identity).read_bytes()
        except OSError:
            found = b""
        held, content = found[:16], found[16:]
        if digest(content) != held:
            self.drop([x.identity])
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            state = {k.removeprefix("of_"): arrays[k] for k in arrays.files if k != "seconds"}
            seconds = arrays["seconds"].tolist()
        return self._put(state), sum(v.nbytes for v in state.values()), seconds

    def drop(self, identities: Iterable[Digest]) -> None:
        for identity in identities:
            with suppress(OSError):
                self._file(identity).unlink()
            self._claimed.discard(identity)

    def close(self) -> None:
        """The run has ended: what others left goes, too."""
        if self._folder.is_dir():
            for file in self._folder.iterdir():
                file.unlink()
            self._folder.rmdir()
