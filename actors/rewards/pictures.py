"""What rewards of single images share on videos: which frames they see, with which pixels, and a view's two numbers.

Frames are uint8 (T, H, W, 3). Resizing is PIL's, as in the image processors of transformers that do without
torchvision, and gives the same pixels as those.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

if TYPE_CHECKING:
    from actors.rewards import View

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean and deviation of its pixels
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # SigLIP's


class Pictured:
    """A reward whose scores of a view are the mean and the minimum over `frames` uniformly spaced frames.

    A subclass defines `components`, the names of the two, and `grades`.
    """

    components: tuple[str, ...]
    needs: Literal["latent", "estimate", "frames"] = "frames"
    frames: int

    def grades(self, prompt: str, frames: np.ndarray) -> torch.Tensor:
        """A number for each frame, float32 (T,), from one forward pass of all."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 2): mean and minimum. Raises ValueError for frames that are no pictures."""
        rows = []
        for view in views:
            x = view.frames
            if x is None or x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not x.size:
                raise ValueError(f"{self.components[0]} needs frames: uint8 (frames, height, width, 3)")
            found = self.grades(view.prompt, chosen(x, self.frames)).double().cpu()
            rows.append([float(found.mean()), float(found.min())])
        return np.array(rows, dtype=np.float64).reshape(len(rows), 2)


def chosen(frames: np.ndarray, n: int) -> np.ndarray:
    """The `n` frames nearest to n evenly spaced times from the first frame to the last; all frames if there are fewer.

    A single frame is the first one.
    """
    return frames[evenly(len(frames), n)]


def evenly(total: int, n: int) -> np.ndarray:
    """The indices of `chosen` frames among `total`, int (min(total, n),), in order and each of them once."""
    return np.unique(np.rint(np.linspace(0, total - 1, n)).astype(int))


def cropped(frames: np.ndarray, side: int) -> np.ndarray:
    """CLIP's square: the shorter side becomes `side`, bicubic, and the middle is cut out. float32 in [0, 1].

    Where what is cut off has an odd width, the right side loses a pixel more, as in transformers.
    """
    x = _shortened(frames, side)
    top, left = ((n - side) // 2 for n in x.shape[1:3])
    return _unit(x[:, top : top + side, left : left + side])


def centred(frames: np.ndarray, side: int) -> np.ndarray:
    """CLIP's square, whose middle is torchvision's. float32 in [0, 1]."""
    x = _shortened(frames, side)
    rows, columns = (middle(n, side) for n in x.shape[1:3])
    return _unit(x[:, rows, columns])


def middle(n: int, side: int) -> slice:
    """The middle `side` of n pixels as torchvision's CenterCrop has it, which rounds the half of what is cut off."""
    first = round((n - side) / 2)
    return slice(first, first + side)


def stretched(frames: np.ndarray, side: int) -> np.ndarray:
    """SigLIP's square: both sides become `side`, bicubic, whatever the aspect was. float32 in [0, 1]."""
    return _unit(_resized(frames, side, side))


def padded(frames: np.ndarray, side: int) -> np.ndarray:
    """HPSv2's square: the longer side becomes `side`, bicubic with antialiasing, and black bars fill the rest.

    Upstream resizes the float image in [0, 1], so what overshoots is not clipped. float32.
    """
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    height, width = (max(1, round(n * side / max(x.shape[2:]))) for n in x.shape[2:])
    if (height, width) != tuple(x.shape[2:]):
        x = F.interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False)
    down, right = side - height, side - width
    x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    return x.permute(0, 2, 3, 1).numpy()


def pixels(
    square: Callable[[np.ndarray, int], np.ndarray],
    frames: np.ndarray,
    side: int,
    normal: tuple[tuple[float, ...], tuple[float, ...]] = CLIP,
) -> torch.Tensor:
    """What a vision model of input size `side` reads of frames, float32 (T, 3, side, side), normalised by channel."""
    mean, deviation = (np.array(values, np.float32) for values in normal)
    return torch.from_numpy(((square(frames, side) - mean) / deviation).transpose(0, 3, 1, 2).copy())


def _shortened(frames: np.ndarray, side: int) -> np.ndarray:
    height, width = frames.shape[1:3]
    short = min(height, width)
    return _resized(frames, height * side // short, width * side // short)


def _resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    size, how = (width, height), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in frames])


def _unit(frames: np.ndarray) -> np.ndarray:
    return (frames.astype(np.float64) * (1 / 255)).astype(np.float32)
