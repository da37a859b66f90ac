"""A reward as recipes see it, and a score: what is asked about a candidate, and what is answered. Pure values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.origins import Obstacle


@dataclass(frozen=True)
class Reward:
    """A reward: what a scorer computes (`identity` covers its weights) and how its components are weighed.

    `needs` is what it reads of a candidate: the noisy latent ("latent"), the x0 prediction ("estimate"), or the x0
    prediction decoded ("frames").
    """

    key: str
    identity: bytes
    components: tuple[str, ...]
    weights: tuple[float, ...]
    needs: str
    obstacles: tuple[Obstacle, ...] = ()  # that it reads besides the candidate; they are in its identity
    text: bool = False  # it reads the caption's embedding
    earlier: bool = False  # it reads the earlier chunks of a long video

    @property
    def needs_velocity(self) -> bool:
        """True if it reads the x0 prediction, for which the model is evaluated at the candidate's own point."""
        return self.needs != "latent"

    @property
    def decodes(self) -> bool:
        """True if it reads decoded frames."""
        return self.needs == "frames"

    def total(self, components: Sequence[float]) -> float:
        """The weighted sum of a candidate's components."""
        return float(sum(w * c for w, c in zip(self.weights, components, strict=True)))


def met(rewards: Iterable[Reward]) -> tuple[Obstacle, ...]:
    """The obstacles that rewards of one arm read: an arm has one set of obstacles."""
    return next((r.obstacles for r in rewards if r.obstacles), ())


@dataclass(frozen=True)
class Score:
    """The answer to a question: a candidate's components by one reward, and what the answer took in replica-seconds.

    `making` are the seconds of the candidate's trajectory so far, `scoring` those of the reward and of decoding, and
    `earlier` those of the trajectories of `long_video.unseen` parts.
    """

    components: tuple[float, ...]
    making: float = 0.0
    scoring: float = 0.0
    earlier: tuple[float, ...] = ()


def score_key(candidate: Digest, reward: Reward) -> Digest:
    """The digest that the score of a candidate's identity by a reward is stored by."""
    return digest("score", candidate, reward.identity)
