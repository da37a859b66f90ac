"""Nearness to a point, for the Gaussian mixture model: a reward whose maximum is known."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from actors.rewards import View


class Near:
    """Minus the Euclidean distance of the x0 prediction to `point`, in the latent's own units; at most 0."""

    components: tuple[str, ...] = ("nearness",)
    needs: Literal["latent", "estimate", "frames"] = "estimate"

    def __init__(self, *, point: Sequence[float] = (1.2, 0.4)) -> None:
        self.point = np.array(point, dtype=float)

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 1). Raises ValueError for a latent without as many numbers as `point`."""
        rows = []
        for view in views:
            assert view.estimate is not None
            x = view.estimate.double().numpy().ravel()
            if x.shape != self.point.shape:
                raise ValueError(f"near.point has {len(self.point)} coordinates, the latent {len(x)}")
            rows.append([-float(np.linalg.norm(x - self.point))])
        return np.array(rows, dtype=np.float64).reshape(len(rows), 1)
