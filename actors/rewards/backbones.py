"""Networks that several rewards of a scorer share, so that each is in memory once."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_SHARED: WeakValueDictionary[Hashable, object] = WeakValueDictionary()  # a network lives as long as a reward has it
_BUILDING = Lock()


def shared(key: Hashable, build: Callable[[], T]) -> T:
    """The network that another reward of this process has built under this key, or else a new one.

    The key says all that the network depends on, such as its class, its folder and its precision. Nobody may change the
    network but by moving it to a device, which is the same for all rewards of a scorer.
    """
    with _BUILDING:
        found = _SHARED.get(key)
        if found is None:
            found = _SHARED[key] = build()
        return found  # type: ignore[return-value]
