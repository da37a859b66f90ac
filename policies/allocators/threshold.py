"""Until it is good enough: a search stops at a reward, and the others have what it left."""

import numpy as np

from raysearch.config.allocation import Standing, steady
from raysearch.config.numbers import Count


@steady
def allocate(standing: Standing, *, enough: float, cap: Count = 12) -> np.ndarray:
    """One more trial in each round for every search whose best reward is below `enough`; at most `cap` each."""
    return np.flatnonzero(standing.open & (standing.best < enough) & (standing.trials < cap))
