"""RGRP: reward-guided resampling and pruning (LatSearch; the code released for Wan2.1 in August 2026)."""

from collections.abc import Sequence

import numpy as np

from policies.checks import above, at_least, rising
from policies.resampling import multinomial, softmax
from policies.selection import best_finished
from raysearch.config.policies import Switch
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
    early: Switch = False,
) -> Candidate:
    """RGRP (LatSearch): score noisy latents at scheduled steps, resample, keep the unique ones, end with one.

    The n noises are one noise and n - 1 perturbations of it, of strength `beta`. `schedule` counts solver steps from 0;
    step t is scored after it is done. The answer is the survivor with the highest sum c of its weights. With `early`
    the scores are by rewards.early; then all survivors are finished, and the answer is the best by rewards.search.
    """
    at_least(1, n=n)
    above(0, temperature=temperature)
    check(0 <= beta <= 1, "policy.beta", beta, "in [0, 1]")
    rising(ctx, "schedule", schedule)

    x = ctx.noise(1)[0]
    xs, c = [x, *ctx.perturb(x, n - 1, beta)], np.zeros(n)
    for t in schedule:
        xs = ctx.denoise(xs, until=t + 1)
        w = softmax(await ctx.score(xs, by="early" if early else "search") / temperature)
        a = np.unique(multinomial(ctx.rng, w, len(xs)))  # the population shrinks
        xs, c = [xs[i] for i in a], (c + w)[a]
    return await best_finished(ctx, xs) if early else xs[int(c.argmax())]
