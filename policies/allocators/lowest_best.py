"""To those who have found the least: the next trial goes where the best reward is lowest."""

from math import ceil
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from raysearch.config.allocation import Standing, steady
from raysearch.config.numbers import Count


@steady
def allocate(standing: Standing, *, cap: Count = 12, share: Annotated[float, Gt(0), Le(1)] = 0.25) -> np.ndarray:
    """One more trial in each round for that `share` of all searches whose best reward is lowest; at most `cap` each."""
    able = np.flatnonzero(standing.open & (standing.trials < cap))
    lowest = able[np.argsort(standing.best[able], kind="stable")]
    return lowest[: ceil(share * standing.size)]
