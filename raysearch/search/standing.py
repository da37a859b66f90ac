"""What an allocator sees of an arm's searches, and the mark of one that lets sure picks start early."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Standing:
    """How the N searches of an arm stand, in the order of their ids; all fields are arrays (N,).

    A search's cost is in the unit of the arm's total, NFE or replica-seconds; NFE hold what finishing its best takes.
    """

    trials: np.ndarray  # int: how many each has begun
    best: np.ndarray  # float: its highest reward by rewards.search; -inf before the first
    cost: np.ndarray  # float
    open: np.ndarray  # bool: it could make another trial

    @property
    def size(self) -> int:
        """The number of searches N."""
        return len(self.trials)


def steady(allocate: F) -> F:
    """Mark an allocator whose pick of a search stays, whatever the trials of other searches still bring.

    So it is if the pick of a search depends on nothing but itself and others' `best` and `open`, and holds as well
    when others' best rises or they end. It is then asked before all trials of a round are done, and what it picks
    begins early.
    """
    allocate.steady = True  # type: ignore[attr-defined]
    return allocate
