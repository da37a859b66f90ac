"""The repulsive potential of obstacles, U_rep = 0.5 eta (1/D - 1/Q*)^2 where D <= Q*, else 0; and its force.

D is the distance of an x0 estimate to the nearest point of an obstacle, in latent or feature space. Every length is a
root mean square over elements, so that eta, Q* and h mean the same at any size; gradients are those of that norm (n
times the ordinary ones for n elements), hence in latent space D grows by exactly the length of a push.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch

Points: TypeAlias = tuple[str, tuple[torch.Tensor, ...]]  # an obstacle: its space, and latents (1, C, T, H, W)

NEAREST = 1e-3  # of Q*: U counts a distance as at least so much, which keeps it finite
STILL = 1e-6  # added to variances, whose root has no slope at 0


def group(layout: Sequence[tuple[str, int]], points: Sequence[torch.Tensor]) -> tuple[Points, ...]:
    """The points of each obstacle out of those of all."""
    rest = iter(points)
    return tuple((space, tuple(next(rest) for _ in range(n))) for space, n in layout)


def features(x: torch.Tensor, space: str) -> torch.Tensor:
    """The latent itself; or, as `features`, mean and deviation of each channel over each frame, (2, 1, C, T).

    The latter are the statistics of style (Huang and Belongie 2017, 1703.06868): what is seen and when, not where.
    """
    if space == "latent":
        return x
    x = x.flatten(3)
    return torch.stack([x.mean(3), (x.var(3, correction=0) + STILL).sqrt()])


def distance(x0: torch.Tensor, obstacle: Points) -> torch.Tensor:
    """D of an x0 estimate (1, C, T, H, W), a scalar."""
    space, points = obstacle
    seen = features(x0, space)
    return torch.stack([(seen - features(p.to(x0), space)).square().mean().sqrt() for p in points]).min()


def potential(d: float, eta: float, reach: float) -> float:
    """U_rep at distance d."""
    d = max(d, NEAREST * reach)
    return 0.5 * eta * (1 / d - 1 / reach) ** 2 if d <= reach else 0.0


def push(
    x0: torch.Tensor, obstacles: Sequence[Points], eta: Sequence[float], reach: Sequence[float], h: float
) -> torch.Tensor:
    """-h grad U_rep of an x0 estimate, summed over obstacles.

    The force ends at Q*, so no obstacle pushes farther than (to first order) there, however near it is.
    """
    total = torch.zeros_like(x0)
    for obstacle, e, q in zip(obstacles, eta, reach, strict=True):
        with torch.enable_grad():
            x = x0.detach().double().requires_grad_()
            near = distance(x, obstacle)
            d = near.item()
            if not 0 < d <= q:  # at the very point no direction leads away
                continue
            (slope,) = torch.autograd.grad(near, x)
        u = slope * x.numel()
        speed = u.square().mean().item()  # 1 in latent space
        if speed > 0:
            total += (min(h * e * (1 / d - 1 / q) / d**2, (q - d) / speed) * u).to(total)
    return total
