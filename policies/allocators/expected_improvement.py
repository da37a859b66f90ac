"""Where the next trial is worth most: expected improvement of a fitted normal, per price (Mockus et al. 1978)."""

from math import ceil
from statistics import NormalDist
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from raysearch.config.allocation import Standing
from raysearch.config.numbers import Count

NORMAL = NormalDist()


def allocate(
    standing: Standing,
    *,
    cap: Count = 12,
    share: Annotated[float, Gt(0), Le(1)] = 0.25,
    within: Annotated[float, Gt(0), Le(1)] = 0.5,
) -> np.ndarray:
    """One more trial in each round for that `share` of all searches whose EI / price is highest, up to `cap` each.

    Rewards are r = m_i + sqrt(within) s eps, where the means m_i of searches are normal with mean m and variance
    (1 - within) s^2. The best b of k rewards is about m_i + e_k sqrt(within) s, with variance within s^2 / sqrt(k),
    where e_k = Phi^-1((k - 0.375) / (k + 0.25)) (Blom). m and s are fitted to x = b - e_k sqrt(within) s by moments.
    Given b, m_i has mean mu = m + rho (x - m) and variance (1 - rho) (1 - within) s^2, where rho is
    (1 - within) / (1 - within + within / sqrt(k)). With v the variance of a new reward and z = (mu - b) / sqrt(v),
    EI = sqrt(v) (z Phi(z) + phi(z)). The price of a search is its cost per trial so far.
    """
    able, most = np.flatnonzero(standing.open & (standing.trials < cap)), ceil(share * standing.size)
    seen, k = np.isfinite(standing.best), standing.trials.astype(float)
    b, noise = np.where(seen, standing.best, 0.0), within / np.sqrt(k)
    e = np.array([NORMAL.inv_cdf((n - 0.375) / (n + 0.25)) for n in k])
    s, x = 0.0, b
    for _ in range(20 if seen.any() else 0):
        x = b - e * np.sqrt(within) * s
        s = float(np.std(x[seen]) / np.sqrt(np.mean(1 - within + noise[seen])))
    if not s:
        return able[:most]
    m, rho = x[seen].mean(), (1 - within) / (1 - within + noise)
    v = s**2 * (within + (1 - rho) * (1 - within))
    z = (m + rho * (x - m) - b) / np.sqrt(v)
    ei = np.sqrt(v) * np.array([y * NORMAL.cdf(y) + NORMAL.pdf(y) for y in z])
    price = np.maximum(standing.cost, 1e-9) / k
    worth = np.where(seen, ei / price, np.inf)  # a search without a reward comes first
    return able[np.argsort(-worth[able], kind="stable")][:most]
