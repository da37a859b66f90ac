"""Frames as an autoencoder of any family gives them."""

import numpy as np


def eight_bits(frames: np.ndarray) -> np.ndarray:
    """Decoded frames, in which 0 is black and 1 is white, as uint8; what is beyond is black or white.

    Raises FloatingPointError unless all are finite.
    """
    if not np.isfinite(frames).all():
        raise FloatingPointError("the decoded frames are not finite")
    return np.rint(frames.clip(0, 1) * 255).astype(np.uint8)
