"""What a search is charged: what it would cost alone, in program order, whatever other searches have already made."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import heappush, heapreplace
from itertools import count

from raysearch.config.config import Budget
from raysearch.config.step_cache import check_whole
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, denoise
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.long_video import ALONE, Course
from raysearch.recipe.origins import Obstacle, Recording
from raysearch.recipe.reward import Question, Reward, seen
from raysearch.search.history import Asked, Moment


@dataclass(frozen=True)
class Cost:
    """NFE (transformer evaluations; guidance counts twice), decodes, reward calls, replica-seconds, tokens paid for."""

    nfe: int = 0
    decodes: int = 0
    reward_calls: int = 0
    replica_seconds: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.nfe + other.nfe,
            self.decodes + other.decodes,
            self.reward_calls + other.reward_calls,
            self.replica_seconds + other.replica_seconds,
            self.tokens + other.tokens,
        )


class Ledger:
    """The states that one search has asked for, and so what more states would cost the search alone."""

    def __init__(
        self, *, needs_velocity: bool, decodes: bool, obstacles: Sequence[Obstacle] = (), course: Course = ALONE
    ) -> None:
        """What a score of the search's own reward needs, see `Reward`, and the course of its long video."""
        self.needs_velocity, self.decodes, self.obstacles = needs_velocity, decodes, obstacles
        self.course = course
        self._stops: dict[Digest, dict[int, bool]] = {}  # trajectory -> step -> is the velocity there known
        self._scored: set[Digest] = set()
        self._undo: list[Callable[[], object]] | None = None  # of a trial, what takes its changes back

    def asked(self, x: Question, by: Reward | None = None) -> bool:
        """True if the search has asked for the score of `x` by its own reward, or by another."""
        return _asking(x, by) in self._scored

    @contextmanager
    def trial(self) -> Iterator[Callable[[], None]]:
        """Charges within are taken back at the end, unless what this yields was called: `with trial() as keep`."""
        assert self._undo is None
        undo = self._undo = []
        try:
            yield undo.clear
        finally:
            self._undo = None
            for change in reversed(undo):
                change()

    def when_undone(self, change: Callable[[], object]) -> None:
        """Make this change, too, if the trial that is going on is taken back."""
        if self._undo is not None:
            self._undo.append(change)

    def score(self, xs: Iterable[Question], by: Reward | None = None) -> Cost:
        """Charge for answering `xs`, in order, by the search's reward or another; what was asked for before is free."""
        look = self if by is None else by
        total = Cost()
        for x in xs:
            asking = _asking(x, by)
            if asking not in self._scored:
                self._scored.add(asking)
                self.when_undone(partial(self._scored.discard, asking))
                about = seen(x)
                nfe = sum(self._make(c, look.needs_velocity) for c in about)
                nfe += self._meet([p for o in look.obstacles for p in o.points])
                total += Cost(nfe, look.decodes * len(about), 1)
        return total

    def finish(self, x: Candidate) -> Cost:
        """Charge for denoising `x` to the end and decoding its video, all its chunks; not for parts after it."""
        return Cost(self._make(denoise(x, x.sampler.num_steps), False), long_video.chunk(x) + 1)

    def after(self, x: Candidate) -> int:
        """The NFE of the parts that come after the part of `x`."""
        return self.course.after(x.part, x.sampler.num_steps) * x.sampler.nfe_per_step

    def remaining(self, x: Candidate) -> int:
        """The NFE that a video needs to go on from `x` to its end, where the parent of `x` is made; charges nothing."""
        stops = self._stops.get(x.trajectory) or {x.origin.step: False}
        last = max(stops)
        left = long_video.evaluations(x.sampler, x.part, last, x.sampler.num_steps)
        return x.sampler.nfe_of(max(left - stops[last], 0)) + self.after(x)

    def _make(self, x: Candidate, velocity: bool) -> int:
        nfe, asked = 0, x
        while True:
            check_whole(x, begun=x is not asked and not velocity)
            evaluations, known = self._leg(x, velocity)
            nfe += x.sampler.nfe_of(evaluations)
            if known or x.parent is None:
                return nfe
            nfe += self._meet(x.origin.reads)
            x, velocity = x.parent, x.origin.how.needs_velocity

    def _meet(self, points: Sequence[Candidate | Recording]) -> int:
        """NFE of generating those points that are candidates; recordings cost none."""
        return sum(self._make(p, False) for p in points if isinstance(p, Candidate))

    def _leg(self, x: Candidate, velocity: bool) -> tuple[int, bool]:
        """Evaluations that lead to `x` within its trajectory, and whether the trajectory was begun before."""
        stops = self._stops.setdefault(x.trajectory, {})
        velocity = velocity and not x.finished
        base = max((s for s in stops if s <= x.step), default=None)
        if base is None:
            begun, start, known = False, x.origin.step, self._inherited(x)
        else:
            begun, start, known = True, base, stops[base]
        if start == x.step:
            self._stop(stops, x.step, known or velocity)
            return int(velocity and not known), begun
        self._stop(stops, x.step, velocity)
        return long_video.evaluations(x.sampler, x.part, start, x.step) - known + velocity, begun

    def _stop(self, stops: dict[int, bool], step: int, known: bool) -> None:
        before = stops.get(step)
        self.when_undone(partial(stops.pop, step) if before is None else partial(stops.update, {step: before}))
        stops[step] = known

    def _inherited(self, x: Candidate) -> bool:
        """Whether the trajectory of `x` begins with the velocity at its parent's point, since the parent knows it.

        An origin that needs this velocity makes the parent know it.
        """
        how, parent = x.origin.how, x.origin.parent
        if parent is None or not how.keeps_velocity:
            return False
        return how.needs_velocity or self._stops.get(parent.trajectory, {}).get(parent.step, False)


def _asking(x: Question, by: Reward | None) -> Digest:
    return x.identity if by is None else digest(x.identity, by.identity)


class Meter:
    """One search's account: what it is charged, and what its budget still allows."""

    def __init__(
        self,
        budget: Budget,
        ledger: Ledger,
        clock: Callable[[], float] = time.monotonic,
        walls: Sequence[float] = (),
    ) -> None:
        """`walls` are the seconds at which an earlier run of this search asked its questions: they are asked then."""
        self.budget, self.ledger, self.charged = budget, ledger, Cost()
        self.asked_at = 0.0
        self._making: dict[Digest, float] = {}
        self._returnable: list[tuple[int, int, Asked]] = []  # a heap of (-NFE that it needs at most, order, row)
        self._order, self._calls = count(), count()
        self._walls = deque(walls)
        self._clock, self._start = clock, clock() - (walls[-1] if walls else 0.0)

    @property
    def wall_seconds(self) -> float:
        """Seconds since the search began, those of its earlier run included."""
        return self._clock() - self._start

    def charge_tokens(self, tokens: int) -> None:
        """Charge the tokens that a reward paid for."""
        self.charged += Cost(tokens=tokens)

    def charge_seconds(self, x: Candidate, making: float, rest: float) -> None:
        """Charge replica-seconds: of `making`, the trajectory of `x`, what is not charged yet; and `rest` whole."""
        before = self._making.get(x.trajectory, 0.0)
        self._making[x.trajectory] = max(before, making)
        self.charged += Cost(replica_seconds=max(making - before, 0.0) + rest)

    def hold(self, row: Asked) -> None:
        """Hold back, from now on, the cost of finishing the candidate of `row`: the search could return it."""
        if self.budget.nfe is None:
            return
        if self._returnable and row.part > self._returnable[0][2].part:
            self._returnable.clear()  # in a long video the search would return one of the latest part
        if not self._returnable or row.part == self._returnable[0][2].part:
            heappush(self._returnable, (-self.ledger.remaining(row.candidate), next(self._order), row))

    def admit(
        self, xs: Sequence[Question], best: Callable[[], Sequence[Candidate]], by: Reward | None = None
    ) -> str | None:
        """Charge for answering `xs`; or say which budget does not allow it, and charge nothing.

        The cost of finishing the dearest of what the search could then return is held back: of the rows held, of `xs`
        in the latest part, and of `best`, what the search would return now, as it stands and as it would be rendered.
        """
        b = self.budget
        self.asked_at = self._walls.popleft() if self._walls else self.wall_seconds
        if b.replica_seconds is not None and self.charged.replica_seconds >= b.replica_seconds:
            return f"budget.replica_seconds={b.replica_seconds:g}"
        if b.wall_seconds is not None and self.asked_at >= b.wall_seconds:
            return f"budget.wall_seconds={b.wall_seconds:g}"
        if b.nfe is None:
            self.charged += self.ledger.score(xs, by)
            return None
        with self.ledger.trial() as keep:
            cost = self.ledger.score(xs, by)
            about = [c for x in xs for c in seen(x)]
            latest = max(x.part for x in about)
            returned = [x for x in best() if x.part >= latest] + [x for x in about if x.part == latest]
            reserve = max(*(self.ledger.remaining(x) for x in returned), self._reserve(latest))
            if self.charged.nfe + cost.nfe + reserve > b.nfe:
                return f"budget.nfe={b.nfe}"
            keep()
        self.charged += cost
        return None

    def moment(self) -> Moment:
        """The moment of the question that has just been admitted."""
        return Moment(next(self._calls), self.asked_at, self.charged.nfe)

    def _reserve(self, latest: int) -> int:
        """The most NFE that a row held still needs, if those are of the part `latest` or a later one.

        The heap holds upper bounds, since what a row needs only falls; the first one is brought up to date until it is
        exact.
        """
        heap = self._returnable
        while heap and heap[0][2].part >= latest:
            bound, order, row = heap[0]
            needs = -self.ledger.remaining(row.candidate)
            if needs == bound:
                return -needs
            self.ledger.when_undone(partial(heappush, heap, (bound, next(self._order), row)))
            heapreplace(heap, (needs, order, row))
        return 0

    def due(self, x: Candidate) -> int:
        """The NFE that finishing `x`, and the parts after it, would still be charged."""
        with self.ledger.trial():
            return self.ledger.finish(x).nfe + self.ledger.after(x)

    def affords(self, x: Candidate) -> bool:
        """Whether `budget.nfe` still allows `x` to be finished, and the parts after it."""
        return self.budget.nfe is None or self.charged.nfe + self.due(x) <= self.budget.nfe
