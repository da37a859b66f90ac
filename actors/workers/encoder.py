"""An encoder turns captions into embeddings, and pictures and clips into latents or conditions."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image

from actors.models.source import Source
from actors.workers.state import State
from raysearch.config.media import shown
from raysearch.engine.protocol import Encode, Encoded, File, Prefix, Text, Whole


class Encoder:
    """The text encoder of a model; its autoencoder and image encoder are loaded when a picture or clip first comes."""

    def __init__(self, source: Source) -> None:
        torch.set_num_threads(1)
        self._source, self._family, self._geometry = source, source.family, source.geometry
        piped = hasattr(self._family, "Conditioner")
        self._text = (self._family.Conditioner if piped else self._family.TextEncoder)(source)
        self._autoencoder: Any = None
        self._image: Any = None

    def run(self, request: Encode, inputs: Mapping[str, Any]) -> tuple[Encoded, Any]:
        """A reply and what `encode` returns for the request's content."""
        return Encoded(), self.encode(request.what, inputs)

    def encode(self, what: Text | File | Prefix | Whole, inputs: Mapping[str, Any]) -> Any:
        """Arrays, float32, for one piece of content.

        Text: the caption's embedding, (1, L, D). A File that is a first frame, or a Prefix: the `Condition` of
        `actors.models`, in arrays. Another File: the latent (1, C, T, H, W) of a clip; a picture becomes a clip that
        does not move. A Whole: the `Conditions` of a pipeline's run. Raises what Pillow or PyAV raise for a file that
        is no picture or clip any longer.
        """
        match what:
            case Whole(text, sampler, files):
                pictures = {name: next(iter(shown(f.recording, f.data, 1, *f.size[1:]))) for name, f in files}
                return self._text(sampler, text, pictures)
            case Text(text, length):
                return self._text(text, length)
            case File("image", recording, size, data):
                (picture,) = shown(recording, data, 1, *size[1:])
                return self._condition(picture, *size)
            case File(_, recording, size, data):
                return self._loaded().encode_video(shown(recording, data, *size), *size[1:])
            case Prefix(frames):
                return self._prefix(frames, inputs["state"])

    def _prefix(self, prefix: int, state: State) -> Any:
        """The condition of a clip whose first `prefix` latent frames continue the last frames of a finished state."""
        autoencoder = self._loaded()
        frames = autoencoder.decode(torch.tensor(state.latent))
        if self._geometry.image_to_video:
            return self._condition(Image.fromarray(frames[-1]), *frames.shape[:3])
        n = self._geometry.frames(prefix)
        return autoencoder.encode_video(map(Image.fromarray, frames[-n:]), *frames.shape[1:3])

    def _condition(self, image: Image.Image, num_frames: int, height: int, width: int) -> Any:
        """The condition of a clip of this size, in frames and pixels, that begins with a picture."""
        if not self._geometry.image_to_video:
            return self._loaded().encode_image(image, 1, height, width)
        channels = self._loaded().image_channels(image, num_frames, height, width)
        if not self._geometry.sees_image:
            return (channels,)
        if self._image is None:
            self._image = self._family.ImageEncoder(self._source)
        return channels, self._image(image)

    def _loaded(self) -> Any:
        """The autoencoder, which is loaded on the first call."""
        if self._autoencoder is None:
            self._autoencoder = self._family.Autoencoder(self._source)
        return self._autoencoder
