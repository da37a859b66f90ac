"""An encoder: captions to embeddings, pictures and clips to latents. Each is encoded once per run and shared."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from actors.models import family
from actors.workers import video


class Encoder:
    def __init__(self, folder: str, *, dtype: str, device: str) -> None:
        torch.set_num_threads(1)
        self._folder, self._dtype, self._device = Path(folder), dtype, device
        self._models = family(self._folder)
        self._geometry = self._models.Geometry.of(self._folder)
        self._text = self._models.TextEncoder(self._folder, dtype=dtype, device=device)
        self._autoencoder: Any = None  # loaded with the first picture
        self._image: Any = None

    def encode_text(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        text, length = arguments["what"]
        return {}, self._text(text, length)

    def encode_image(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """What a video of a size is given with a first frame: see `actors.models.Given`."""
        _, _, size = arguments["what"]
        return {}, self._given(Image.open(io.BytesIO(arguments["data"])).convert("RGB"), *size)

    def encode_video(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """A clip, or a picture, which stands still, brought to the size of the model's videos."""
        _, _, (num_frames, height, width) = arguments["what"]
        return {}, self._loaded().encode_video(video.frames(arguments["data"]), num_frames, height, width)

    def encode_prefix(self, arguments: dict[str, Any], payload: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The last frames of a finished latent as the first ones of a clip, `prefix` latent frames of it."""
        prefix, _ = arguments["what"]
        autoencoder = self._loaded()
        frames = autoencoder.decode(torch.tensor(payload["latent"]))
        if self._geometry.pictured:
            return {}, self._given(Image.fromarray(frames[-1]), *frames.shape[:3])
        n = self._geometry.frames(prefix)
        return {}, autoencoder.encode_video(frames[-n:], n, *frames.shape[1:3])

    def _given(self, image: Image.Image, num_frames: int, height: int, width: int) -> Any:
        if not self._geometry.pictured:
            return self._loaded().encode_image(image, 1, height, width)
        condition = self._loaded().condition(image, num_frames, height, width)
        if not self._geometry.sees_image:
            return (condition,)
        if self._image is None:
            self._image = self._models.ImageEncoder(self._folder, dtype=self._dtype, device=self._device)
        return condition, self._image(image)

    def _loaded(self) -> Any:
        if self._autoencoder is None:
            self._autoencoder = self._models.Autoencoder(self._folder, dtype=self._dtype, device=self._device)
        return self._autoencoder
