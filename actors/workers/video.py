"""Frames to the bytes of an mp4 (H.264 through PyAV), or one frame to those of a png."""

import io
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from raysearch.config.media import EXACT, matrix

TAGS = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}  # FFmpeg's number for matrix, primaries and transfer, all three


class Mp4:
    """An mp4 file in memory, to which frames of one size are added, `fps` of them a second.

    Each pixel becomes `scale` x `scale` pixels. A height or width that is odd then loses its last row or column. The
    index comes before the frames, so that a browser shows the video while it loads. Players show the `title`.
    """

    def __init__(self, *, fps: Fraction, scale: int = 1, title: str = "", comment: str = "") -> None:
        self._scale, self._buffer = scale, io.BytesIO()
        self._container = av.open(
            self._buffer,
            "w",
            format="mp4",
            options={"movflags": "+faststart"},
            io_open=lambda url, flags, options: io.BytesIO(self._buffer.getvalue()),  # frames are read to be moved
        )
        self._container.metadata.update({"title": title, "comment": comment})
        self._stream = self._container.add_stream("libx264", rate=fps)
        self._stream.pix_fmt = "yuv420p"
        # With x264's macroblock tree about one encoding in a thousand of the same frames has other bits.
        self._stream.options = {"crf": "16", "preset": "veryfast", "threads": "1", "mbtree": "0"}

    def add(self, frames: np.ndarray) -> None:
        """Append frames, uint8 (T, H, W, 3)."""
        frames = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2  # 4:2:0 needs even sizes
        to, context = matrix(width, height), self._stream.codec_context
        if not context.is_open:
            self._stream.width, self._stream.height = width, height
            context.colorspace = context.color_primaries = context.color_trc = TAGS[to]
            context.color_range = ColorRange.MPEG
        how = {"dst_colorspace": to, "dst_color_range": ColorRange.MPEG, "interpolation": EXACT, "threads": 1}
        for frame in frames:
            pixels = np.ascontiguousarray(frame[:height, :width])
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", **how)
            self._container.mux(self._stream.encode(shown))

    def close(self) -> bytes:
        """Finish the file; returns its bytes."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()


def png(frame: np.ndarray, *, scale: int = 1, title: str = "", comment: str = "") -> bytes:
    """The bytes of a png of one frame, uint8 (H, W, 3), each pixel of which becomes `scale` x `scale` pixels."""
    said, buffer = PngInfo(), io.BytesIO()
    for key, value in (("Title", title), ("Comment", comment)):
        said.add_itxt(key, value)
    Image.fromarray(frame.repeat(scale, axis=0).repeat(scale, axis=1)).save(buffer, "png", pnginfo=said)
    return buffer.getvalue()
