"""Pure kernels that policies share: weights and resampling. The generator comes first; weights stay in logs.

A resampler takes normalised weights w (m,) and returns the indices of n ancestors, int (n,), ascending. In expectation
index i is returned n w_i times.
"""

from collections.abc import Callable

import numpy as np


def softmax(log_w: np.ndarray) -> np.ndarray:
    """Normalised weights exp(log_w) / sum exp(log_w), (n,)."""
    w = np.exp(log_w - np.max(log_w))
    normalised: np.ndarray = w / w.sum()
    return normalised


def log_mean_exp(log_w: np.ndarray) -> float:
    """log of the mean of exp(log_w), for log_w (n,), without overflow."""
    top = np.max(log_w)
    return float(top + np.log(np.mean(np.exp(log_w - top))))


def ess(log_w: np.ndarray) -> float:
    """The effective sample size 1 / sum w^2 of weights given by their logarithms (n,); in [1, n]."""
    return float(1 / np.square(softmax(log_w)).sum())


def multinomial(rng: np.random.Generator, w: np.ndarray, n: int) -> np.ndarray:
    """Multinomial resampling: n independent draws."""
    return np.sort(rng.choice(len(w), size=n, p=w))


def systematic(rng: np.random.Generator, w: np.ndarray, n: int) -> np.ndarray:
    """Systematic resampling (Carpenter et al. 1999): n evenly spaced points with one random offset."""
    return _comb(w, (rng.random() + np.arange(n)) / n)


def residual(rng: np.random.Generator, w: np.ndarray, n: int) -> np.ndarray:
    """Residual resampling (Liu and Chen 1998): floor(n w_i) copies of i, the rest drawn by the remainders."""
    copies = np.floor(n * w * (1 + 1e-12)).astype(int)
    left = n - copies.sum()
    if left:
        rest = np.maximum(n * w - copies, 0)
        copies += np.bincount(multinomial(rng, rest / rest.sum(), left), minlength=len(w))
    return np.repeat(np.arange(len(w)), copies)


def ssp(rng: np.random.Generator, w: np.ndarray, n: int) -> np.ndarray:
    """SSP resampling (Gerber, Chopin and Whiteley 2019): Srinivasan's process rounds pairs of fractions in turn."""
    expected = n * w
    copies = np.floor(expected + 1e-12).astype(int)
    p = np.maximum(expected - copies, 0)
    i = 0
    for j in range(1, len(w)):  # i is the index whose fraction is not rounded yet
        up, down = min(1 - p[i], p[j]), min(p[i], 1 - p[j])
        if up + down > 0 and rng.random() < down / (up + down):
            p[i], p[j] = p[i] + up, p[j] - up
        else:
            p[i], p[j] = p[i] - down, p[j] + down
        for k in (i, j):
            if p[k] > 1 - 1e-9:
                copies[k], p[k] = copies[k] + 1, 0.0
        if p[i] < 1e-9:
            i = j
    if copies.sum() < n:  # the last fraction, off 1 by float error
        copies[i] += n - copies.sum()
    return np.repeat(np.arange(len(w)), copies)


def _comb(w: np.ndarray, teeth: np.ndarray) -> np.ndarray:
    """The index whose interval of cumulated weights holds each of `teeth`, ascending points in [0, 1)."""
    return np.minimum(np.searchsorted(np.cumsum(w), teeth, side="right"), len(w) - 1)


RESAMPLERS: dict[str, Callable[[np.random.Generator, np.ndarray, int], np.ndarray]] = {
    "multinomial": multinomial,
    "systematic": systematic,
    "residual": residual,
    "ssp": ssp,
}
