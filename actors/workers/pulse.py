"""How long a worker's compute thread has been at one step or call: what tells a slow one from one that hangs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pulse:
    def __init__(self) -> None:
        self.beats = 0  # steps and calls done
        self._began: float | None = None

    @contextmanager
    def beat(self) -> Iterator[None]:
        """Around each step or call, on the compute thread."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None
            self.beats += 1

    def busy(self) -> float:
        """Seconds since the step or call at hand began; 0 between two. From any thread."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began
