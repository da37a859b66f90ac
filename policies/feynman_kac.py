"""Sequential Monte Carlo for a Feynman-Kac model of denoising: the loop that SMC and FK steering share."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from policies.resampling import RESAMPLERS, ess, softmax
from policies.selection import variations
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

Scheme = Literal["multinomial", "systematic", "residual", "ssp"]
Duplicates = Literal["drop", "renoise"]


async def particles(
    ctx: Context,
    xs: Sequence[Candidate],
    log_g: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    *,
    steps: Sequence[int],
    threshold: float = 0.5,
    resampling: Scheme = "ssp",
    duplicates: Duplicates = "drop",
    back: int = 2,
) -> tuple[list[Candidate], np.ndarray]:
    """The m finished particles of a Feynman-Kac model of n particles, and their log-weights (m,); m <= n.

    `log_g(t, r, past)` gives the log-potentials (m,) at each t of `steps`, which end with ctx.num_steps, from rewards r
    (m,) and earlier rewards `past` (m, scored steps). Where the effective sample size is below `threshold` times the
    number of particles they are resampled; otherwise the weights are carried on. Under an SDE duplicates are branches.
    Under an ODE they would end alike, so `duplicates` says whether to merge them into one weighted particle ("drop") or
    to take them `back` steps up the noise schedule by the forward kernel ("renoise").
    """
    check(0 <= threshold <= 1, "policy.threshold", threshold, "in [0, 1]")
    n, xs = len(xs), list(xs)
    past, log_w = np.zeros((n, 0)), np.zeros(n)
    for t in steps:
        xs = ctx.denoise(xs, until=t)
        r = await ctx.score(xs)
        log_w = log_w + log_g(t, r, past)
        past = np.column_stack([past, r])
        if t == ctx.num_steps or ess(log_w) >= threshold * len(xs):
            continue
        a, copies = np.unique(RESAMPLERS[resampling](ctx.rng, softmax(log_w), n), return_counts=True)
        ones = [1] * len(a) if not ctx.solver.stochastic and duplicates == "drop" else copies.tolist()
        xs = [y for i, k in zip(a, ones, strict=True) for y in variations(ctx, xs[i], k, back)]
        past = np.repeat(past[a], ones, axis=0)
        log_w = np.repeat(np.log(copies / np.array(ones)), ones)
    return xs, log_w
