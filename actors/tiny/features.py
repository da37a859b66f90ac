"""What a frame of the synthetic world shows: how much of each colour there is, and which shape that has. numpy only."""

from pathlib import Path

import numpy as np

from actors.features import unit
from actors.tiny.verifier import coverage, likeness, locate
from raysearch.errors import check

AREA = 55.0  # pixels of a typical object
SHARP = 40.0  # how decidedly likenesses, which are all near 1, become shares of shapes


class World:
    """For each colour its area in typical objects, shared out over the shapes; and a constant, so that size counts."""

    def __init__(self, path: Path | None) -> None:
        pass

    @staticmethod
    def files(path: Path | None) -> list[Path]:
        check(path is None, "path", str(path), "left out with features=world, which have no weights")
        return []

    def to(self, device: str) -> None:
        pass

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        cover = coverage(frames)
        mass, centres = locate(cover)
        alike = np.stack([likeness(cover[:, c], mass[:, c], centres[:, c]) for c in range(cover.shape[1])], 1)
        shares = np.exp(SHARP * (alike - alike.max(-1, keepdims=True)))
        shares /= shares.sum(-1, keepdims=True)  # (T, colours, shapes)
        seen = (mass[..., None] / AREA * shares).reshape(len(frames), -1)
        return unit(np.concatenate([seen, np.full((len(frames), 1), 0.5)], 1))
