"""Rewards: one file each. A reward is a class with keyword-only arguments whose instances score views of candidates."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from actors.sampling.potential import Points
from raysearch.config.binding import bind, source
from raysearch.errors import ConfigError, check
from raysearch.files import content_digest
from raysearch.recipe import reward as recipes
from raysearch.recipe.digests import canonical_json, digest
from raysearch.recipe.origins import Obstacle
from raysearch.session.tables import CANDIDATES

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


@dataclass(frozen=True)
class RewardSpec:
    """A reward to build: `key` names it in calls."""

    key: str
    name: str
    arguments: dict[str, Any]


@contextmanager
def under(key: str) -> Iterator[None]:
    """A ConfigError within names its key under this one."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error


def weights_of(key: str, given: Any, components: Sequence[str]) -> dict[str, float]:
    """Checked weights of a reward's components. Raises ConfigError."""
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
    """A checked reward of a config block, for latents of a shape (1, C, T, H, W), in an arm with these obstacles.

    `text_dim` is the width of captions' embeddings. Its spec is added to `specs`.
    """
    name = block.get("name")
    check(isinstance(name, str) and bool(name), f"{key}.name", name, "a reward's name")
    try:
        build = find(str(name))
    except ConfigError as error:
        raise ConfigError(f"{key}.name: {error}") from error
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
    # Files are what they hold: a job finds the checkout in another place whenever it is submitted.
    plain = {k: content_digest([v]).hex() if isinstance(v, Path) else v for k, v in arguments.items()}
    spec_key = f"{name}-{digest(canonical_json(plain)).hex()[:8]}"
    specs[spec_key] = RewardSpec(spec_key, str(name), arguments)
    if (fits := getattr(build, "fits", None)) is not None:
        with under(key):
            fits(shape, text_dim, **arguments)
    identity = digest(spec_key, content_digest(content), source(build), importlib.metadata.version("torch"))
    if not getattr(build, "meets_obstacles", False):
        obstacles = ()
    else:
        check(bool(obstacles), f"{key}.name", name, "given together with obstacles: a text, an image or a video")
        with under(key):
            build(**arguments)  # it is cheap to make, and checks its arguments
        identity = digest(identity, *(o.identity for o in obstacles))
    totals = tuple(weights[c] for c in components)
    reads = (bool(getattr(build, k, False)) for k in ("reads_text", "reads_earlier"))
    return recipes.Reward(spec_key, identity, components, totals, build.needs, obstacles, *reads)  # type: ignore[attr-defined]
