"""SVDD: soft value-based decoding in diffusion models (Li et al. 2024, arXiv 2408.08252)."""

from policies.checks import above, at_least, stochastic
from policies.resampling import softmax
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, m: int = 4, alpha: float = 0.1) -> Candidate:
    """SVDD (2408.08252): at every step draw one of m stochastic proposals with weights exp(r / alpha).

    A proposal's value is the reward r of its x0 prediction (the posterior-mean variant). Needs a stochastic solver.
    """
    at_least(1, m=m)
    above(0, alpha=alpha)
    stochastic(ctx, "svdd")

    x = ctx.noise(1)[0]
    for t in range(1, ctx.num_steps):  # the last step adds no noise
        xs = ctx.denoise([x, *ctx.branch(x, m - 1)], until=t)
        w = softmax(await ctx.score(xs) / alpha)
        x = xs[int(ctx.rng.choice(m, p=w))]
    return ctx.denoise([x])[0]
