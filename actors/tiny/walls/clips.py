"""Clips of the world with walls as the input of a net, rendered afresh for every training step."""

from collections.abc import Sequence

import numpy as np
import torch

from actors.tiny.training.clips import to_model
from actors.tiny.walls import world


def clips(
    rng: np.random.Generator,
    n: int,
    *,
    frames: int = world.FRAMES,
    counts: Sequence[float] = (0.2, 0.4, 0.4),
    wall: float = 0.3,
) -> tuple[list[str], torch.Tensor]:
    """Render `n` clips; returns their captions and float32 (n, 3, frames, size, size) in [-1, 1].

    `counts` are the shares of clips with one, two and three objects; of the first two, a share `wall` has a wall, and
    of those, `world.BROKEN` an object that goes through it. No caption is held out.
    """
    captions = [world.training_caption(rng, counts=counts, wall=wall) for _ in range(n)]
    pixels = np.stack([world.draw(world.place(c, rng, frames=frames, broken=world.BROKEN)) for c in captions])
    return [str(c) for c in captions], to_model(pixels)
