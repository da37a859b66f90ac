"""Rewards, one file each. A reward is a class with keyword-only arguments; its instances score views of candidates.

The letters of shapes are in `actors/__init__.py`.
"""

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from actors.models.folder import finite_chunks
from actors.sampling.potential import Points
from actors.shipped import arguments_of
from actors.shipped import find as find
from actors.shipped import weights_of as weights_of
from raysearch.config.config import ModelConfig
from raysearch.config.foreign import blamed, defined
from raysearch.errors import ConfigError, RewardError, check, plain
from raysearch.files import content_digest, source
from raysearch.recipe import reward as recipes
from raysearch.recipe.digests import canonical_json, digest
from raysearch.recipe.origins import Obstacle


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


@cache
def installed(package: str) -> str:
    """The version of an installed package, which takes milliseconds to read."""
    return importlib.metadata.version(package)


@contextmanager
def under(key: str, build: Callable[..., Reward]) -> Iterator[None]:
    """What is raised within this context by the code of a reward's class is a ConfigError that names `key`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(f"{key}: {blamed(error, build)}") from error


def scores(name: str, reward: Reward, views: Sequence[View]) -> list[tuple[float, ...]]:
    """The answer of a reward, checked: a tuple of components for each view. Raises RewardError, which names the reward.

    The errors of a full or a broken device pass as they are.
    """
    try:
        answer = reward(views)
        rows = [tuple(_number(c) for c in row) for row in _rows(answer)]
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except BaseException as error:
        said = blamed(error, type(reward))
        hint = f" (needs is {reward.needs!r}, so a view's other fields may be None)" if "'NoneType'" in said else ""
        raise RewardError(f"the reward {name} failed: {said}{hint}") from None
    if [len(row) for row in rows] != [len(reward.components)] * len(views):
        wanted = f"{len(views)} x {len(reward.components)}: a row for each view, a column for each component"
        raise RewardError(f"the reward {name} ({defined(type(reward))}) answered {_shown(answer)}, and not {wanted}")
    return rows


def made_up(geometry: Any, model: ModelConfig, shape: tuple[int, ...], caption: str, *, long: bool) -> View:
    """A view of a finished video of the run's shape and caption, of which only the content is made up: noise.

    `geometry` is the model's, and `shape` that of a latent; in a `long` video there are earlier frames, too.
    """
    rng, size = np.random.default_rng(0), {k: getattr(model, k) for k in ("num_frames", "height", "width")}

    def noise(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    latent, point = noise(*shape), noise(*shape)
    frames = rng.integers(0, 256, geometry.video_shape(**size), np.uint8)
    text = noise(1, model.max_sequence_length, geometry.text_dim or 1)
    earlier = {"before": frames, "opening": frames} if long else {}
    return View(caption, 0.0, latent, latent, frames, (("latent", (point,)),), text, fps=geometry.fps, **earlier)


def built(spec: RewardSpec, device: str, trial: View | None = None) -> Reward:
    """A reward on its device, tried once on what it reads of a view if one is given. Raises ConfigError."""
    build = find(spec.name, f"{spec.where}.name")
    with under(spec.where, build):
        made = build(**spec.arguments)
        if hasattr(made, "to"):
            made.to(device)
    if trial is not None:
        read = {"estimate": made.needs != "latent", "frames": made.needs == "frames"}
        read |= {"text": hasattr(made, "reads_text"), "obstacles": hasattr(made, "meets_obstacles")}
        read |= {k: k in earlier(made) for k in ("before", "opening")}
        unread = {k: getattr(View, k) for k, asked in read.items() if not asked}
        try:
            scores(spec.name, made, [replace(trial, **unread)])
        except RewardError as error:
            raise ConfigError(f"{spec.where}.name: {error}") from error
    return made


def _rows(answer: Any) -> list[Any]:
    rows = list(answer) if _listed(answer) else None
    if rows is None or not all(map(_listed, rows)):
        raise TypeError(f"it answered {_shown(answer)}, and not a list with a row for each view, such as [[0.5]]")
    return rows


def _listed(value: Any) -> bool:
    return (
        isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) and getattr(value, "ndim", 1) > 0
    )


def _number(value: Any) -> float:
    found = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if not isinstance(found, int | float):
        raise TypeError(f"it answered {_shown(value)} where a number belongs")
    return float(found)


def _shown(answer: Any) -> str:
    shape = getattr(answer, "shape", None)
    return f"{type(answer).__name__} of shape {tuple(shape)}" if shape is not None else plain(repr(answer), 100)


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
    arguments = arguments_of(build, block, key)
    components: tuple[str, ...] = build.components  # type: ignore[attr-defined]
    weights = dict.fromkeys(components, 1.0) | dict(getattr(build, "weights", {}))
    if block.get("weights") is not None:
        weights |= weights_of(f"{key}.weights", block["weights"], components)
    with under(key, build):
        content = files(build, arguments)
    for file in content:
        check(file.exists(), key, str(file), "an existing file")
    # A file counts by its content, not by its path: every job has the checkout in another folder.
    by_content = {k: content_digest([v]).hex() if isinstance(v, Path) else v for k, v in arguments.items()}
    spec_key = f"{name}-{digest(canonical_json(by_content)).hex()[:8]}"
    specs[spec_key] = RewardSpec(spec_key, str(name), arguments, key)
    found = content_digest(content, partial(finite_chunks, key=key))
    if (fits := getattr(build, "fits", None)) is not None:
        with under(key, build):
            fits(shape, text_dim, **arguments)
    identity = digest(spec_key, found, source(build), installed("torch"))
    if not getattr(build, "meets_obstacles", False):
        obstacles = ()
    else:
        check(bool(obstacles), f"{key}.name", name, "given together with obstacles: a text, an image or a video")
        with under(key, build):
            build(**arguments)  # cheap to build, and its constructor checks the arguments
        identity = digest(identity, *(o.identity for o in obstacles))
    totals = tuple(weights[c] for c in components)
    reads = (bool(getattr(build, k, False)) for k in ("reads_text", "reads_earlier"))
    return recipes.Reward(spec_key, identity, components, totals, build.needs, obstacles, *reads)  # type: ignore[attr-defined]
