"""A reward as recipes see it, and a score: what is asked about a candidate, and what is answered. Pure values."""

from collections.abc import Sequence
from dataclasses import dataclass

from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.origins import Obstacle


@dataclass(frozen=True)
class Reward:
    """A reward: what a scorer computes (`identity` covers its weights) and how its components are weighed."""

    key: str
    identity: bytes
    components: tuple[str, ...]
    weights: tuple[float, ...]
    needs: str  # "latent", "estimate" or "frames"
    obstacles: tuple[Obstacle, ...] = ()  # that it looks at beside the candidate; in its identity
    text: bool = False  # it looks at the caption's embedding
    earlier: bool = False  # it looks at the earlier chunks of a long video

    @property
    def preview(self) -> bool:
        """It looks at the x0 estimate, for which the velocity at the candidate's own point is evaluated."""
        return self.needs != "latent"

    @property
    def decodes(self) -> bool:
        return self.needs == "frames"

    def total(self, components: Sequence[float]) -> float:
        return float(sum(w * c for w, c in zip(self.weights, components, strict=True)))


@dataclass(frozen=True)
class Score:
    """Of one candidate by one reward; with the replica-seconds of its trajectory so far, and of scoring.

    In a long video also those of the parts before it, the latest first, back to one that holds frames.
    """

    components: tuple[float, ...]
    making: float = 0.0
    scoring: float = 0.0
    earlier: tuple[float, ...] = ()


def score_key(candidate: Digest, reward: Reward) -> Digest:
    """What a score is known by."""
    return digest("score", candidate, reward.identity)
