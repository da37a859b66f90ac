"""What encoders made of texts, on the driver's disk: whoever asks for the same again needs no encoder.

The folder is a cache that runs share, also at the same time. A file is named by the digest of all that its content
depends on; one that is damaged counts as missing, and is written anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.engine.protocol import Text, What, Whole
from raysearch.files import own_content, replace_file, sealed, unsealed
from raysearch.recipe.digests import Digest, digest


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of texts in a folder, one file each.

    `encoding` is the digest of all that an embedding depends on besides the text: see `Plan`. `put` makes a reference
    that replicas can read, of a text and the arrays of its answer.
    """

    folder: Path
    encoding: Digest
    put: Callable[[Any, dict[str, Any]], Any] | None = None

    def key(self, what: What) -> Digest | None:
        """The name of a text's file; None for what is not kept: whatever shows a picture.

        Nothing that a pipeline makes of a text before its first step depends on the number of steps, so drafts share
        the file. The tests hold this for the pipelines that they know.
        """
        match what:
            case Text(text, length):
                return digest("text", self.encoding, text, length)
            case Whole(text, s, ()):
                call = (s.negative_prompt, s.max_sequence_length, s.call, s.guidance_scale, s.guidance_scale_2)
                return digest("whole", self.encoding, text, call, (s.height, s.width, s.num_frames))
        return None

    def arrays(self, what: What) -> dict[str, np.ndarray] | None:
        """The arrays of a text's embedding by name; None without a whole file."""
        key = self.key(what)
        return unsealed(key, own_content(self._file(key))) if key else None

    def there(self, what: What) -> bool:
        """True if there is a file of a text's embedding, whole or not."""
        return (key := self.key(what)) is not None and self._file(key).is_file()

    def read(self, what: What) -> Any:
        """A reference to the embedding of a text; None without a whole file."""
        arrays = self.arrays(what)
        try:
            return self.put(what, arrays) if arrays and self.put else None
        except (LookupError, TypeError, ValueError, RecursionError):  # arrays that no encoder has made
            return None

    def write(self, what: What, arrays: Mapping[str, Any]) -> None:
        """Write the arrays of an answer, unless there are none; what the disk refuses is missing."""
        if arrays and (key := self.key(what)):  # most of an embedding is the zeros behind a short caption
            replace_file(self._file(key), sealed(key, arrays, compressed=True))

    def _file(self, key: Digest) -> Path:
        return self.folder / f"{key.hex()}.embedding"
