"""Rollouts of one caption: groups of them to train on, and how often a reward says rightly which became the better one.

Ray Data's workers import this file alone, so it knows no torch.
"""

from collections.abc import Sequence

import numpy as np

from raysearch.errors import check
from raysearch.recipe.digests import digest

MARGIN = 0.1  # grades that are closer than this are a tie


def grouped(rows: dict[str, np.ndarray], *, size: int, components: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Rows of whole captions -> a row for each `size` of them that share caption and noise level; the rest is left.

    Raises ConfigError where a number is not finite.
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
