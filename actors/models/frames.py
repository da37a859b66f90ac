"""Frames as an autoencoder of any family gives them."""

import numpy as np
import torch

TOGETHER = 1024  # latent frames are decoded in one pass while they have no more latent pixels than this


def eight_bits(frames: torch.Tensor) -> np.ndarray:
    """Decoded frames, (..., H, W, 3), in which 0 is black and 1 is white, as uint8; what is beyond is black or white.

    They are rounded before they leave a GPU: a quarter of the bytes. Raises FloatingPointError unless all are finite.
    """
    if not frames.isfinite().all():
        raise FloatingPointError("the decoded frames are not finite")
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().cpu().numpy()  # type: ignore[no-any-return]
