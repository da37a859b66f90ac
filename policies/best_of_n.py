"""Best of N: random search over noises (Ma et al. 2025, arXiv 2501.09732, section 3.1)."""

from policies.checks import at_least
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, n: int = 4) -> Candidate:
    """Random search (2501.09732, 3.1): the best of n finished samples by the search reward."""
    at_least(1, n=n)
    xs = ctx.complete(ctx.noise(n))
    r = await ctx.rate(xs)
    return xs[int(r.argmax())]
