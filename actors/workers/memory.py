"""A device that is full, in our terms."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raysearch.errors import OutOfMemory


@contextmanager
def guarded() -> Iterator[None]:
    """Raise OutOfMemory for torch's own error, with what can be given back given back."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        line = (str(error).splitlines() or ["out of memory"])[0]
        error.__traceback__ = None  # its frames hold tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(line) from None
