"""Rewards for keeping away from the arm's obstacles, for any policy: -U_rep, and the distance D itself.

Obstacles that are classifiers have no distance in latent space and are left out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from actors.sampling.potential import distance, potential
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View


class Repulsion:
    """-U_rep of the x0 prediction, summed over obstacles; 0 if it is farther than `reach` (Q*) from every obstacle."""

    components = ("repulsion",)
    needs: Literal["estimate"] = "estimate"
    meets_obstacles = True

    def __init__(self, *, eta: float = 1.0, reach: float = 0.5) -> None:
        check(eta > 0, "eta", eta, "above 0")
        check(reach > 0, "reach", reach, "above 0")
        self._eta, self._reach = eta, reach

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 1)."""
        return np.array([[-sum(potential(d, self._eta, self._reach) for d in distances(v))] for v in views])


class Distance:
    """The distance D of the x0 prediction to the nearest obstacle, a root mean square over its elements."""

    components = ("distance",)
    needs: Literal["estimate"] = "estimate"
    meets_obstacles = True

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 1)."""
        return np.array([[min(distances(v))] for v in views])


def distances(view: "View") -> list[float]:
    """The distance D of a view's x0 prediction to each obstacle."""
    assert view.estimate is not None
    return [float(distance(view.estimate.double(), o)) for o in view.obstacles]
