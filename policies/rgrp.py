"""RGRP: reward-guided resampling and pruning (LatSearch, section on search; released code for Wan2.1, August 2026)."""

from collections.abc import Sequence

import numpy as np

from policies.checks import above, at_least, rising
from policies.resampling import multinomial, softmax
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    n: int = 6,
    schedule: Sequence[int] = (10, 15, 20),
    beta: float = 0.1,
    temperature: float = 1.0,
) -> Candidate:
    """RGRP (LatSearch): score noisy latents at scheduled steps, resample and keep the unique, prune to one.

    `schedule` counts solver steps from 0 and is acted on after each; it is absolute, not rescaled with num_steps.
    """
    at_least(1, n=n)
    above(0, temperature=temperature)
    check(0 <= beta <= 1, "policy.beta", beta, "in [0, 1]")
    rising(ctx, "schedule", schedule)

    x = ctx.noise(1)[0]
    xs, c = [x, *ctx.perturb(x, n - 1, beta)], np.zeros(n)
    for t in schedule:
        xs = ctx.denoise(xs, until=t + 1)
        w = softmax(await ctx.score(xs) / temperature)
        a = np.unique(multinomial(ctx.rng, w, len(xs)))  # the population shrinks
        xs, c = [xs[i] for i in a], (c + w)[a]
    return xs[int(c.argmax())]
