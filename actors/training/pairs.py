"""Rollouts of one caption: groups of them to train on, and how often scores order a pair of them as the grades do.

Ray Data's workers import this file alone, so it knows no torch.
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from raysearch.errors import check
from raysearch.recipe.digests import digest

G = TypeVar("G", bound=Hashable)
MARGIN = 0.1  # two grades that are closer than this are a tie


def grouped(rows: dict[str, np.ndarray], *, size: int, components: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Join the rows of a dataset into groups of `size` rows that share caption and noise level.

    `rows` maps each column to an array with one entry a row, the result one with an entry a group: `latent` becomes
    (groups, size, C, T, H, W), `similarity` (groups, size), and the components become `grades` (groups, size,
    components). Rows that fill no group are left out. Raises ConfigError where a number is not finite.
    """
    for name in ("sigma", "latent", "similarity", *components):
        check(np.isfinite(rows[name]).all(), "dataset", name, "a column of finite numbers in every row")
    order: dict[tuple[str, float, bool], list[int]] = {}
    for i, key in enumerate(zip(rows["prompt"], rows["sigma"], rows["first"], strict=True)):
        order.setdefault((str(key[0]), float(key[1]), bool(key[2])), []).append(i)
    chosen = []
    for (prompt, sigma, _), members in order.items():
        draw = np.random.default_rng(int.from_bytes(digest("group", seed, prompt, sigma)[:8], "big"))
        mixed = draw.permutation(members)
        chosen += [mixed[i : i + size] for i in range(0, len(mixed) - size + 1, size)]
    index = np.array(chosen, dtype=np.int64).reshape(len(chosen), size)
    return {
        "prompt": rows["prompt"][index[:, 0]],
        "sigma": rows["sigma"][index[:, 0]],
        "first": rows["first"][index[:, 0]],
        "latent": rows["latent"][index],
        "similarity": rows["similarity"][index],
        "grades": np.stack([rows[c] for c in components], -1)[index],
    }


def ordered(scores: np.ndarray, grades: np.ndarray, *, margin: float = MARGIN) -> tuple[np.ndarray, np.ndarray]:
    """Compare all pairs along the last axis of scores and grades (..., n); returns two arrays (..., n (n - 1) / 2).

    The first is 1 where the scores order a pair as the grades do, 0.5 where the scores are equal, else 0; the second
    says whether the grades are at least `margin` apart.
    """
    i, j = np.triu_indices(scores.shape[-1], 1)
    a, b = scores[..., i] - scores[..., j], grades[..., i] - grades[..., j]
    return np.where(a == 0, 0.5, (a > 0) == (b > 0)), np.abs(b) >= margin


def agreement(
    scores: np.ndarray, grades: np.ndarray, groups: Sequence[G], *, margin: float = MARGIN
) -> dict[G, tuple[float, int, int]]:
    """For each group of scores and grades (n,): pairs ordered rightly, pairs whose grades differ, and ties.

    `groups` has the group of each entry. Equal scores of a pair whose grades differ count as half right.
    """
    found: dict[G, tuple[float, int, int]] = {}
    order: dict[G, list[int]] = {}
    for i, g in enumerate(groups):
        order.setdefault(g, []).append(i)
    for g, members in order.items():
        right, differ = ordered(scores[members], grades[members], margin=margin)
        found[g] = (float(right[differ].sum()), int(differ.sum()), int((~differ).sum()))
    return found


def accuracy(counts: Sequence[tuple[float, int, int]]) -> float:
    """The share of pairs ordered rightly in the counts of `agreement`; NaN without any pair."""
    right, pairs = sum(c[0] for c in counts), sum(c[1] for c in counts)
    return right / pairs if pairs else float("nan")
