"""What a policy asks about after what: the ways from a candidate to those that the next questions are about.

Recipes are pure and policies ask in the same pattern whatever the answers are, so one search on made-up rewards tells
where the candidates of all others may go next. Which of them go there is not known: that is what the rewards decide.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from raysearch.recipe.candidate import Candidate, Sampler
from raysearch.recipe.digests import Digest
from raysearch.recipe.origins import Derived, How

MOST = 8  # ways from one place, those that were gone most often
HIGHEST = 2  # origins that a way leads back

Place: TypeAlias = tuple[str, tuple[float, ...], int]


@dataclass(frozen=True)
class Change:
    """A child that an origin makes of a candidate, denoised until `step`; `sampler` are the fields that change."""

    ordinal: int
    how: How
    scope: str
    sampler: tuple[tuple[str, Any], ...]
    step: int

    def of(self, x: Candidate) -> Candidate:
        """The child of `x`."""
        sampler = replace(x.sampler, **dict(self.sampler)) if self.sampler else x.sampler
        return Candidate(x.prompt, sampler, Derived(x, self.ordinal, self.how, self.scope), self.step)


@dataclass(frozen=True)
class Way:
    """From a candidate `up` origins back, on along the trajectory until `step`, and then by changes.

    `velocity` says whether the question at its end needs the model's velocity there.
    """

    up: int
    step: int
    changes: tuple[Change, ...]
    velocity: bool

    def of(self, x: Candidate) -> Candidate | None:
        """Where the way leads to from `x`; None if it does not go from there."""
        at: Candidate | None = x
        for _ in range(self.up):
            at = at and at.parent
        if at is None or not at.step <= self.step <= at.sampler.num_steps:
            return None
        at = Candidate(at.prompt, at.sampler, at.origin, self.step)
        for change in self.changes:
            at = change.of(at)
        return at


@dataclass
class Sequels:
    """The ways that were gone from each place, which is a solver, its noise levels and a step."""

    _gone: dict[Place, Counter[Way]] = field(default_factory=dict)
    _ways: dict[Place, list[Way]] = field(default_factory=dict)  # the likeliest first

    def learn(self, questions: Iterable[Sequence[tuple[Candidate, bool]]]) -> None:
        """Add the ways of one search: the candidates of its questions in order, each with whether it has a velocity."""
        seen: dict[Digest, dict[int, tuple[Candidate, int]]] = {}  # trajectory -> step -> who asked, and how far up
        for question in questions:
            for x, velocity in question:
                if (found := _way(x, velocity and not x.finished, seen)) is not None:
                    asked, way = found
                    self._gone.setdefault(_place(asked), Counter())[way] += 1
            for x, _ in question:
                at: Candidate | None = x
                for up in range(HIGHEST + 1):
                    if at is not None:
                        seen.setdefault(at.trajectory, {}).setdefault(at.step, (x, up))
                        at = at.parent
        self._ways = {place: [way for way, _ in gone.most_common(MOST)] for place, gone in self._gone.items()}

    def after(self, x: Candidate) -> list[tuple[Candidate, bool]]:
        """The candidates that may be asked about after `x`, the likeliest first, and whether with a velocity."""
        return [(y, way.velocity) for way in self._ways.get(_place(x), ()) if (y := way.of(x)) is not None]


def _place(x: Candidate) -> Place:
    return x.sampler.name, x.sampler.sigmas, x.step


def _way(
    x: Candidate, velocity: bool, seen: dict[Digest, dict[int, tuple[Candidate, int]]]
) -> tuple[Candidate, Way] | None:
    """The candidate that was asked about before `x`, and the way from there; None if there is none, or no way."""
    changes: list[Change] = []
    at: Candidate | None = x
    while at is not None:
        known = seen.get(at.trajectory, {})
        step = max((s for s in known if s <= at.step), default=None)
        if step is not None:
            asked, up = known[step]
            again = at is x and step == x.step
            return None if again else (asked, Way(up, at.step, tuple(reversed(changes)), velocity))
        origin, above = at.origin, at.parent
        if above is not None:
            assert isinstance(origin, Derived)
            if origin.reads:  # what it reads besides is not known before
                return None
            changes.append(
                Change(origin.ordinal, origin.how, origin.scope, _changed(above.sampler, at.sampler), at.step)
            )
        at = above
    return None


def _changed(before: Sampler, after: Sampler) -> tuple[tuple[str, Any], ...]:
    pairs = ((f.name, getattr(before, f.name), getattr(after, f.name)) for f in fields(Sampler))
    return tuple((name, new) for name, old, new in pairs if old != new)
