"""Rewards without weights that measure how frames change: flicker, and the size and the smoothness of motion.

They follow dimensions of VBench (2311.17982; github.com/Vchitect/VBench). `Flicker` computes VBench's temporal
flickering. `Motion` computes the dynamic degree from the optical flow of another algorithm, and a stand-in for the
motion smoothness; so the two have VBench's form and units, and not VBench's numbers.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from actors.rewards.extras import library
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

SMALLEST = 16  # pixels: of thinner frames DIS gives NaN, or reads memory that is not theirs
LARGEST = 0.05  # the share of a frame's pixels, those that move most, whose mean is a pair's motion
THRESHOLD = 6.0  # what counts as a move, in units of the shorter side over 256


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference of two images (H, W, 3) with values from 0 to 255, as a share of 255."""
    return float(np.abs(np.subtract(a, b, dtype=np.float32)).mean(dtype=np.float64)) / 255


def check_frames(found: int, least: int) -> None:
    """Raises ConfigError for a video with fewer frames than a reward compares."""
    check(found >= least, "model.num_frames", found, f"at least {least} for this reward, which compares frames")


class Flicker:
    """Component flicker: 1 - mean |f_i - f_{i+1}| / 255 over all pixels of consecutive frames, so 1 for a still video.

    VBench computes this for captions of still scenes. Every motion lowers the value, too.
    """

    components: tuple[str, ...] = ("flicker",)
    needs: Literal["latent", "estimate", "frames"] = "frames"

    @staticmethod
    def fits(shape: tuple[int, ...], text_dim: int | None) -> None:
        """Raises ConfigError for a latent of one frame."""
        check_frames(shape[2], 2)

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 1), in [0, 1]. Raises ConfigError for a view of one frame."""
        rows = []
        for view in views:
            assert view.frames is not None
            check_frames(len(view.frames), 2)
            rows.append([1 - np.mean([apart(a, b) for a, b in pairwise(view.frames)])])
        return np.array(rows, dtype=np.float64).reshape(len(rows), 1)


class Motion:
    """Components dynamic, moves and smoothness of a video.

    Optical flow by DIS (Kroeger et al., 1603.03590) leads from each round(fps / 8)th frame to the next of these frames.
    A pair's motion is the mean length of its largest 5% of flow vectors, in units of min(H, W) / 256 pixels, or of as
    many times more as a pair is longer than an eighth of a second. `dynamic` is the mean of this motion over pairs.
    `moves` is 1 if at least round(n / 4) pairs, and at least one, exceed VBench's threshold, which is 6 in these units,
    where n is the number of frames that were compared, and else 0; by default it weighs 0. VBench computes both from
    the flow of the network RAFT.

    `smoothness` is 1 - mean |f_i - (f_{i-1} + f_{i+1}) / 2| / 255 over all frames but the first and the last. VBench
    predicts every second frame from its neighbours with the network AMT, where this is linear interpolation: it takes
    fast but even motion for less smooth.
    """

    components: tuple[str, ...] = ("dynamic", "moves", "smoothness")
    needs: Literal["latent", "estimate", "frames"] = "frames"
    weights: ClassVar[dict[str, float]] = {"moves": 0.0}

    def __init__(self) -> None:
        cv2 = library("cv2", extra="flow")
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._grey = lambda frame: cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)

    @staticmethod
    def files() -> list[Path]:
        """No files. Raises ConfigError if OpenCV is missing."""
        library("cv2", extra="flow")
        return []

    @staticmethod
    def fits(shape: tuple[int, ...], text_dim: int | None) -> None:
        """Raises ConfigError for a latent of one frame."""
        check_frames(shape[2], 2)

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 3). Raises ConfigError for frames that are too few or too small to compare."""
        rows = []
        for view in views:
            assert view.frames is not None
            f, every = view.frames, max(1, round(view.fps / 8))
            check_frames(len(f), max(3, every + 1))
            pairs = self.motions(f[::every]) / max(1.0, 8 / view.fps)
            moves = (pairs > THRESHOLD).sum() >= max(1, round((len(pairs) + 1) / 4))
            rough = [apart(b, np.add(a, c, dtype=np.float32) / 2) for a, b, c in zip(f, f[1:], f[2:], strict=False)]
            rows.append([pairs.mean(), float(moves), 1 - np.mean(rough)])
        return np.array(rows, dtype=np.float64).reshape(len(rows), 3)

    def motions(self, frames: np.ndarray) -> np.ndarray:
        """The motion between consecutive frames of (n, H, W, 3), in units of min(H, W) / 256 pixels, float64 (n-1,)."""
        height, width = frames.shape[1:3]
        allowed = f"larger: optical flow needs sides of {SMALLEST} pixels or more"
        check(min(height, width) >= SMALLEST, "model.height and width", f"{height} x {width}", allowed)
        grey = [self._grey(frame) for frame in frames]
        found = []
        for a, b in pairwise(grey):
            lengths = np.linalg.norm(self._flow.calc(a, b, None), axis=-1).ravel()
            found.append(np.sort(lengths)[-max(1, int(LARGEST * lengths.size)) :].mean(dtype=np.float64))
        return np.array(found) * 256 / min(height, width)
