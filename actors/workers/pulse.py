"""How long a worker's compute thread has been at one step or call, by which a fleet tells slow from stuck."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = 3  # a worker's first step or call, which may compile, may take this many times fleet.timeout_s


def limit(timeout: float, beats: int) -> float:
    """Seconds after which a step or call counts as hung, with fleet.timeout_s, when `beats` others are done."""
    return timeout * (1 if beats else FIRST)


class Pulse:
    """Times the current step or call of a compute thread; other threads may read at any moment."""

    def __init__(self) -> None:
        self.beats = 0  # steps and calls that are done
        self._began: float | None = None

    @contextmanager
    def beat(self) -> Iterator[None]:
        """Enter this context around each step or call, on the compute thread."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None
            self.beats += 1

    def busy(self) -> float:
        """Seconds since the current step or call began; 0 if the thread is idle."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def left(self, timeout: float) -> float:
        """Seconds until the current step or call counts as hung, with fleet.timeout_s; all of them if idle."""
        return limit(timeout, self.beats) - self.busy()
