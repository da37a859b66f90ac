"""The rewards that ship, by name, and whether a config's rewards can be known. No torch here: it takes seconds."""

from collections.abc import Sequence
from typing import Any

from raysearch.config.config import Arm
from raysearch.config.mistakes import nearest
from raysearch.config.obstacles import Classifier
from raysearch.errors import ConfigError

REWARDS = {
    "verifier": "actors.tiny.verifier:Verifier",
    "pixel": "actors.rewards.pixel:PixelReward",
    "latent": "actors.rewards.latent_reward:LatentReward",
    "pavrm": "actors.rewards.pavrm:Pavrm",
    "consistency": "actors.rewards.consistency:Consistency",
    "near": "actors.rewards.near:Near",
    "repulsion": "actors.rewards.repulsion:Repulsion",
    "distance": "actors.rewards.repulsion:Distance",
}


def target(name: Any, key: str) -> tuple[str, str]:
    """The module and the class of a reward's name, which is a shipped one or `module:Class`. Raises ConfigError."""
    module, _, attribute = REWARDS.get(name, name).partition(":") if isinstance(name, str) else ("", "", "")
    if not (module and attribute):
        hint = nearest(name, REWARDS) if isinstance(name, str) else ""
        raise ConfigError(f"{key}: no reward {name!r}{hint}; there are {', '.join(REWARDS)}, or module:Class")
    return module, attribute


def check_rewards(arms: Sequence[Arm]) -> None:
    """Raises ConfigError where a reward of an arm, or of its obstacles, has no name that could be a reward's."""
    for arm in arms:
        blocks = {f"rewards.{name}": block for name, block in vars(arm.rewards).items() if block is not None}
        for i, obstacle in enumerate(arm.obstacles):
            if isinstance(obstacle, Classifier):
                blocks[f"obstacles[{i}].reward"] = obstacle.reward
        for key, block in blocks.items():
            target(block.get("name"), f"{key}.name")
