"""What videos should keep away from, as a search meets it: how far a candidate is from each obstacle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raysearch.config.config import ModelConfig
from raysearch.config.obstacles import Block, Classifier, Image, Text, Video, recorded
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.digests import digest
from raysearch.recipe.origins import Noise, Obstacle, Recording
from raysearch.recipe.reward import Reward


@dataclass(frozen=True)
class Barrier:
    """An obstacle as a search meets it: `distance` is a reward whose total says how far a candidate is beyond `zero`.

    A classifier has no `obstacle` in latent space, so nothing pushes away from it.
    """

    distance: Reward
    obstacle: Obstacle | None = None
    zero: float = 0.0

    def away(self, components: Sequence[float]) -> float:
        """How far beyond `zero` a candidate is whose `distance` has these components; 0 on the other side."""
        return max(self.distance.total(components) - self.zero, 0.0)


def barriers(
    blocks: Sequence[Block],
    sampler: Sampler,
    classify: Callable[[str, dict[str, Any]], Reward],
    model: ModelConfig,
) -> tuple[Barrier, ...]:
    """The barriers of checked blocks in an arm with this sampler; `classify` makes a reward of its key and block."""
    return tuple(_barrier(f"obstacles[{i}]", b, sampler, classify, model) for i, b in enumerate(blocks))


def _barrier(
    key: str, block: Block, sampler: Sampler, classify: Callable[[str, dict[str, Any]], Reward], model: ModelConfig
) -> Barrier:
    if isinstance(block, Classifier):
        return Barrier(classify(f"{key}.reward", block.reward), zero=block.worst)
    obstacle = Obstacle(_points(key, block, sampler, model), block.space)
    distance = Reward("distance", digest("distance", obstacle.identity), ("distance",), (1.0,), "estimate", (obstacle,))
    return Barrier(distance, obstacle)


def _points(
    key: str, block: Text | Image | Video, sampler: Sampler, model: ModelConfig
) -> tuple[Candidate | Recording, ...]:
    """The candidates that the model makes of a caption; or one recording."""
    if isinstance(block, Text):
        prompt = Prompt(block.text.strip())
        return tuple(Candidate(prompt, sampler, Noise(block.seed, i), sampler.num_steps) for i in range(block.n))
    return (recorded(block, key, model),)
