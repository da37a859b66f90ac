"""Builds rewards in a scorer, and tries each once on a made-up view, so that a mistake shows before a search starts."""

from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
import torch

from actors.rewards import Reward, RewardSpec, View, answers, earlier
from actors.shipped import find, under
from raysearch.config.config import ModelConfig
from raysearch.config.foreign import defined
from raysearch.errors import ConfigError, RewardError, check


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
    beside = ((("latent", (point,)),), text)
    return View(caption, 0.0, latent, latent, frames, *beside, fps=geometry.fps, num_frames=len(frames), **earlier)


def built(spec: RewardSpec, device: str, trial: View | None = None) -> Reward:
    """A reward on its device, tried once on what it reads of a view if one is given. Raises ConfigError."""
    build = find(spec.name, f"{spec.where}.name")
    with under(spec.where, build):
        made = build(**spec.arguments)
        if hasattr(made, "to"):
            made.to(device)
        if trial is not None and hasattr(made, "reach"):
            made.reach()
    if trial is not None and not getattr(made, "waits", False):  # which may cost money
        read = {"estimate": made.needs != "latent", "frames": made.needs == "frames"}
        read |= {"text": hasattr(made, "reads_text"), "obstacles": hasattr(made, "meets_obstacles")}
        read |= {k: k in earlier(made) for k in ("before", "opening")}
        unread = {k: getattr(View, k) for k, asked in read.items() if not asked}
        try:
            (row,), _ = answers.scores(spec.name, made, [replace(trial, **unread)])
        except RewardError as error:
            raise ConfigError(f"{spec.where}.name: {error}") from error
        said = f"finite for noise, too: {defined(type(made))} answers {dict(zip(made.components, row, strict=True))}"
        check(all(map(isfinite, row)), f"{spec.where}.name", spec.name, f"a reward whose numbers are {said}")
    return made
