"""What a search is charged: what it would cost alone, in program order, whatever other searches have already made."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from raysearch.recipe import Branch, Candidate, Digest, Lookahead, denoise


@dataclass(frozen=True)
class Cost:
    """NFE (transformer evaluations; guidance counts twice), VAE decodes, reward calls, and seconds of replicas."""

    nfe: int = 0
    decodes: int = 0
    reward_calls: int = 0
    replica_seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.nfe + other.nfe,
            self.decodes + other.decodes,
            self.reward_calls + other.reward_calls,
            self.replica_seconds + other.replica_seconds,
        )


@dataclass(frozen=True)
class Budget:
    """The most a search may spend; None is no bound."""

    nfe: int | None = None
    replica_seconds: float | None = None
    wall_seconds: float | None = None


class Ledger:
    """The states that one search has asked for, hence what more of them would cost it."""

    def __init__(self, *, preview: bool, decodes: bool) -> None:
        self.preview = preview  # a score evaluates the velocity at the candidate's own point
        self.decodes = decodes  # a score decodes frames
        self._stops: dict[Digest, dict[int, bool]] = {}  # trajectory -> step -> is the velocity there known
        self._scored: set[Digest] = set()

    def asked(self, x: Candidate) -> bool:
        return x.identity in self._scored

    def copy(self) -> "Ledger":
        other = Ledger(preview=self.preview, decodes=self.decodes)
        other._stops = {k: dict(v) for k, v in self._stops.items()}
        other._scored = set(self._scored)
        return other

    def score(self, xs: Iterable[Candidate]) -> Cost:
        """Charge for scoring `xs`, in order; what was asked for before is free."""
        total = Cost()
        for x in xs:
            if x.identity not in self._scored:
                self._scored.add(x.identity)
                total += Cost(self._make(x, self.preview), int(self.decodes), 1)
        return total

    def finish(self, x: Candidate) -> Cost:
        """Charge for denoising `x` to the end and decoding its video."""
        return Cost(self._make(denoise(x, x.sampler.num_steps), False), 1)

    def remaining(self, x: Candidate) -> int:
        """The NFE that `finish` would charge for a candidate whose origin's parent is made; charges nothing."""
        stops = self._stops.get(x.trajectory) or {x.origin.step: False}
        last = max(stops)
        return max(x.sampler.num_steps - last - stops[last], 0) * x.sampler.nfe_per_step

    def _make(self, x: Candidate, velocity: bool) -> int:
        nfe = 0
        while True:
            evaluations, known = self._leg(x, velocity)
            nfe += evaluations * x.sampler.nfe_per_step
            if known or x.parent is None:
                return nfe
            x, velocity = x.parent, isinstance(x.origin, Lookahead)

    def _leg(self, x: Candidate, velocity: bool) -> tuple[int, bool]:
        """Velocity evaluations that lead to `x` within its trajectory, and whether the trajectory was begun before."""
        stops = self._stops.setdefault(x.trajectory, {})
        velocity = velocity and not x.finished
        base = max((s for s in stops if s <= x.step), default=None)
        if base is None:
            begun, start, known = False, x.origin.step, self._inherited(x)
        else:
            begun, start, known = True, base, stops[base]
        if start == x.step:
            stops[x.step] = known or velocity
            return int(velocity and not known), begun
        stops[x.step] = velocity
        return x.step - start - known + velocity, begun

    def _inherited(self, x: Candidate) -> bool:
        """A branch starts with the velocity that its parent knows, if it does; a lookahead makes its parent know it."""
        if isinstance(x.origin, Lookahead):
            return True
        return isinstance(x.origin, Branch) and self._stops.get(x.origin.parent.trajectory, {}).get(
            x.origin.step, False
        )


class Meter:
    """One search's account: what it is charged, and what its budget still allows."""

    def __init__(self, budget: Budget, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.ledger, self.charged = budget, ledger, Cost()
        self._making: dict[Digest, float] = {}
        self._clock, self._start = clock, clock()

    @property
    def wall_seconds(self) -> float:
        return self._clock() - self._start

    def time(self, x: Candidate, making: float, rest: float) -> None:
        """Charge seconds: of `x`'s trajectory what this search has not been charged for yet, and the rest whole."""
        before = self._making.get(x.trajectory, 0.0)
        self._making[x.trajectory] = max(before, making)
        self.charged += Cost(replica_seconds=max(making - before, 0.0) + rest)

    def admit(self, xs: list[Candidate], others: Sequence[Candidate]) -> str | None:
        """Charge for scoring `xs`; or say which budget does not allow it, and charge nothing.

        The cost of finishing the dearest of `xs` and `others`, which the search could then return, is held back.
        """
        b = self.budget
        if b.replica_seconds is not None and self.charged.replica_seconds >= b.replica_seconds:
            return f"budget.replica_seconds={b.replica_seconds:g}"
        if b.wall_seconds is not None and self.wall_seconds >= b.wall_seconds:
            return f"budget.wall_seconds={b.wall_seconds:g}"
        if b.nfe is None:
            self.charged += self.ledger.score(xs)
            return None
        trial = self.ledger.copy()
        cost = trial.score(xs)
        reserve = max(trial.remaining(x) for x in (*others, *xs))
        if self.charged.nfe + cost.nfe + reserve > b.nfe:
            return f"budget.nfe={b.nfe}"
        self.ledger, self.charged = trial, self.charged + cost
        return None

    def affords(self, x: Candidate) -> bool:
        """Whether `budget.nfe` still allows `x` to be finished."""
        return self.budget.nfe is None or self.charged.nfe + self.ledger.copy().finish(x).nfe <= self.budget.nfe
