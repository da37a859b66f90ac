"""Rewards, one file each. A reward is a class with keyword-only arguments; its instances score views of candidates.

The letters of shapes are in `actors/__init__.py`.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from actors.models.folder import finite_chunks
from actors.sampling.potential import Points
from actors.shipped import target
from raysearch.config.binding import bind
from raysearch.errors import ConfigError, check
from raysearch.files import content_digest, source
from raysearch.recipe import reward as recipes
from raysearch.recipe.digests import canonical_json, digest
from raysearch.recipe.origins import Obstacle
from raysearch.session.tables import CANDIDATES

NEEDS = ("latent", "estimate", "frames")


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


class Reward(Protocol):
    """Scores views of candidates. The class may have these members, too:

    weights: dict[str, float]     default weights of components; 1 for a component without
    meets_obstacles: bool         its views hold the arm's obstacles
    reads_text: bool              its views hold the caption's embedding
    reads_earlier: bool or names  its views hold `before` and `opening`; an instance may name one of the two
    files(**arguments)            static: the files whose content the reward depends on, a list of paths
    fits(shape, text_dim, **arguments)
        static: raises ConfigError, before any weights are loaded, unless the reward takes latents of this shape
        (1, C, T, H, W) and captions' embeddings of this width (None is any)
    to(device)                    moves its weights to a device
    """

    components: tuple[str, ...]  # the names of a score's numbers, which become columns of candidates.parquet
    needs: Literal["latent", "estimate", "frames"]  # the field of a view that it reads; estimate is the x0 prediction

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        """Scores, (len(views), len(components)); row i depends on view i alone."""
        ...


def find(name: Any, key: str = "reward") -> Callable[..., Reward]:
    """The class of a shipped reward, by its name, or of a user's, as `module:Class`. Raises ConfigError."""
    module, attribute = target(name, key)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}: the reward {name!r} cannot be imported: {error}") from error
    if not isinstance(getattr(found, "components", None), tuple) or getattr(found, "needs", None) not in NEEDS:
        raise ConfigError(f"{key}: {name!r} is no reward: it must have a tuple `components`, and `needs` in {NEEDS}")
    return found  # type: ignore[no-any-return]


def earlier(reward: Reward) -> tuple[str, ...]:
    """The fields of a view, out of `before` and `opening`, that a reward reads in a long video."""
    read = getattr(reward, "reads_earlier", ())
    return ("before", "opening") if read is True else tuple(read or ())


def files(reward: Callable[..., Reward], arguments: dict[str, Any]) -> list[Path]:
    """The files whose content a reward of these arguments depends on."""
    lister = getattr(reward, "files", None)
    return list(lister(**arguments)) if lister else []


@dataclass(frozen=True)
class RewardSpec:
    """How a scorer builds a reward."""

    key: str  # its name in requests, which covers the arguments
    name: str  # a shipped reward's, or `module:Class`
    arguments: dict[str, Any]  # the constructor's, checked and complete


@contextmanager
def under(key: str) -> Iterator[None]:
    """A ConfigError raised within this context names its key below `key`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error


def weights_of(key: str, given: Any, components: Sequence[str]) -> dict[str, float]:
    """The weights that a config gives to components, checked. Raises ConfigError."""
    check(isinstance(given, dict), key, given, f"a mapping of {', '.join(components)} to numbers")
    for component, weight in given.items():
        check(component in components, key, component, f"one of {', '.join(components)}")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool) and isfinite(weight)
        check(is_number, f"{key}.{component}", weight, "a finite number")
    return {component: float(weight) for component, weight in given.items()}


def reward(
    key: str,
    block: dict[str, Any],
    specs: dict[str, RewardSpec],
    obstacles: tuple[Obstacle, ...],
    shape: tuple[int, ...],
    text_dim: int | None = None,
) -> recipes.Reward:
    """The reward of a config block, checked, as recipes see it. Raises ConfigError.

    `key` is the block's place in the config; `obstacles` are those of the arm; `shape` is a latent's, (1, C, T, H, W);
    `text_dim` is the width D of captions' embeddings. What a scorer needs to build the reward is added to `specs`.
    """
    name = block.get("name")
    build = find(name, f"{key}.name")
    given = {k: v for k, v in block.items() if k not in ("name", "weights")}
    arguments = bind(build, given, key)  # type: ignore[arg-type]
    components: tuple[str, ...] = build.components  # type: ignore[attr-defined]
    for component in components:
        check(component not in CANDIDATES, f"{key}.name", name, f"a reward with no component {component!r}: a column")
    weights = dict.fromkeys(components, 1.0) | dict(getattr(build, "weights", {}))
    if block.get("weights") is not None:
        weights |= weights_of(f"{key}.weights", block["weights"], components)
    with under(key):
        content = files(build, arguments)
    for file in content:
        check(file.exists(), key, str(file), "an existing file")
    # A file counts by its content, not by its path: every job has the checkout in another folder.
    plain = {k: content_digest([v]).hex() if isinstance(v, Path) else v for k, v in arguments.items()}
    spec_key = f"{name}-{digest(canonical_json(plain)).hex()[:8]}"
    specs[spec_key] = RewardSpec(spec_key, str(name), arguments)
    if (fits := getattr(build, "fits", None)) is not None:
        with under(key):
            fits(shape, text_dim, **arguments)
    found = content_digest(content, partial(finite_chunks, key=key))
    identity = digest(spec_key, found, source(build), importlib.metadata.version("torch"))
    if not getattr(build, "meets_obstacles", False):
        obstacles = ()
    else:
        check(bool(obstacles), f"{key}.name", name, "given together with obstacles: a text, an image or a video")
        with under(key):
            build(**arguments)  # cheap to build, and its constructor checks the arguments
        identity = digest(identity, *(o.identity for o in obstacles))
    totals = tuple(weights[c] for c in components)
    reads = (bool(getattr(build, k, False)) for k in ("reads_text", "reads_earlier"))
    return recipes.Reward(spec_key, identity, components, totals, build.needs, obstacles, *reads)  # type: ignore[attr-defined]
