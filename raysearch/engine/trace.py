"""What replicas ran, item by item: a dispatcher tells it, and whoever records it listens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from raysearch.engine.protocol import Call, Reply


@dataclass(frozen=True, slots=True)
class Ran:
    """One item that a replica ran. Times are seconds by the clock of the event loop.

    `busy` are the items at the replica when this one began, itself included, and `reply` is None if there was none.
    """

    call: Call
    age: int  # of the search that asked first
    replica: str
    node: str
    busy: int
    asked: float
    began: float
    ended: float
    reply: Reply | None
    how: str  # done, died, lost, memory, failed or cancelled


Listener: TypeAlias = Callable[[Ran], None]
