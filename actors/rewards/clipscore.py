"""CLIPScore (2104.08718): how well a frame fits its caption by a CLIP that was trained on neither."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from actors.rewards import clip
from raysearch.config.numbers import Count, Dtype

PREFIX = "A photo depicts "


class ClipScore(clip.ClipReward):
    """Components clipscore and clipscore_min, the mean and the minimum over frames of w max(cos, 0).

    `variant` is percent, for w = 100 as evaluation libraries have it, or paper, for w = 2.5 and captions that begin
    with "A photo depicts ". `folder` is a CLIPModel, a folder or a hub id; `tokenizer` is one with CLIP's tokenizer
    where `folder` has none.
    """

    components: tuple[str, ...] = ("clipscore", "clipscore_min")
    weights: ClassVar[dict[str, float]] = {"clipscore": 1.0, "clipscore_min": 0.0}

    def __init__(
        self,
        *,
        folder: str,
        tokenizer: str | None = None,
        variant: Literal["percent", "paper"] = "percent",
        frames: Count = 8,
        dtype: Dtype = "float32",
    ) -> None:
        super().__init__(folder=folder, tokenizer=tokenizer, frames=frames, dtype=dtype)
        self._prefix, self._scale = ("", 100.0) if variant == "percent" else (PREFIX, 2.5)

    @staticmethod
    def files(*, folder: str, tokenizer: str | None, variant: str, frames: int, dtype: Dtype) -> list[Path]:  # type: ignore[override]
        """The model, its tokenizer and the code of the core. Raises ConfigError unless the model is a CLIPModel."""
        return clip.files(folder, tokenizer)

    def grades(self, prompt: str, frames: np.ndarray) -> torch.Tensor:
        """w max(cos, 0), float32 (T,)."""
        return self._scale * super().grades(self._prefix + prompt, frames).clamp(min=0)
