"""Losses of learned rewards, as functions of scores: LatSearch's regression and preference, PAVRM's cross-entropy."""

import torch
from torch import Tensor
from torch.nn import functional as F


def regression(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error to LatSearch's targets: a final video's grades, each times its noisy latent's similarity."""
    return F.mse_loss(scores, targets)


def preference(scores: Tensor, grades: Tensor, group: Tensor | None = None, *, margin: float = 0.0) -> Tensor:
    """Binary cross-entropy of score differences against whose final grade is higher, the mean over pairs.

    Also the Bradley-Terry loss, -log sigmoid(winner - loser). scores and grades (..., n, k): pairs are made along n,
    for each component alone, within rows of the same `group` (n,) if it is given. Ties, and grades no further apart
    than `margin`, give no term; without a pair it is 0.
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
    """PAVRM's cross-entropy of logits against whether a grade exceeds the threshold."""
    return F.binary_cross_entropy_with_logits(scores, (grades > threshold).to(scores.dtype))
