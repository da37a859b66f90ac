"""Zero-order search over the initial noise (Ma et al. 2025, arXiv 2501.09732, section 3.2)."""

from policies.checks import at_least
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, n: int = 4, iterations: int = 4, cosine: float = 0.95) -> Candidate:
    """Zero-order search (2501.09732, 3.2): move the pivot noise to its best neighbour, or draw a new pivot.

    Each iteration scores the finished samples of n neighbours at the given `cosine` to the pivot. A pivot that no
    neighbour beats is replaced by fresh noise. The answer is the best finished sample of all.
    """
    at_least(1, n=n, iterations=iterations)
    check(-1 < cosine < 1, "policy.cosine", cosine, "between -1 and 1")

    pivot = ctx.noise(1)[0]
    r_pivot = float((await ctx.score(ctx.denoise([pivot])))[0])
    best, r_best = pivot, r_pivot
    for i in range(iterations):
        xs = ctx.neighbours(pivot, n, cosine)
        r = await ctx.score(ctx.denoise(xs))
        j = int(r.argmax())
        if r[j] > r_best:
            best, r_best = xs[j], float(r[j])
        if r[j] > r_pivot:
            pivot, r_pivot = xs[j], float(r[j])
        elif i < iterations - 1:  # reject, and start from another pivot
            pivot = ctx.noise(1)[0]
            r_pivot = float((await ctx.score(ctx.denoise([pivot])))[0])
            if r_pivot > r_best:
                best, r_best = pivot, r_pivot
    return ctx.denoise([best])[0]
