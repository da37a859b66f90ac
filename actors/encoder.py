"""An encoder: captions to embeddings, pictures and clips to latents. Each is encoded once per run and shared."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from actors import video
from actors.models import family


class Encoder:
    def __init__(self, folder: str, *, dtype: str, device: str) -> None:
        torch.set_num_threads(1)
        self._folder, self._dtype, self._device = Path(folder), dtype, device
        self._models = family(self._folder)
        self._geometry = self._models.Geometry.of(self._folder)
        self._text = self._models.TextEncoder(self._folder, dtype=dtype, device=device)
        self._autoencoder: Any = None  # loaded with the first picture

    def encode_text(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        text, length = arguments["what"]
        return {}, self._text(text, length)

    def encode_image(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        _, _, (height, width) = arguments["what"]
        picture = Image.open(io.BytesIO(arguments["data"])).convert("RGB")
        return {}, self._loaded().encode_image(picture, height, width)

    def encode_video(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """A clip, or a picture, which stands still, brought to the size of the model's videos."""
        _, _, (num_frames, height, width) = arguments["what"]
        return {}, self._loaded().encode_video(video.frames(arguments["data"]), num_frames, height, width)

    def encode_prefix(self, arguments: dict[str, Any], payload: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """The last frames of a finished latent as the first ones of a clip, `prefix` latent frames of it."""
        prefix, _ = arguments["what"]
        autoencoder = self._loaded()
        frames = autoencoder.decode(torch.tensor(payload["latent"]))
        n = self._geometry.frames(prefix)
        return {}, autoencoder.encode_video(frames[-n:], n, *frames.shape[1:3])

    def _loaded(self) -> Any:
        if self._autoencoder is None:
            self._autoencoder = self._models.Autoencoder(self._folder, dtype=self._dtype, device=self._device)
        return self._autoencoder
