"""Features of vision transformers in a local folder, by transformers' own classes: DINO, DINOv2 and CLIP."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from actors.features import unit
from actors.models.weights import pretrained, quiet
from actors.rewards.backbones import shared
from raysearch.errors import ConfigError, check

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for a folder without its own
BATCH = 32  # frames in one forward pass


class _Vision:
    """Resizes frames to the model's input size and normalises them as the folder's preprocessor_config.json says.

    `key` is the folder's key in the config.
    """

    kinds: tuple[str, ...]  # the model types of config.json that the class accepts
    normal = (MEAN, STD)  # of a folder without its own

    def __init__(self, path: Path | None, key: str = "path") -> None:
        assert path is not None
        self._model = shared(("features", path.resolve()), partial(_loaded, path, key))
        given = path / "preprocessor_config.json"
        how: dict[str, Any] = json.loads(given.read_text()) if given.exists() else {}
        self._mean, self._std = map(how.get, ("image_mean", "image_std"), self.normal)
        config = self._model.config
        self._side = int(getattr(config, "vision_config", config).image_size)

    @classmethod
    def files(cls, path: Path | None, key: str = "path") -> list[Path]:
        """The files of the folder that features depend on. Raises ConfigError unless it holds such a model."""
        check(path is not None, key, None, "given: a folder with config.json and model.safetensors")
        assert path is not None
        found = [path / n for n in ("config.json", "model.safetensors")]
        for file in found:
            check(file.is_file(), key, str(path), f"a folder with {file.name}")
        try:
            kind = pretrained(AutoConfig, path).model_type
        except Exception as error:
            raise ConfigError.of(key, str(path), "a folder whose config.json transformers can read") from error
        check(kind in cls.kinds, key, str(path), f"a model of type {' or '.join(cls.kinds)}, not {kind}")
        try:
            with safe_open(found[1], framework="pt") as weights:
                weights.keys()
        except Exception as error:
            raise ConfigError.of(key, str(path), "a folder whose model.safetensors can be read") from error
        given = path / "preprocessor_config.json"
        if not given.exists():
            return found
        try:
            how = json.loads(given.read_text())
            fits = all(len([float(x) for x in how.get(k, MEAN)]) == 3 for k in ("image_mean", "image_std"))
        except (ValueError, TypeError, AttributeError):
            fits = False
        check(fits, key, str(path), f"a folder whose {given.name} has image_mean and image_std of three numbers")
        return [*found, given]

    def to(self, device: str) -> None:
        """Moves the model to a device."""
        self._model.to(device)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 (T, D), rows of norm 1, of frames uint8 (T, H, W, 3)."""
        found = []
        for part in torch.tensor(frames).split(BATCH):
            x = self._resized(part.permute(0, 3, 1, 2).float() / 255)
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self._mean, self._std))
            found.append(self._embed(((x - mean) / std).to(self._model.device)))
        return unit(torch.cat(found).float().cpu().numpy())

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] in the model's input size."""
        side = (self._side, self._side)
        return F.interpolate(x, side, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, D) of normalised images (B, 3, H, W)."""
        raise NotImplementedError


def _loaded(path: Path, key: str) -> Any:
    """The model of a folder. Raises ConfigError if weights are missing."""
    quiet()
    model, loading = pretrained(AutoModel, path, use_safetensors=True, output_loading_info=True)
    missing = sorted(k for k in loading["missing_keys"] if "pooler" not in k)  # its output is not used
    check(not missing, key, str(path), f"a folder whose weights are whole; these are missing: {missing[:3]}")
    return model.eval().requires_grad_(False)


class Dino(_Vision):
    """The class token's last state (DINO 2104.14294, DINOv2 2304.07193), as in VBench's subject consistency."""

    kinds: tuple[str, ...] = ("vit", "dinov2")

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return self._model(x).last_hidden_state[:, 0]  # type: ignore[no-any-return]


class Clip(_Vision):
    """CLIP's image embedding (2103.00020), as in VBench's background consistency."""

    kinds: tuple[str, ...] = ("clip",)

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return self._model.get_image_features(pixel_values=x).pooler_output  # type: ignore[no-any-return]
