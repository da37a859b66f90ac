"""What an allocator sees of an arm's searches, and what it answers: see policies/allocators."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any, TypeVar

import numpy as np

from raysearch.config.config import Arm
from raysearch.config.foreign import blamed
from raysearch.errors import ConfigError, check

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Standing:
    """How the N searches of an arm stand, in the order of their ids; all fields are arrays (N,).

    A search's cost is in the unit of the arm's total; in NFE it includes what finishing its best still takes.
    """

    trials: np.ndarray  # int: how many each has begun
    best: np.ndarray  # float: its highest reward by rewards.search; -inf before the first
    cost: np.ndarray  # float: NFE or replica-seconds
    open: np.ndarray  # bool: it could make another trial

    @property
    def size(self) -> int:
        """The number of searches N."""
        return len(self.trials)


def steady(allocate: F) -> F:
    """Mark an allocator whose pick of a search stays, whatever the trials of other searches still bring.

    So it is if the pick depends on trials, best and open alone, and holds as well when others' best rises or others
    are no longer open. Such an allocator is asked before all trials of a round are done, and its picks begin early.
    """
    allocate.steady = True  # type: ignore[attr-defined]
    return allocate


def picked(arm: Arm, standing: Standing) -> np.ndarray:
    """The indices that an arm's allocator returns, but for those of searches that are not open.

    Raises ConfigError, whatever the allocator raises or returns.
    """
    assert arm.allocate is not None and arm.allocation is not None
    given, can = {k: v for k, v in arm.allocation.items() if k != "name"}, standing.open.copy()
    try:
        picks: np.ndarray = np.array([index(i) for i in arm.allocate(standing, **given)], dtype=int)
        for i in picks[(picks < 0) | (picks >= len(can))].tolist():
            check(False, "an index that it returned", i, f"in 0..{len(can) - 1}")
        check(len(np.unique(picks)) == len(picks), "what it returned", picks.tolist(), "without repetition")
    except (Exception, SystemExit) as error:
        who = f"allocation {arm.allocation['name']} (arm {arm.name})"
        raise ConfigError(f"{who}: {blamed(error, arm.allocate)}") from None
    return picks[can[picks]]  # type: ignore[no-any-return]


def check_first(arm: Arm, n: int, video: int) -> None:
    """Raises ConfigError unless all `n` searches can make a first trial of `video` NFE, and the allocator then answers.

    It is asked about searches of made-up rewards.
    """
    total, least = arm.budget.total_nfe, n * video
    allowed = f"at least {least}, the NFE of a video for each of {n} searches (arm {arm.name})"
    check(total is None or total >= least, "budget.total_nfe", total, allowed)
    picked(arm, Standing(np.ones(n, int), np.arange(n) / n, np.full(n, float(video)), np.ones(n, bool)))
