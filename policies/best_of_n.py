"""Best of N: random search over noises (Ma et al. 2025, arXiv 2501.09732, section 3.1)."""

import numpy as np

from policies.checks import at_least
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, n: int = 4) -> Candidate:
    """Random search (2501.09732, 3.1): the best of n finished samples by the search reward."""
    at_least(1, n=n)
    xs, r = list[Candidate](), list[float]()
    while k := await ctx.trials(n - len(xs)):
        new = ctx.complete(ctx.noise(k))
        xs, r = xs + new, [*r, *await ctx.rate(new)]
    return xs[int(np.argmax(r))]
