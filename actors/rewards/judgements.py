"""Judgements of an endpoint on disk, so that nothing that was answered is asked, and paid for, again.

Runs share the folder, also at the same time. A file is named by the digest of the whole question, which has the model,
the text and the frames, but neither the endpoint's address nor a key. A damaged file counts as missing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.config.cache import users
from raysearch.errors import check
from raysearch.files import own_content, replace_file, sealed, unsealed
from raysearch.recipe.digests import Digest, canonical_json, digest

FORMAT = "judgement 2"  # changes when the same answers are read as other numbers


@dataclass(frozen=True)
class Judgements:
    """The numbers that answers were read as, and their tokens, a file for each; without a folder nothing is kept."""

    folder: Path | None

    @staticmethod
    def opened(cache: bool | str) -> "Judgements":
        """Those of a folder, which is made if need be; with true of the user's cache, if that can be written.

        Raises ConfigError for another folder that cannot be written.
        """
        if cache is False:
            return Judgements(None)
        try:
            folder = users("judgements") if cache is True else Path(cache).expanduser()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        except (OSError, RuntimeError):  # the latter of a home that nobody knows
            usable = False
        check(usable or cache is True, "cache", cache, "true, false, or a folder that can be written")
        return Judgements(folder if usable else None)

    @staticmethod
    def key(question: Mapping[str, Any]) -> Digest:
        """The digest of a request's body."""
        return digest(FORMAT, canonical_json(question))

    def read(self, key: Digest, n: int) -> tuple[list[float], int] | None:
        """The `n` numbers of a question's answer, and the tokens that it cost; None without a whole file."""
        found = (unsealed(key, own_content(self._file(key))) if self.folder else None) or {}
        numbers, tokens = (found.get(name, np.empty(0)) for name in ("numbers", "tokens"))
        good = numbers.shape == (n,) and numbers.dtype == np.float64 and bool(np.isfinite(numbers).all())
        good = good and tokens.shape == (1,) and tokens.dtype == np.int64 and tokens[0] >= 0
        return (numbers.tolist(), int(tokens[0])) if good and n else None

    def write(self, key: Digest, numbers: list[float], tokens: int) -> None:
        """Keep the numbers of an answer, and its tokens; what the disk refuses is missing."""
        if self.folder:
            arrays = {"numbers": np.array(numbers, np.float64), "tokens": np.array([tokens], np.int64)}
            replace_file(self._file(key), sealed(key, arrays))

    def _file(self, key: Digest) -> Path:
        assert self.folder is not None
        return self.folder / f"{key.hex()}.judgement"
