"""Losses of learned rewards, as functions of scores: LatSearch's regression and preference, PAVRM's cross-entropy.

Shapes: n latents, k components. Scores are a net's output, grades those of the final videos; each loss is a scalar.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def regression(scores: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean squared error of temperature x scores to targets of the same shape (LatSearch, whose temperature is 1).

    A target is a final video's grade times the similarity, in [0, 1], of its noisy latent to its final latent.
    """
    return F.mse_loss(temperature * scores, targets)


def preference(scores: Tensor, grades: Tensor, group: Tensor | None = None, *, margin: float = 0.0) -> Tensor:
    """The mean over pairs of the binary cross-entropy of a score difference against whose grade is higher (LatSearch).

    That is the Bradley-Terry loss, -log sigmoid(winner - loser). Scores and grades are (..., n, k): pairs are made
    along n, for each component alone, within rows of the same `group` (n,) if one is given. Pairs whose grades are no
    further apart than `margin` do not count; without any pair the loss is 0.
    """
    n = scores.shape[-2]
    i, j = torch.triu_indices(n, n, 1)
    ahead, better = (x[..., i, :] - x[..., j, :] for x in (scores, grades))
    told = better.abs() > margin
    if group is not None:
        told = told & (group[i] == group[j])[:, None]
    if not told.any():
        return 0 * scores.sum()
    return F.binary_cross_entropy_with_logits(ahead[told], (better[told] > 0).to(ahead.dtype))


def binary(scores: Tensor, grades: Tensor, *, threshold: float = 0.5) -> Tensor:
    """The mean binary cross-entropy of scores, as logits, against whether a grade exceeds the threshold (PAVRM)."""
    return F.binary_cross_entropy_with_logits(scores, (grades > threshold).to(scores.dtype))
