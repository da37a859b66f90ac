"""Features of frames, one file per kind: a unit vector for each frame, so that a dot product says how alike two are.

The letters of shapes are in `actors/__init__.py`.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from raysearch.errors import ConfigError

NAMES = {
    "world": "actors.tiny.features:World",
    "efficientnet": "actors.features.efficientnet:EfficientNetLite0",
    "dino": "actors.features.vision:Dino",
    "clip": "actors.features.vision:Clip",
}


class Features(Protocol):
    """Maps frames to unit vectors. Built from `path`, its weights' folder; None for a kind that needs no folder."""

    @staticmethod
    def files(path: Path | None) -> list[Path]:
        """The files whose content the features depend on. Raises ConfigError before anything is loaded."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 (T, D) of frames uint8 (T, H, W, 3): rows of norm 1, each from its own frame alone."""
        ...

    def to(self, device: str) -> None:
        """Moves the weights to a device."""
        ...


def find(name: str) -> Callable[[Path | None], Features]:
    """The class of a shipped kind of features, by its name. Raises ConfigError."""
    if name not in NAMES:
        raise ConfigError.of("features", name, f"one of {', '.join(NAMES)}")
    module, _, attribute = NAMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def unit(x: np.ndarray) -> np.ndarray:
    """The rows of x (T, D) scaled to norm 1, float32; a row of zeros stays zero."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)  # type: ignore[no-any-return]
