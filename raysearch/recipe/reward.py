"""A reward as recipes see it, what is asked of it, and a score, the answer. Pure values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

from raysearch.errors import RewardError
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.origins import Obstacle


@dataclass(frozen=True)
class Blend:
    """How the rewards of an ensemble become one number.

    Each member's weighted sum is normalised: its mean is taken off and it is divided by its deviation, both given by
    `scales`, one pair for each member; or with `ranks` it is replaced by its rank among the candidates of one question,
    from 0 for the lowest to 1. Then the members are summed with their `shares`, or with `least` the lowest one counts.
    """

    members: tuple["Reward", ...]
    shares: tuple[float, ...]
    scales: tuple[tuple[float, float], ...]
    ranks: bool = False
    least: bool = False

    def totals(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """The number of each candidate of a question, whose row has the components of all members in order."""
        columns, first = list[list[float]](), 0
        for member, (mean, deviation) in zip(self.members, self.scales, strict=True):
            end = first + len(member.components)
            values = [(t - mean) / deviation for t in member.totals([row[first:end] for row in rows])]
            columns.append(_ranks(values) if self.ranks else values)
            first = end
        each = zip(*columns, strict=True)
        if self.least:
            return [min(values) for values in each]
        return [sum(s * v for s, v in zip(self.shares, values, strict=True)) for values in each]


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0 to 1, where equals share the middle one; 0.5 for a value without others."""
    others = len(values) - 1
    if not others:
        return [0.5]
    return [(sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2) / others for x in values]


@dataclass(frozen=True)
class Reward:
    """A reward: what a scorer computes (`identity` covers its weights) and how its components are weighed.

    `needs` is what it reads of a candidate: the noisy latent ("latent"), the x0 prediction ("estimate"), or the x0
    prediction decoded ("frames"). An ensemble has a `blend`, the components of all its members, and no weights.
    """

    key: str
    identity: bytes
    components: tuple[str, ...]
    weights: tuple[float, ...]
    needs: str
    obstacles: tuple[Obstacle, ...] = ()  # that it reads besides the candidate; they are in its identity
    text: bool = False  # it reads the caption's embedding
    earlier: bool = False  # it reads the earlier chunks of a long video
    tags: bool = False  # it reads the prompt's tags
    blend: Blend | None = None
    pairwise: bool = False  # it compares two candidates; its only component is how much the first one is preferred

    @property
    def needs_velocity(self) -> bool:
        """True if it reads the x0 prediction, for which the model is evaluated at the candidate's own point."""
        return self.needs != "latent"

    @property
    def decodes(self) -> bool:
        """True if it reads decoded frames."""
        return self.needs == "frames"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys under which a scorer knows it: those of an ensemble's members."""
        return tuple(m.key for m in self.blend.members) if self.blend else (self.key,)

    def totals(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """The number that each candidate of a question is chosen by; `rows` are their components.

        Raises RewardError for one that is not finite.
        """
        if self.blend:
            found = self.blend.totals(rows)
        else:
            found = [float(sum(w * c for w, c in zip(self.weights, row, strict=True))) for row in rows]
        if not all(map(isfinite, found)):
            raise RewardError(f"the weighted sum of {', '.join(self.components)} ({self.key}) is not finite")
        return found

    def total(self, components: Sequence[float]) -> float:
        """The number of one candidate that is asked about alone."""
        return self.totals([components])[0]


def met(rewards: Iterable[Reward]) -> tuple[Obstacle, ...]:
    """The obstacles that rewards of one arm read: an arm has one set of obstacles."""
    return next((r.obstacles for r in rewards if r.obstacles), ())


@dataclass(frozen=True)
class Pair:
    """Two candidates to compare: a question to a reward that is pairwise."""

    first: Candidate
    second: Candidate

    @classmethod
    def of(cls, x: Candidate, y: Candidate) -> "Pair":
        """The pair of both, in the order of their identities: either way round it is the same question."""
        return cls(x, y) if x.identity < y.identity else cls(y, x)

    @property
    def identity(self) -> Digest:
        """The identities of both candidates, one after the other."""
        return self.first.identity + self.second.identity

    @property
    def id(self) -> str:
        """The identity in hexadecimal digits."""
        return self.identity.hex()


Question: TypeAlias = Candidate | Pair


def seen(question: Question) -> tuple[Candidate, ...]:
    """The candidates that a question is about."""
    return (question.first, question.second) if isinstance(question, Pair) else (question,)


@dataclass(frozen=True)
class Score:
    """The answer to a question: the components of one reward, and what the answer took in replica-seconds.

    `making` are the seconds of the candidate's trajectory so far, `scoring` those of the reward and of decoding, and
    `earlier` those of the trajectories of `long_video.unseen` parts, or of a pair's second candidate. `tokens` are
    those that the reward paid for.
    """

    components: tuple[float, ...]
    making: float = 0.0
    scoring: float = 0.0
    earlier: tuple[float, ...] = ()
    tokens: int = 0


def score_key(question: Digest, reward: Reward) -> Digest:
    """The digest that the score of a question's identity by a reward is stored by."""
    return digest("score", question, reward.identity)
