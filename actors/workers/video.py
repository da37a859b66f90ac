"""Frames to mp4 bytes (H.264 through PyAV), and back."""

import io
from fractions import Fraction

import av
import numpy as np


class Mp4:
    """An mp4 file in memory, to which frames of one size are added, `fps` of them a second.

    Each pixel becomes `scale` x `scale` pixels. A height or width that is odd then loses its last row or column.
    """

    def __init__(self, *, fps: int, scale: int = 1) -> None:
        self._scale, self._buffer = scale, io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "16", "preset": "veryfast", "threads": "1"}

    def add(self, frames: np.ndarray) -> None:
        """Append frames, uint8 (T, H, W, 3)."""
        frames = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2  # 4:2:0 needs even sizes
        if not self._stream.codec_context.is_open:
            self._stream.width, self._stream.height = width, height
        for frame in frames:
            pixels = np.ascontiguousarray(frame[:height, :width])
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))

    def close(self) -> bytes:
        """Finish the file; returns its bytes."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()
