"""RBF: rollover budget forcing (Kim et al. 2025, arXiv 2503.19385)."""

from policies.checks import at_least, stochastic
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, quota: int = 5) -> Candidate:
    """RBF (2503.19385): at every step try at most `quota` stochastic proposals; take the first that beats the best yet.

    The unused quota rolls over to the next step; if no proposal beats the best so far, the best of those tried goes on.
    A trial costs one evaluation, that of its x0 prediction, which is also its next step's. Needs a stochastic solver.
    """
    at_least(1, quota=quota)
    stochastic(ctx, "rbf")

    x = ctx.noise(1)[0]
    r_best = float((await ctx.score([x]))[0])
    left = 0
    for t in range(1, ctx.num_steps):  # the last step adds no noise
        left += quota
        tried: list[tuple[float, Candidate]] = []
        while len(tried) < left:
            y = ctx.denoise([x] if not tried else ctx.branch(x, 1), until=t)[0]
            tried.append((float((await ctx.score([y]))[0]), y))
            if tried[-1][0] > r_best:
                break
        left -= len(tried)
        r, x = max(tried, key=lambda pair: pair[0])
        r_best = max(r_best, r)
    return ctx.denoise([x])[0]
