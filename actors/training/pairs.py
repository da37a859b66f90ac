"""Pairs of rollouts of one caption: how often a reward says rightly which became the better video."""

from collections.abc import Sequence

import numpy as np

MARGIN = 0.1  # grades that are closer than this are a tie


def agreement(
    scores: np.ndarray, grades: np.ndarray, groups: Sequence[object], *, margin: float = MARGIN
) -> dict[object, tuple[int, int, int]]:
    """For each group of (n,) scores and grades: pairs ordered rightly, pairs whose grades differ, and ties.

    Equal scores of a pair that differs count as half right, rounded down over the group.
    """
    found: dict[object, tuple[int, int, int]] = {}
    order: dict[object, list[int]] = {}
    for i, g in enumerate(groups):
        order.setdefault(g, []).append(i)
    for g, members in order.items():
        i, j = np.triu_indices(len(members), 1)
        s, r = scores[members], grades[members]
        ds, dr = s[i] - s[j], r[i] - r[j]
        differ = np.abs(dr) >= margin
        right = (np.sign(ds) == np.sign(dr))[differ].sum() + (ds == 0)[differ].sum() // 2
        found[g] = (int(right), int(differ.sum()), int((~differ).sum()))
    return found


def accuracy(counts: Sequence[tuple[int, int, int]]) -> float:
    """The share of pairs ordered rightly; NaN without any."""
    right, pairs = sum(c[0] for c in counts), sum(c[1] for c in counts)
    return right / pairs if pairs else float("nan")
