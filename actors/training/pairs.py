"""Pairs of rollouts of one caption: how often a reward says rightly which became the better video."""

from collections.abc import Sequence

import numpy as np

MARGIN = 0.1  # grades that are closer than this are a tie


def ordered(scores: np.ndarray, grades: np.ndarray, *, margin: float = MARGIN) -> tuple[np.ndarray, np.ndarray]:
    """All pairs along the last axis: 1 where the scores order it as the grades do, 0.5 where they are equal, else 0;
    and whether the grades differ."""
    i, j = np.triu_indices(scores.shape[-1], 1)
    a, b = scores[..., i] - scores[..., j], grades[..., i] - grades[..., j]
    return np.where(a == 0, 0.5, (a > 0) == (b > 0)), np.abs(b) >= margin


def agreement(
    scores: np.ndarray, grades: np.ndarray, groups: Sequence[object], *, margin: float = MARGIN
) -> dict[object, tuple[float, int, int]]:
    """For each group of (n,) scores and grades: pairs ordered rightly, pairs whose grades differ, and ties.

    Equal scores of a pair that differs count as half right.
    """
    found: dict[object, tuple[float, int, int]] = {}
    order: dict[object, list[int]] = {}
    for i, g in enumerate(groups):
        order.setdefault(g, []).append(i)
    for g, members in order.items():
        right, differ = ordered(scores[members], grades[members], margin=margin)
        found[g] = (float(right[differ].sum()), int(differ.sum()), int((~differ).sum()))
    return found


def accuracy(counts: Sequence[tuple[float, int, int]]) -> float:
    """The share of pairs ordered rightly; NaN without any."""
    right, pairs = sum(c[0] for c in counts), sum(c[1] for c in counts)
    return right / pairs if pairs else float("nan")
