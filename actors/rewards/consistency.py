"""The anchor reward of ScalingNoise (2503.16400, Eq. 7): how alike frames are to an earlier frame and to each other."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from actors import features as kinds
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View


class Consistency:
    """Components anchor, the mean of <d_a, d_i>, and local, the mean of <d_i, d_{i-1}>, over frames i = 2..T.

    d_i are unit features of frames, of the kind `features` with weights at `path`, so each component is in [-1, 1]; d_a
    is the anchor's. The anchor is the first frame of the chunk before (`anchor=before`) or of the video (`opening`); in
    a video's first chunk it is that chunk's first frame. By default each component weighs 0.5.
    """

    components: tuple[str, ...] = ("anchor", "local")
    needs: Literal["latent", "estimate", "frames"] = "frames"
    weights: ClassVar[dict[str, float]] = {"anchor": 0.5, "local": 0.5}
    reads_earlier: bool | tuple[str, ...] = True

    def __init__(
        self, *, features: str = "world", path: Path | None = None, anchor: Literal["before", "opening"] = "before"
    ) -> None:
        self.features, self.anchor = kinds.find(features)(path), anchor
        self.reads_earlier = (anchor,)

    @staticmethod
    def files(*, features: str, path: Path | None, anchor: str) -> list[Path]:
        """The source of the features' class and its weights. Raises ConfigError."""
        kind = kinds.find(features)
        return [Path(str(inspect.getsourcefile(kind))), *kind.files(path)]  # type: ignore[attr-defined,arg-type]

    @staticmethod
    def fits(shape: tuple[int, ...], text_dim: int | None, *, features: str, path: Path | None, anchor: str) -> None:
        """Raises ConfigError for a latent of one frame."""
        check(shape[2] > 1, "model.num_frames", 1, "that of a video: one frame is alike to no other")

    def to(self, device: str) -> None:
        """Moves the features' weights to a device."""
        self.features.to(device)

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 2): anchor and local."""
        rows = []
        for view in views:
            assert view.frames is not None
            earlier = view.before if self.anchor == "before" else view.opening
            a = view.frames[:1] if earlier is None else earlier[:1]
            d = self.features(np.concatenate([a, view.frames])).astype(np.float64)
            d_a, d = d[0], d[1:]
            rows.append([(d[1:] @ d_a).mean(), (d[1:] * d[:-1]).sum(1).mean()])
        return np.array(rows, dtype=np.float64).reshape(len(rows), 2)
