"""Frames to mp4 bytes (H.264 through PyAV), and back."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image, UnidentifiedImageError


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


def frames(data: bytes) -> np.ndarray:
    """A video or a picture -> uint8 (T, H, W, 3)."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[None]
    except UnidentifiedImageError:
        with av.open(io.BytesIO(data)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def fitted(frames: np.ndarray, *, num_frames: int, height: int, width: int) -> np.ndarray:
    """Frames stretched to another size and sampled evenly in time, uint8 (num_frames, height, width, 3)."""
    chosen = np.rint(np.linspace(0, len(frames) - 1, num_frames)).astype(int)
    pictures = [Image.fromarray(frames[i]).resize((width, height), Image.Resampling.LANCZOS) for i in chosen]
    return np.stack([np.asarray(p) for p in pictures])
