"""What frames look like, one vector each, of length one: `find(name)` gives a class, its instances map frames to it.

They say how alike two frames are, by their product. One file each.
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
    """Made of a `path`, the folder of its weights, or None for those that need none or have their own."""

    @staticmethod
    def files(path: Path | None) -> list[Path]:
        """The files whose content the features depend on. Raises ConfigError before anything is loaded."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) -> float32 (T, D), rows of length 1, each of its own frame alone."""
        ...

    def to(self, device: str) -> None: ...


def find(name: str) -> Callable[[Path | None], Features]:
    """The class of features that ship. Raises ConfigError."""
    if name not in NAMES:
        raise ConfigError.of("features", name, f"one of {', '.join(NAMES)}")
    module, _, attribute = NAMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)  # type: ignore[no-any-return]
