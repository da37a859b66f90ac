"""An encoder: captions to embeddings, pictures and clips to latents. Each is encoded once per run and shared."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from actors.models import family
from actors.workers import video
from actors.workers.state import State
from raysearch.engine.protocol import Encode, Encoded, File, Prefix, Text


class Encoder:
    def __init__(self, folder: str, *, dtype: str, device: str) -> None:
        torch.set_num_threads(1)
        self._folder, self._dtype, self._device = Path(folder), dtype, device
        self._models = family(self._folder)
        self._geometry = self._models.Geometry.of(self._folder)
        self._text = self._models.TextEncoder(self._folder, dtype=dtype, device=device)
        self._autoencoder: Any = None  # loaded with the first picture
        self._image: Any = None

    def run(self, request: Encode, inputs: Mapping[str, Any]) -> tuple[Encoded, Any]:
        """A condition: numpy arrays of a caption, a picture, a clip, or the last frames of a finished state."""
        return Encoded(), self.encode(request.what, inputs)

    def encode(self, what: Text | File | Prefix, inputs: Mapping[str, Any]) -> Any:
        """The embedding of a text, float32 (1, length, dim); what a video of a size is given with a first frame (see
        `actors.models.Given`); or a latent (1, C, T, H, W) of a clip, or of a picture, which stands still."""
        match what:
            case Text(text, length):
                return self._text(text, length)
            case File("image", data=data, size=size):
                return self._given(Image.open(io.BytesIO(data)).convert("RGB"), *size)
            case File(data=data, size=size):
                return self._loaded().encode_video(video.frames(data), *size)
            case Prefix(frames):
                return self._prefix(frames, inputs["state"])

    def _prefix(self, prefix: int, state: State) -> Any:
        """The last frames of a finished latent as the first ones of a clip, `prefix` latent frames of it."""
        autoencoder = self._loaded()
        frames = autoencoder.decode(torch.tensor(state.latent))
        if self._geometry.pictured:
            return self._given(Image.fromarray(frames[-1]), *frames.shape[:3])
        n = self._geometry.frames(prefix)
        return autoencoder.encode_video(frames[-n:], n, *frames.shape[1:3])

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
