"""Rewards, one file each. A reward is a class with keyword-only arguments; its instances score views of candidates.

This file is the contract. `planning.py` checks a config's rewards before anything is loaded, `building.py` builds them
in a scorer, `answers.py` asks them. The letters of shapes are in `actors/__init__.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from actors.sampling.potential import Points


@dataclass(frozen=True)
class View:
    """What a reward may read of one candidate. Tensors are float32 on the CPU; a field that no reward needs is None.

    In a long video a view shows one chunk, whose frames begin with those that it shares with the chunk before.
    """

    prompt: str  # the caption
    sigma: float  # the noise level of `latent`
    latent: torch.Tensor | None = None  # the noisy latent, (1, C, T, H, W)
    estimate: torch.Tensor | None = None  # the x0 prediction at the candidate's own point, (1, C, T, H, W)
    frames: np.ndarray | None = None  # the x0 prediction decoded, uint8 (T, H, W, 3)
    obstacles: tuple[Points, ...] = ()  # the arm's obstacles, for a reward that `meets_obstacles`
    text: torch.Tensor | None = None  # the caption's embedding, (1, L, D), for a reward that `reads_text`
    first: int = 0  # how many of the latent's first frames are given and clean
    before: np.ndarray | None = None  # frames of the chunk before this one, for a reward that `reads_earlier`
    opening: np.ndarray | None = None  # frames of the video's first chunk, for a reward that `reads_earlier`
    fps: int = 8  # frames a second of the model's videos, whatever output.fps says
    num_frames: int = 0  # of the whole clip, of which `frames` may be the first ones
    tags: Mapping[str, str | None] = field(default_factory=dict)  # of the prompt: see configs/README.md


@dataclass(frozen=True)
class Answer:
    """What a reward may return instead of the rows alone: `tokens` are those that it paid for, for each row."""

    scores: Any
    tokens: Sequence[int] = ()


class Reward(Protocol):
    """Scores views of candidates. The class may have these members, too:

    weights: dict[str, float]     default weights of components; 1 for a component without
    meets_obstacles: bool         its views hold the arm's obstacles
    reads_text: bool              its views hold the caption's embedding
    reads_tags: bool              its views hold the prompt's tags
    reads_earlier: bool or names  its views hold `before` and `opening`; an instance may name one of the two
    named(**arguments)            static: the components with these arguments, which an instance then has, too
    weighed(**arguments)          static: the default weights with these arguments
    waits: bool                   it waits for others, such as for a network, and several threads may call it
    reach()                       raises ConfigError if those cannot be reached: called before any search begins
    compare(pairs)                how much the first view of each pair is preferred to the second: numbers in [0, 1]
    files(**arguments)            static: the files whose content the reward depends on, a list of paths
    fits(shape, text_dim, **arguments)
        static: raises ConfigError, before any weights are loaded, unless the reward takes latents of this shape
        (1, C, T, H, W) and captions' embeddings of this width (None is any)
    to(device)                    moves its weights to a device
    """

    components: tuple[str, ...]  # the names of a score's numbers, which become columns of candidates.parquet
    needs: Literal["latent", "estimate", "frames"]  # the field of a view that it reads; estimate is the x0 prediction

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        """Scores, (len(views), len(components)), or an `Answer`; row i depends on view i alone."""
        ...


def earlier(reward: Reward) -> tuple[str, ...]:
    """The fields of a view, out of `before` and `opening`, that a reward reads in a long video."""
    read = getattr(reward, "reads_earlier", ())
    return ("before", "opening") if read is True else tuple(read or ())


def files(reward: Callable[..., Reward], arguments: dict[str, Any]) -> list[Path]:
    """The files whose content a reward of these arguments depends on."""
    lister = getattr(reward, "files", None)
    return [Path(file) for file in lister(**arguments)] if lister else []


@dataclass(frozen=True)
class RewardSpec:
    """How a scorer builds a reward."""

    key: str  # its name in requests, which covers the arguments
    name: str  # a shipped reward's, or `module:Class`
    arguments: dict[str, Any]  # the constructor's, checked and complete
    where: str = "reward"  # its place in the config
    first: int | None = None  # it reads the frames of so many first latent frames; None: all
    content: bytes = b""  # the digest of the files that it depends on, where that was taken
    files: tuple[Path, ...] = ()  # these files
