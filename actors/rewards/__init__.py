"""Rewards: one file each. A reward is a class with keyword-only arguments whose instances score views of candidates."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from actors.sampling.potential import Points
from raysearch.errors import ConfigError

NAMES = {
    "verifier": "actors.tiny.verifier:Verifier",
    "pixel": "actors.rewards.pixel:PixelReward",
    "latent": "actors.rewards.latent_reward:LatentReward",
    "pavrm": "actors.rewards.pavrm:Pavrm",
    "consistency": "actors.rewards.consistency:Consistency",
    "near": "actors.rewards.near:Near",
    "repulsion": "actors.rewards.repulsion:Repulsion",
    "distance": "actors.rewards.repulsion:Distance",
}


NEEDS = ("latent", "estimate", "frames")


@dataclass(frozen=True)
class View:
    """What a reward may look at: the noisy latent at noise level `sigma`, the x0 estimate, or that one decoded.

    latent and estimate are float32 (1, C, T, H, W) on the CPU, frames uint8 (T, H, W, 3); what no reward needs is None.
    Beside it, the latents of the arm's obstacles, for a reward that meets them, and the caption's embedding, float32
    (1, length, dim), for one that `reads_text`. `first`: how many of the latent's first frames are given, clean ones.

    In a long video `before` are the frames of the chunk before this one and `opening` those of the first, for a reward
    that `reads_earlier`; frames begin with those that this chunk shares with the one before it.
    """

    prompt: str
    sigma: float
    latent: torch.Tensor | None = None
    estimate: torch.Tensor | None = None
    frames: np.ndarray | None = None
    obstacles: tuple[Points, ...] = ()
    text: torch.Tensor | None = None
    first: int = 0
    before: np.ndarray | None = None
    opening: np.ndarray | None = None


class Reward(Protocol):
    """`weights` (optional) gives the default weight of each component, 1 where it is missing; `files` (optional, a
    static method of the constructor's arguments) the files whose content the reward depends on; `meets_obstacles`
    (optional) says that its views show the arm's obstacles, `reads_text` (optional) that they show the caption's
    embedding, `reads_earlier` (optional) the earlier chunks of a long video, an instance's maybe which of
    `before` and `opening`; `fits` (optional, a static method of a
    latent's shape (1, C, T, H, W), the width of captions' embeddings or None, and the constructor's arguments) raises
    ConfigError before anything is loaded; `to` (optional) moves it to a device."""

    components: tuple[str, ...]
    needs: Literal["latent", "estimate", "frames"]

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        """(len(views), len(components)); row i depends on view i alone."""
        ...


def find(name: str) -> Callable[..., Reward]:
    """The class of a shipped reward's name, or of `module:Class`. Raises ConfigError."""
    target = NAMES.get(name, name)
    module, colon, attribute = target.partition(":")
    if not (colon and module and attribute):
        raise ConfigError(f"no reward {name!r}; there are {', '.join(NAMES)}, or module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the reward {name!r} cannot be imported: {error}") from error
    if not isinstance(getattr(found, "components", None), tuple) or getattr(found, "needs", None) not in NEEDS:
        raise ConfigError(f"{name!r} is no reward: it must have a tuple `components`, and `needs` in {NEEDS}")
    return found  # type: ignore[no-any-return]


def earlier(reward: Reward) -> tuple[str, ...]:
    """What a reward reads of the earlier chunks of a long video."""
    read = getattr(reward, "reads_earlier", ())
    return ("before", "opening") if read is True else tuple(read or ())


def files(reward: Callable[..., Reward], arguments: dict[str, Any]) -> list[Path]:
    lister = getattr(reward, "files", None)
    return list(lister(**arguments)) if lister else []
