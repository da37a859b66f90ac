"""The states of long videos' parts on disk, by identity: a run that was killed goes on from its last written part.

The folder is a cache: a file whose digest does not fit its content is dropped.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.files import Folder, own_content, sealed, unsealed
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest

SPILL = "spill"  # the folder in a run's directory


class Spill:
    """The states of finished parts, one file each in SPILL. `put` makes a reference that replicas can read."""

    def __init__(self, folder: Folder, put: Callable[[dict[str, Any]], Any]) -> None:
        self._folder, self._put = folder, put
        self._claimed: set[Digest] = set()

    def _file(self, identity: Digest) -> Path:
        return self._folder.path / _name(identity)

    def __contains__(self, x: Candidate) -> bool:
        return x.finished and self._file(x.identity).is_file()

    def claim(self, x: Candidate) -> bool:
        """True if the state of `x` is yet to be written and no earlier caller has claimed it."""
        if x.identity in self._claimed or x in self:
            return False
        self._claimed.add(x.identity)
        return True

    def write(self, x: Candidate, state: dict[str, Any], seconds: Sequence[float]) -> bool:
        """Write the state of `x`; False if the disk refuses. `seconds`: of `x` and of `long_video.unseen(x)`."""
        arrays = {k: np.frombuffer(v, np.uint8) if isinstance(v, bytes) else v for k, v in state.items()}
        try:
            self._folder.write(_name(x.identity), sealed(x.identity, {"seconds": np.array(seconds), **arrays}))
        except OSError:  # the search goes on without the cache
            self.drop([x.identity])
            return False
        return True

    def read(self, x: Candidate) -> tuple[Any, int, list[float]] | None:
        """A reference to the state of `x`, its size in bytes and the seconds of `write`; None without a whole file."""
        state = unsealed(x.identity, own_content(self._file(x.identity)))
        if state is None:
            self.drop([x.identity])
            return None
        seconds = state.pop("seconds").tolist()
        return self._put(state), sum(v.nbytes for v in state.values()), seconds

    def drop(self, identities: Iterable[Digest]) -> None:
        """Delete the files of these candidates, which may be claimed again."""
        for identity in identities:
            with suppress(OSError):
                self._folder.unlink(_name(identity))
            self._claimed.discard(identity)

    def close(self) -> None:
        """Delete the folder at the end of the run, with the files that an earlier process of the run left."""
        self._folder.remove(SPILL)


def _name(identity: Digest) -> str:
    return f"{SPILL}/{identity.hex()}.part"
