"""Aesthetic predictors: a small head over an image's embedding, trained on people's ratings of images from 1 to 10."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel, SiglipVisionModel

from actors.rewards import backbones, checkpoint, linears, pictures
from actors.rewards.backbones import backbone, fitting, kind_of
from actors.rewards.convert import pickled, tensors, written
from raysearch.config.numbers import Count, Dtype
from raysearch.errors import check

KIND = "aesthetic"
MODELS: dict[str, Any] = {"clip": CLIPModel, "siglip": SiglipVisionModel}


class Aesthetic(pictures.Pictured):
    """Components aesthetic and aesthetic_min, mean and minimum over frames of a predicted rating, about 1 to 10.

    The prompt plays no part. `folder` is the model of the embedding, a CLIPModel or a SiglipModel, as a folder or a hub
    id. `head` is the folder that `raysearch reward convert aesthetic` writes. Heads that fit: the Aesthetic Predictor
    V2.5 over siglip-so400m-patch14-384, and LAION's linear and improved predictors over clip-vit-large-patch14.
    """

    components: tuple[str, ...] = ("aesthetic", "aesthetic_min")
    weights: ClassVar[dict[str, float]] = {"aesthetic": 1.0, "aesthetic_min": 0.0}
    converted: ClassVar[str] = "head"  # the argument that takes what the converter writes

    def __init__(self, *, folder: str, head: Path, frames: Count = 8, dtype: Dtype = "float32") -> None:
        path = _located(folder)
        self.frames, self.kind = frames, kind_of(path, list(MODELS))
        self.model = backbone(MODELS[self.kind], path, dtype)
        self.head = _head(head)
        checkpoint.fill(self.head.state_dict(), head, "head")
        self.head.eval().requires_grad_(False)

    @staticmethod
    def files(*, folder: str, head: Path, frames: int, dtype: Dtype) -> list[Path]:
        """Weights of the model and of the head, and the code of image rewards. Raises ConfigError."""
        path = _located(folder)
        kind = kind_of(path, list(MODELS))
        config, net = fitting(MODELS[kind], path, kind).config, _head(head)
        checkpoint.compare(net.state_dict(), head, "head")
        given = config.projection_dim if kind == "clip" else config.hidden_size
        taken = net[0].in_features
        check(
            taken == given, "head", str(head), f"one for embeddings of {given} numbers, as {folder} gives, not {taken}"
        )
        found = [place / name for place in (path, head) for name in checkpoint.FILES]
        return [*found, *map(Path, (backbones.__file__, linears.__file__, pictures.__file__))]

    def to(self, device: str) -> None:
        """Moves model and head to a device."""
        self.model.to(device)
        self.head.to(device)

    def grades(self, prompt: str, frames: np.ndarray) -> torch.Tensor:
        """The rating of each frame, float32 (T,)."""
        device, dtype = self.model.device, self.model.dtype
        if self.kind == "clip":
            x = pictures.pixels(pictures.cropped, frames, self.model.config.vision_config.image_size)
            seen = self.model.get_image_features(pixel_values=x.to(device, dtype)).pooler_output
        else:
            x = pictures.pixels(pictures.stretched, frames, self.model.config.image_size, pictures.HALF)
            seen = self.model(pixel_values=x.to(device, dtype)).pooler_output
        return self.head(F.normalize(seen.float(), dim=-1))[:, 0]  # type: ignore[no-any-return]


def _located(folder: str) -> Path:
    return checkpoint.located(folder, key="folder", patterns=list(checkpoint.FILES))


def _head(folder: Path) -> nn.Sequential:
    config = checkpoint.config_of(folder, KIND, "head")
    with checkpoint.described(folder, "aesthetic head", "head"):
        return linears.chain(**config)


def convert(source: Path, out: Path, *, base: Path | None = None) -> None:
    """Write the head's folder from a state dict of upstream's, pickled or safetensors. Raises ConfigError."""
    state = tensors(source) if source.suffix == ".safetensors" else pickled(source)
    widths, found = linears.chained(state, source)
    written(out, KIND, {"widths": widths}, found)
