"""Pictures and videos as their files show them, for first frames and obstacles.

They are turned as the file says, laid on a background where they are transparent, brought to 8 bits, and cut or padded
to the aspect ratio of a video. The check of a config reads a file in the very way in which an encoder does later.
"""

import io
import logging
import re
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from raysearch.errors import ConfigError
from raysearch.recipe.digests import Digest
from raysearch.recipe.origins import Fit, Recording

if TYPE_CHECKING:
    from raysearch.config.config import ModelConfig

PICTURE = 89_478_485  # pixels at most; Pillow warns beyond this
NTSC = (24, 30, 48, 60, 120)  # frames a second, of which a thousandth is left out
PAUSE = 100  # milliseconds that browsers show a frame of an animation for that says nothing
SIDE = 16_384  # pixels at most of an mp4's height and of its width, as H.264 has it
VIDEO = 2**33  # pixels of all frames together at most: two minutes in 1080p
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
RATES = "a number of frames a second from 0.001 to 1000, such as 16, 23.976 or 24000/1001"
UNTAGGED = 2  # FFmpeg's number of a matrix that a file does not name

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what Pillow logs of a damaged file would be a second line


class NotShown(ValueError):
    """A file that can be read, and yet is refused; the message says what it must be."""


def is_file(path: Path) -> bool:
    """Whether it is one; also of names that none can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_colour(text: str) -> bool:
    """Whether a text is the name of an opaque colour, or #rrggbb and the like."""
    try:
        return len(ImageColor.getrgb(text)) == 3
    except ValueError:
        return False


def frame_rate(value: object) -> Fraction:
    """The frames a second, exactly, that a config means by a number or by a text. Raises ValueError if it means none.

    23.976, 29.97 and the like mean the rates of NTSC, 24000/1001, 30000/1001 and so on.
    """
    text = str(value).strip()
    try:
        rate = Fraction(text if re.fullmatch(r"[\d.]{1,20}(/\d{1,6})?", text, re.ASCII) else "")
    except (ValueError, ZeroDivisionError):
        raise ValueError(RATES) from None
    ntsc = rate * 1001 / 1000
    if round(ntsc) in NTSC and abs(ntsc - round(ntsc)) < Fraction(1, 200):
        rate = Fraction(round(ntsc) * 1000, 1001)
    rate = rate.limit_denominator(10**6)
    if not Fraction(1, 1000) <= rate <= 1000:
        raise ValueError(RATES)
    return rate


def matrix(width: int, height: int) -> Colorspace:
    """The matrix between RGB and YUV of a video that does not name one: BT.709 in high definition, else BT.601."""
    return Colorspace.ITU709 if width >= 1280 or height >= 720 else Colorspace.ITU601


def recording(key: str, name: str, path: Path, model: "ModelConfig", *, still: bool) -> Recording:
    """The recording in a file, which the config's `key` calls `name`, brought to the shape of the model's videos.

    Raises ConfigError for a file that is no picture, if it should be `still`, or else neither a picture nor a video.
    """
    fit, background, size = model.image_fit, model.image_background, (model.num_frames, model.height, model.width)
    kind = "picture that Pillow can read" if still else "video that PyAV can read"
    try:
        at = path.stat()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _content(path, (at.st_mtime_ns, at.st_size), still, fit, background, size)
    except NotShown as error:
        raise ConfigError.of(key, name, str(error)) from error
    except Exception as error:  # neither Pillow nor PyAV has one error for what it cannot read
        said = getattr(error, "strerror", None) or error
        reason = "" if isinstance(error, UnidentifiedImageError | IndexError) else f": {said}"
        raise ConfigError(f"{key}: {name!r} is no {kind}{reason}") from error
    return Recording(str(path), content, still, fit, background)


def unchanged(recording: Recording) -> bytes:
    """The bytes of a recording's file. Raises ValueError if they are others than when the run began."""
    data = Path(recording.path).read_bytes()
    if _digest(data) != recording.content:
        raise ValueError(f"{recording.path} has changed since the run began")
    return data


def _digest(data: bytes) -> Digest:
    return blake2b(data, digest_size=16).digest()


@lru_cache(2**14)  # arms share obstacles, and prompts are read twice
def _content(
    path: Path, state: tuple[int, int], still: bool, fit: Fit, background: str, size: tuple[int, int, int]
) -> Digest:
    """The digest of a file's bytes. Raises an error if it cannot be shown; `state` tells that the file has changed."""
    data = path.read_bytes()
    for _ in shown(Recording(str(path), b"", still, fit, background), data, *size):
        pass
    return _digest(data)


def shown(recording: Recording, data: bytes, num_frames: int, height: int, width: int) -> Iterator[Image.Image]:
    """`num_frames` RGB pictures, evenly spaced in time, of a recording whose bytes are `data`.

    They have the aspect ratio of `width` to `height`, and what remains of the file's own resolution; stretched ones are
    as large as in the file. Raises NotShown, or an error of Pillow or PyAV.
    """
    moves = not recording.still  # then it is decoded twice, as not all frames may fit into memory
    times = [(start, duration) for _, start, duration in _frames(data, False)] if moves else [(0, 1)]
    if not times:
        raise NotShown("a video with a frame in it")
    chosen = Counter(_evenly(times, num_frames))
    for i, (frame, _, _) in enumerate(_frames(data, recording.still)):
        if i in chosen:
            picture = _of_picture if isinstance(frame, Image.Image) else _of_video
            whole = picture(frame, recording.background)
            yield from repeat(framed(whole, width, height, recording.fit, recording.background), chosen[i])


def framed(picture: Image.Image, width: int, height: int, fit: Fit, background: str) -> Image.Image:
    """A picture with the aspect ratio of `width` to `height`: its middle, or all of it between bars; or unchanged."""
    if fit == "stretch":
        return picture
    sides = picture.width / width, picture.height / height
    scale = min(sides) if fit == "crop" else max(sides)
    size = max(round(scale * width), 1), max(round(scale * height), 1)
    if size == picture.size:
        return picture
    _bound(size, 1)
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    if fit == "crop":
        return picture.crop((left, top, left + size[0], top + size[1]))
    canvas = Image.new("RGB", size, background)
    canvas.paste(picture, (-left, -top))
    return canvas


def _evenly(times: Sequence[tuple[int, int]], n: int) -> list[int]:
    """The frames that are shown in the middle of each of `n` equal parts of the time of all, given `_frames`' times."""
    starts = list(accumulate((start for start, _ in times), max))
    first, last = starts[0], starts[-1]
    mean = (last - first) // max(len(starts) - 1, 1)
    length = last - first + (times[-1][1] or mean or 1)
    return [bisect_right(starts, first + (2 * i + 1) * length // (2 * n)) - 1 for i in range(n)]


def _frames(data: bytes, still: bool) -> Iterator[tuple[Image.Image | av.VideoFrame, int, int]]:
    """The frames in a file's bytes, or a `still`'s first, each with its start and its duration, 0 if none is said.

    An animation is one object, which the next frame changes. The unit of time is the file's own.
    """
    try:
        picture = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise NotShown(f"a picture of at most {PICTURE:,} pixels") from None
    except UnidentifiedImageError:
        if still:
            raise
    else:
        n = 1 if still else getattr(picture, "n_frames", 1)
        beside = not still and bool(picture.info.get("default_image"))  # a PNG's picture for who shows no animations
        _bound(picture.size, n)
        start = 0
        for i in range(beside, n):
            picture.seek(i)
            picture.load()
            duration = round(picture.info.get("duration") or PAUSE)
            yield picture, start, duration
            start += duration
        return
    with av.open(io.BytesIO(data)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            _bound((frame.width, frame.height), i + 1)
            yield frame, i if frame.pts is None else frame.pts, frame.duration or 0


def _bound(size: tuple[int, int], frames: int) -> None:
    """Raises NotShown for a picture, or for frames, of too many pixels: a small file can hold a huge one."""
    pixels = size[0] * size[1]
    if pixels > PICTURE:
        raise NotShown(f"a picture of at most {PICTURE:,} pixels")
    if pixels * frames > VIDEO:
        raise NotShown(f"a video of at most {VIDEO:,} pixels in all its frames together")


def _of_picture(picture: Image.Image, background: str) -> Image.Image:
    """A picture of any mode in RGB, turned as its EXIF data say."""
    turned = ImageOps.exif_transpose(picture)
    if turned.mode == "F" or turned.mode.startswith("I"):  # Pillow itself would cut these off at 255
        white = 1.0 if turned.mode == "F" else 65535.0
        values = np.asarray(turned, np.float64) / white
        if not ((values >= 0) & (values <= 1)).all():
            raise NotShown("a picture whose numbers are in 0..1, or integers in 0..65535")
        turned = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    return _on(turned, background)


def _of_video(frame: av.VideoFrame, background: str) -> Image.Image:
    """A frame of a video in RGB, turned as its file says."""
    transparent = any(c.is_alpha for c in frame.format.components)
    source = matrix(frame.width, frame.height) if frame.colorspace == UNTAGGED else None
    form = "rgba" if transparent else "rgb24"
    pixels = frame.reformat(format=form, src_colorspace=source, interpolation=EXACT, threads=1).to_ndarray()
    return _on(Image.fromarray(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))), background)


def _on(picture: Image.Image, background: str) -> Image.Image:
    """A picture in RGB, with a colour behind what is transparent."""
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, background), over)
    return picture.convert("RGB")
