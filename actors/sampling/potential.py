"""The repulsive potential of obstacles, U_rep = 0.5 eta (1/D - 1/Q*)^2 where D <= Q*, else 0; and its force.

D is the distance of an x0 prediction to the nearest point of an obstacle, in latent or feature space. Every length is a
root mean square over elements, so that eta, Q* and h mean the same for latents of any size. Gradients are taken in that
norm (n times the ordinary gradient for n elements), so in latent space D grows by exactly the length of a push. The
potential is that of robot navigation (Khatib 1986).
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch

# An obstacle: its space, "latent" or "features", and its points, latents (1, C, T, H, W).
Points: TypeAlias = tuple[str, tuple[torch.Tensor, ...]]

NEAREST = 1e-3  # of Q*: the least distance that U_rep is computed for, so that it is finite
STILL = 1e-6  # added to variances, since a square root has no finite slope at 0


def group(layout: Sequence[tuple[str, int]], points: Sequence[torch.Tensor]) -> tuple[Points, ...]:
    """Split all `points` by obstacle; `layout` gives each obstacle's space and number of points."""
    rest = iter(points)
    return tuple((space, tuple(next(rest) for _ in range(n))) for space, n in layout)


def features(x: torch.Tensor, space: str) -> torch.Tensor:
    """A latent x (1, C, T, H, W) in the space where distances are measured.

    In space "latent" this is x itself; in space "features", mean and standard deviation of each channel in each frame,
    (2, 1, C, T). Huang and Belongie (2017, 1703.06868) use them as statistics of style: they forget places in a frame.
    """
    if space == "latent":
        return x
    x = x.flatten(3)
    return torch.stack([x.mean(3), (x.var(3, correction=0) + STILL).sqrt()])


def distance(x0: torch.Tensor, obstacle: Points) -> torch.Tensor:
    """The distance D of an x0 prediction (1, C, T, H, W) to an obstacle's nearest point, a scalar with gradient."""
    space, points = obstacle
    seen = features(x0, space)
    return torch.stack([(seen - features(p.to(x0), space)).square().mean().sqrt() for p in points]).min()


def potential(d: float, eta: float, reach: float) -> float:
    """U_rep at distance d, for strength eta and range Q* (`reach`); at least 0."""
    d = max(d, NEAREST * reach)
    return 0.5 * eta * (1 / d - 1 / reach) ** 2 if d <= reach else 0.0


def push(
    x0: torch.Tensor, obstacles: Sequence[Points], eta: Sequence[float], reach: Sequence[float], h: float
) -> torch.Tensor:
    """The push -h grad U_rep of an x0 prediction (1, C, T, H, W), summed over obstacles; of the same shape.

    No obstacle pushes farther than to its own Q*, where its force ends (to first order), however near it is.
    """
    total = torch.zeros_like(x0)
    for obstacle, e, q in zip(obstacles, eta, reach, strict=True):
        with torch.enable_grad():
            x = x0.detach().double().requires_grad_()
            near = distance(x, obstacle)
            d = near.item()
            if not 0 < d <= q:  # at D = 0 the gradient has no direction
                continue
            (slope,) = torch.autograd.grad(near, x)
        u = slope * x.numel()
        speed = u.square().mean().item()  # growth of D per unit of a push along u; 1 in latent space
        if speed > 0:
            total += (min(h * e * (1 / d - 1 / q) / d**2, (q - d) / speed) * u).to(total)
    return total
