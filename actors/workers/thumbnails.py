"""Small pictures of videos: strips of candidates' frames, the sprite of a search's strips, the poster of a winner.

None is ever larger than the frames it is made of, but for a poster, whose pixels grow as those of the mp4 do.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

STRIP, POSTER = (160, 160), (320, 640)  # the most pixels that a frame is wide and high
MOST = 2**14  # bytes of a strip: the driver keeps many
QUALITIES = (85, 60, 30, 10)  # of a strip, until it is small enough
WEBP = {"format": "webp", "quality": 75, "method": 0}  # the fastest method


def strip(frames: np.ndarray) -> bytes:
    """The first, middle and last of the frames, uint8 (T, H, W, 3), side by side as a JPEG; of one frame that one.

    Its quality is as high as MOST bytes allow.
    """
    n = len(frames)
    shown = [_small(frames[i], STRIP) for i in ((0, n // 2, n - 1) if n > 1 else (0,))]
    whole = Image.fromarray(np.concatenate([np.asarray(picture) for picture in shown], 1))
    for quality in QUALITIES:
        found = _encoded(whole, format="jpeg", quality=quality)
        if len(found) <= MOST:
            break
    return found


def sprite(strips: Sequence[bytes], clip: np.ndarray) -> bytes:
    """A WebP of strips from top to bottom, each with the frames' size that a strip of `clip` has.

    A row has three frames, or one if `clip` is a picture; a strip of one frame fills a row of three with it.
    """
    width, height = _small(clip[0], STRIP).size
    frames = 3 if len(clip) > 1 else 1
    whole = Image.new("RGB", (frames * width, len(strips) * height))
    for row, data in enumerate(strips):
        picture = Image.open(io.BytesIO(data))
        step = min(picture.width, whole.width)
        for left in range(0, whole.width, step):
            whole.paste(picture, (left, row * height))
    return _encoded(whole, **WEBP)


def poster(frame: np.ndarray, *, scale: int = 1) -> bytes:
    """A WebP of a frame, uint8 (H, W, 3); each pixel of a small one becomes at most `scale` x `scale` pixels."""
    small = _small(frame, POSTER)
    times = max(1, min(scale, POSTER[0] // small.width, POSTER[1] // small.height))
    return _encoded(small.resize((times * small.width, times * small.height), Image.Resampling.NEAREST), **WEBP)


def _small(frame: np.ndarray, most: tuple[int, int]) -> Image.Image:
    """A frame within a size, of the same aspect ratio."""
    picture = Image.fromarray(frame)
    picture.thumbnail(most, Image.Resampling.BOX, reducing_gap=1.0)
    return picture


def _encoded(picture: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **how)  # type: ignore[arg-type]
    return buffer.getvalue()
