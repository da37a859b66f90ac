"""Turns torch's error of a full device into raysearch's OutOfMemory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raysearch.errors import OutOfMemory


@contextmanager
def guarded() -> Iterator[None]:
    """Raises OutOfMemory instead of torch's own error, after the memory that torch caches is given back."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        line = (str(error).splitlines() or ["out of memory"])[0]
        error.__traceback__ = None  # its frames hold tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(line) from None
