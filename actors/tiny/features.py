"""Features of a frame of the synthetic world: how much of each colour it shows, and in which shapes. numpy only."""

from pathlib import Path

import numpy as np

from actors.features import unit
from actors.tiny.verifier import coverage, likeness, locate
from raysearch.errors import check

AREA = 55.0  # pixels of a typical object
SHARP = 40.0  # softmax's factor that turns likenesses, which are all near 1, into shares of shapes


class World:
    """Features of frames uint8 (T, H, W, 3): float (T, 19), each row of length 1.

    18 features are the area of each colour, in typical objects, split by the likeness to each shape; the last is a
    constant, so that the area counts though rows are scaled.
    """

    def __init__(self, path: Path | None) -> None:
        pass

    @staticmethod
    def files(path: Path | None) -> list[Path]:
        """No files: these features have no weights. Raises ConfigError where a path is given."""
        check(path is None, "path", str(path), "left out with features=world, which have no weights")
        return []

    def to(self, device: str) -> None:
        """Do nothing: numpy works on the CPU."""
        pass

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The features (T, 19) of frames uint8 (T, H, W, 3)."""
        cover = coverage(frames)
        mass, centres = locate(cover)
        alike = np.stack([likeness(cover[:, c], mass[:, c], centres[:, c]) for c in range(cover.shape[1])], 1)
        shares = np.exp(SHARP * (alike - alike.max(-1, keepdims=True)))
        shares /= shares.sum(-1, keepdims=True)  # (T, colours, shapes)
        seen = (mass[..., None] / AREA * shares).reshape(len(frames), -1)
        return unit(np.concatenate([seen, np.full((len(frames), 1), 0.5)], 1))
