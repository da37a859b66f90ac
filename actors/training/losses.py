"""Losses of learned rewards, as functions of scores: LatSearch's regression and preference, PAVRM's cross-entropy."""

import torch
from torch import Tensor
from torch.nn import functional as F


def likeness(latents: Tensor, finals: Tensor) -> Tensor:
    """0.5 (1 + cos) between latents and what they became: (n, ...) -> (n,)."""
    return 0.5 * (1 + F.cosine_similarity(latents.flatten(1), finals.flatten(1)))


def targets(grades: Tensor, latents: Tensor, finals: Tensor) -> Tensor:
    """LatSearch's targets (n, k): the final videos' grades (n, k), times each noisy latent's likeness to its end."""
    return grades * likeness(latents, finals)[:, None]


def regression(scores: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(scores, targets)


def preference(scores: Tensor, grades: Tensor, group: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of score differences against whose final grade is higher, the mean over pairs.

    Also the Bradley-Terry loss, -log sigmoid(winner - loser). scores and grades (..., n, k): pairs are made along n,
    for each component alone, within rows of the same `group` (n,) if it is given. Ties give no term; it is 0 without
    a pair.
    """
    n = scores.shape[-2]
    i, j = torch.triu_indices(n, n, 1)
    margin, won = (x[..., i, :] - x[..., j, :] for x in (scores, grades))
    told = won != 0
    if group is not None:
        told = told & (group[i] == group[j])[:, None]
    if not told.any():
        return 0 * scores.sum()
    return F.binary_cross_entropy_with_logits(margin[told], (won[told] > 0).to(margin.dtype))


def binary(scores: Tensor, grades: Tensor, *, threshold: float = 0.5) -> Tensor:
    """PAVRM's cross-entropy of logits against whether a grade exceeds the threshold."""
    return F.binary_cross_entropy_with_logits(scores, (grades > threshold).to(scores.dtype))


def latsearch(scores: Tensor, targets: Tensor, grades: Tensor, group: Tensor | None = None) -> Tensor:
    """The latent reward model's loss: both parts with equal weights."""
    return regression(scores, targets) + preference(scores, grades, group)
