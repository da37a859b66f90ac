"""How far a run has come: running sums in constant memory, read by the display."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raysearch.dispatcher import Dispatcher
from raysearch.engine import Engine
from raysearch.ledger import Cost


@dataclass
class ArmTally:
    """Running sums of one arm, for the display and the summary."""

    done: int = 0
    failed: int = 0
    budget: int = 0
    cost: Cost = field(default_factory=Cost)
    nfe_spent: int = 0
    judged: "Moments" = field(default_factory=lambda: Moments())  # holdout components of the winners


@dataclass
class Moments:
    """Running mean and spread of rows, in constant memory."""

    n: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, row: Sequence[float]) -> None:
        values = np.asarray(row, dtype=float)
        if self.n == 0:
            self.mean, self.squares = np.zeros_like(values), np.zeros_like(values)
        self.n += 1
        before = values - self.mean
        self.mean = self.mean + before / self.n
        self.squares = self.squares + before * (values - self.mean)

    def interval(self) -> np.ndarray:
        """Half the width of a 95% confidence interval of the mean (normal approximation)."""
        return 1.96 * np.sqrt(self.squares / max(self.n - 1, 1) / max(self.n, 1))


@dataclass
class Progress:
    """What a display reads while a run goes on."""

    total: int
    arms: dict[str, ArmTally]
    started: float
    engine: Engine | None = None
    dispatcher: Dispatcher | None = None
    best: float | None = None
    kept: int = 0  # finished by an earlier run, hence done at once

    @property
    def done(self) -> int:
        return sum(a.done for a in self.arms.values())

    @property
    def failed(self) -> int:
        return sum(a.failed for a in self.arms.values())
