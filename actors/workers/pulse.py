"""How long a worker's compute threads have been at one step or call, by which a fleet tells slow from stuck."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

FIRST = 3  # a worker's first step or call, which may compile, may take this many times fleet.timeout_s


def limit(timeout: float, beats: int) -> float:
    """Seconds after which a step or call counts as hung, with fleet.timeout_s, when `beats` others are done."""
    return timeout * (1 if beats else FIRST)


@dataclass
class Stopwatch:
    """The seconds that what ran in its contexts took together."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the seconds of this context."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


class Pulse:
    """Times the current step or call of each compute thread; other threads may read at any moment."""

    def __init__(self) -> None:
        self.beats = 0  # steps and calls that are done
        self._began: dict[int, float] = {}  # by thread

    @contextmanager
    def beat(self) -> Iterator[None]:
        """Enter this context around each step or call, on the compute thread."""
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._began[thread]
            self.beats += 1

    def busy(self) -> float:
        """Seconds since the oldest step or call that goes on began; 0 if all threads are idle."""
        return max((time.monotonic() - began for began in tuple(self._began.values())), default=0.0)

    def left(self, timeout: float) -> float:
        """Seconds until the current step or call counts as hung, with fleet.timeout_s; all of them if idle."""
        return limit(timeout, self.beats) - self.busy()
