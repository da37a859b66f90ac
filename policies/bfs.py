"""Breadth-first search over denoising steps (Zhang et al. 2025, arXiv 2505.23614)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from policies.checks import above, at_least, rising
from policies.resampling import softmax
from policies.selection import variations
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    n: int = 8,
    schedule: Sequence[int] = (5, 10, 15),
    temperature: float = 0.1,
    mode: Literal["resample", "prune"] = "resample",
    back: int = 2,
) -> Candidate:
    """BFS (2505.23614): at scheduled steps a latent gets n_i = round(n softmax(r / temperature)_i) copies.

    With `mode=resample` the search goes on with n_i variations of latent i: branches under an SDE; under an ODE, `back`
    steps up the noise schedule by the forward kernel. With `mode=prune` it goes on with each latent whose n_i is above
    0. `schedule` counts solver steps. The answer is the finished sample with the highest reward.
    """
    at_least(1, n=n, back=back)
    above(0, temperature=temperature)
    rising(ctx, "schedule", schedule, low=1)

    xs = ctx.noise(n)
    for t in schedule:
        xs = ctx.denoise(xs, until=t)
        r = await ctx.score(xs)
        copies = np.rint(n * softmax(r / temperature)).astype(int)
        kept = np.minimum(copies, 1) if mode == "prune" else copies
        xs = [y for x, k in zip(xs, kept.tolist(), strict=True) if k for y in variations(ctx, x, k, back)]
    xs = ctx.denoise(xs)
    return xs[int((await ctx.score(xs)).argmax())]
