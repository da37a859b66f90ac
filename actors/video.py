"""Frames to mp4 bytes (H.264 through PyAV)."""

import io
from fractions import Fraction

import av
import numpy as np


def mp4(frames: np.ndarray, *, fps: int, scale: int = 1) -> bytes:
    """uint8 (T, H, W, 3) -> an mp4 file, each pixel `scale` x `scale`; odd sizes lose their last row or column."""
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2  # 4:2:0 needs even sizes
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            pixels = np.ascontiguousarray(frame[:height, :width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
