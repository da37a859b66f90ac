"""Clips of the tiny world as the input of a net, rendered afresh for every training step."""

import numpy as np
import torch

from actors.tiny import world


def clips(
    rng: np.random.Generator, n: int, *, frames: int = world.FRAMES, two: float = 0.7
) -> tuple[list[str], torch.Tensor]:
    """Render `n` clips; returns their captions and float32 (n, 3, frames, size, size) in [-1, 1].

    A share `two` of them shows two objects. No caption is held out.
    """
    scenes = [world.place(world.training_objects(rng, two=two), rng, frames=frames) for _ in range(n)]
    pixels = np.stack([world.draw(s) for s in scenes])
    return [world.caption(s.objects) for s in scenes], to_model(pixels)


def to_model(pixels: np.ndarray) -> torch.Tensor:
    """Frames uint8 (n, frames, height, width, 3) as float32 (n, 3, frames, height, width) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)
