"""VBench's consistency of subject and background (2311.17982; github.com/Vchitect/VBench) as a reward."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as F

from actors.features import vision
from actors.rewards import pictures
from actors.rewards.checkpoint import located
from actors.rewards.motion import check_frames
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]


def short_side(x: torch.Tensor, side: int, mode: str) -> torch.Tensor:
    """Images (B, 3, H, W) whose shorter side has `side` pixels and whose aspect is kept, without antialiasing."""
    height, width = x.shape[2:]
    short = min(height, width)
    return F.interpolate(x, (side * height // short, side * width // short), mode=mode, align_corners=False)


class Subject(vision.Dino):
    """DINO's class token of whole frames: they are resized bilinearly, and its positions are interpolated."""

    kinds = ("vit",)

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        return short_side(x, self._side, "bilinear")

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return self._model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]  # type: ignore[no-any-return]


class Background(vision.Clip):
    """CLIP's embedding of the middle square of frames that are resized bicubically."""

    normal = pictures.CLIP

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        x = short_side(x, self._side, "bicubic")
        rows, columns = (pictures.middle(n, self._side) for n in x.shape[2:])
        return x[:, :, rows, columns]


PARTS = {"subject": ("dino", Subject), "background": ("clip", Background)}


class VBenchConsistency:
    """Components subject and background, each the mean of (max(0, <d_i, d_{i-1}>) + max(0, <d_i, d_1>)) / 2, i = 2..T.

    d_i are unit features of frame i: the class token of DINO ViT-B/16 for the subject, and the image embedding of CLIP
    ViT-B/32 for the background. `dino` and `clip` are their folders or hub ids, in transformers' layout; null leaves a
    component out. So a component is in [0, 1], and 1 for a still video.
    """

    components: tuple[str, ...] = ("subject", "background")
    needs: Literal["latent", "estimate", "frames"] = "frames"

    def __init__(
        self, *, dino: str | None = "facebook/dino-vitb16", clip: str | None = "openai/clip-vit-base-patch32"
    ) -> None:
        folders = folders_of(dino, clip)
        self.components = tuple(folders)
        self._features = {c: PARTS[c][1](folder, key=PARTS[c][0]) for c, folder in folders.items()}

    @staticmethod
    def named(*, dino: str | None, clip: str | None) -> tuple[str, ...]:
        """The components whose folders are given; `files` refuses where none is."""
        left_out = {c for c, given in (("subject", dino), ("background", clip)) if given is None}
        return tuple(c for c in PARTS if c not in left_out) or tuple(PARTS)

    @staticmethod
    def files(*, dino: str | None, clip: str | None) -> list[Path]:
        """The models' files and the code that runs them. Raises ConfigError, before weights load, for other models."""
        check(dino is not None or clip is not None, "dino", None, "given, or else clip")
        found = [Path(str(inspect.getsourcefile(vision))), Path(pictures.__file__)]
        for component, folder in folders_of(dino, clip).items():
            key, kind = PARTS[component]
            found += kind.files(folder, key)
        return found

    @staticmethod
    def fits(shape: tuple[int, ...], text_dim: int | None, *, dino: str | None, clip: str | None) -> None:
        """Raises ConfigError for a latent of one frame."""
        check_frames(shape[2], 2)

    def to(self, device: str) -> None:
        """Moves both models to a device."""
        for features in self._features.values():
            features.to(device)

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), components). Raises ConfigError for a view of one frame."""
        rows = []
        for view in views:
            assert view.frames is not None
            check_frames(len(view.frames), 2)
            rows.append([consistency(features(view.frames)) for features in self._features.values()])
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.components))


def folders_of(dino: str | None, clip: str | None) -> dict[str, Path]:
    """The local folder of each component that has one. Raises ConfigError."""
    given = {"subject": dino, "background": clip}
    return {c: located(f, key=PARTS[c][0], patterns=FILES) for c, f in given.items() if f is not None}


def consistency(d: np.ndarray) -> float:
    """How alike unit features (T, D) are to those of the frame before and of the first frame, in [0, 1]."""
    d = d.astype(np.float64)
    before, first = (d[1:] * d[:-1]).sum(1), d[1:] @ d[0]
    return float((before.clip(0, 1) + first.clip(0, 1)).mean() / 2)
