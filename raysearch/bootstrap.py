"""95% intervals of means over searches: the one bootstrap of the display, the curves, the summary and the benchmarks.

It draws captions and, independently, seeds: a caption's seeds are alike, and all captions of a seed see the same noise,
so drawing single searches would give intervals that are too narrow. This is the bootstrap with product weights of Owen
and Eckles (arXiv 1106.2125): in each of D draws every caption and every seed has a weight, a Poisson number of mean 1,
and a search counts as often as the product of its two weights says. Where neither captions nor seeds matter intervals
are too wide; of a handful of captions or seeds they are too narrow.

A weight depends on nothing but the name of its caption or seed. So a figure is the same whenever it is made, all arms
see the same draws (their differences and ratios are paired), and a running mean has to remember no searches.

Shapes: D draws, N searches, K values of each.
"""

from collections.abc import Sequence
from hashlib import shake_128
from math import exp, factorial
from typing import Any

import numpy as np

DRAWS = 2000
BLOCK = 512  # captions whose weights are in memory at a time
_CHANCES = np.cumsum([exp(-1) / factorial(k) for k in range(10)])  # that a Poisson number of mean 1 is at most k
_POISSON = np.searchsorted(_CHANCES * 2**16, np.arange(2**16), side="right").astype(float)  # of a number of 16 bits


def weights(kind: str, name: object) -> np.ndarray:
    """The weights (D,) of one caption or seed, whole numbers; `kind` keeps captions and seeds of one name apart."""
    drawn = shake_128(f"{kind} {name}".encode()).digest(2 * DRAWS)
    found: np.ndarray = _POISSON[np.frombuffer(drawn, "<u2")]
    return found


def shared(captions: Sequence[object], seeds: Sequence[object]) -> Sequence[object] | None:
    """The seeds of N searches, or None where no two captions share a seed: then noise varies with the caption."""
    pairs = set(zip(captions, seeds, strict=True))
    apart = len(set(captions)) > 1 and len(pairs) == len({seed for _, seed in pairs})
    return None if apart else seeds


def draws(values: np.ndarray, captions: Sequence[object], seeds: Sequence[object] | None = None) -> np.ndarray:
    """Bootstrap means (D, ...) of values (N, ...); without `seeds` only captions are drawn.

    A value that is NaN counts in no mean. A draw that holds no value is NaN, and so are all draws of means with but
    one caption and seed to draw from.
    """
    values = np.asarray(values, dtype=float)
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    there = ~np.isnan(flat)
    rows = np.hstack([there, np.where(there, flat, 0.0)])  # (N, 2 K)
    caption_of, of_caption = _numbered(captions)
    seed_of, of_seed = _numbered([0] * len(rows) if seeds is None else seeds)
    sums = np.zeros((len(caption_of), len(seed_of), rows.shape[1]))
    np.add.at(sums, (of_caption, of_seed), rows)
    by_seed = [np.ones(DRAWS) if seeds is None else weights("seed", s) for s in seed_of]
    drawn = np.zeros((DRAWS, rows.shape[1]))
    for i in range(0, len(caption_of), BLOCK):
        by_caption = np.column_stack([weights("caption", c) for c in caption_of[i : i + BLOCK]])
        for j, weight in enumerate(by_seed):
            drawn += weight[:, None] * (by_caption @ sums[i : i + BLOCK, j])
    counts, totals = np.split(drawn, 2, axis=1)
    several = np.count_nonzero(sums[..., : counts.shape[1]], axis=(0, 1)) > 1
    return _means(np.where(several, counts, 0.0), totals).reshape(DRAWS, *values.shape[1:])


def interval(drawn: np.ndarray) -> tuple[Any, Any]:
    """The two ends of the middle 95% of draws: floats of (D,), arrays (...) of (D, ...).

    Draws that are not finite are left out; without any other the ends are NaN.
    """
    columns = (x[np.isfinite(x)] for x in drawn.reshape(len(drawn), -1).T)
    ends = [np.quantile(x, (0.025, 0.975)) if len(x) else np.full(2, np.nan) for x in columns]
    low, high = np.reshape(np.transpose(ends), (2, *drawn.shape[1:]))
    return low, high


class RunningMean:
    """The mean (K,) of searches that come one by one, and its interval, in constant memory."""

    def __init__(self) -> None:
        self.n = 0
        self._total = np.zeros(0)
        self._drawn = np.zeros((DRAWS, 0))  # (D, 1 + K): weights, and weighted sums
        self._half: tuple[int, np.ndarray] = (0, np.zeros(0))  # after how many searches, and what it was
        self._first: object = None  # what the first search would be drawn by
        self._several = False  # whether there is more than one such thing to draw from

    def add(self, values: Sequence[float], caption: object, seed: object | None = None) -> None:
        """Take the K values of one search; with a seed of None only captions are drawn."""
        row = np.array([1.0, *values])
        if not self.n:
            self._total, self._drawn = np.zeros(len(row)), np.zeros((DRAWS, len(row)))
            self._first = caption, seed
        self._several |= self._first != (caption, seed)
        weight = weights("caption", caption) * (1.0 if seed is None else weights("seed", seed))
        self._drawn += weight[:, None] * row
        self._total += row
        self.n += 1

    @property
    def mean(self) -> np.ndarray:
        """(K,); empty before the first search."""
        return self._total[1:] / max(self.n, 1)

    @property
    def half(self) -> np.ndarray:
        """Half the widths of the intervals, (K,); empty while there is but one caption and seed to draw from."""
        if self._several and self._half[0] != self.n:
            low, high = interval(_means(self._drawn[:, :1], self._drawn[:, 1:]))
            self._half = self.n, (high - low) / 2
        return self._half[1]


class RunningGains:
    """What arms gain over a baseline: means of paired differences, of searches that come one by one in any order.

    A pair is a caption and a seed that an arm and the baseline both have. Values are remembered only of those captions
    and seeds in which not all arms have ended yet.
    """

    def __init__(self, arms: Sequence[str], baseline: str) -> None:
        self.baseline = baseline
        self.of = {arm: RunningMean() for arm in arms if arm != baseline}
        self._open: dict[object, dict[str, float | None]] = {}  # key of a caption and seed -> value of each ended arm

    def add(self, arm: str, key: object, value: float | None, caption: object, seed: object | None = None) -> None:
        """Take the value of an arm's search, None if it failed; with a seed of None only captions are drawn."""
        ended = self._open.setdefault(key, {})
        ended[arm] = value
        base = ended.get(self.baseline)
        for name in ended if arm == self.baseline else [arm]:
            mine = ended[name]
            if name in self.of and mine is not None and base is not None:
                self.of[name].add([mine - base], caption, seed)
        if len(ended) > len(self.of):
            del self._open[key]


def _numbered(names: Sequence[object]) -> tuple[list[object], np.ndarray]:
    """The M different ones of N names, and the place (N,) of each name among them."""
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return list(places), np.array([places[name] for name in names], int)


def _means(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Sums of weights, (D, K) or (D, 1), and of weighted values (D, K) -> means (D, K), NaN where nothing was drawn."""
    made = np.full(totals.shape, np.nan)
    np.divide(totals, counts, out=made, where=counts > 0)
    return made
