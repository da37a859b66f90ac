"""DLBS: diffusion latent beam search with lookahead (Oshima et al. 2025, arXiv 2501.19252)."""

from policies.checks import at_least, stochastic
from policies.selection import top
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, b: int = 4, k: int = 2, lookahead: int = 6) -> Candidate:
    """DLBS (2501.19252): b beams of k branches each; at every step keep the b whose lookahead x0 scores best.

    The lookahead x0 is where `lookahead` deterministic steps from the latent lead. The first of their evaluations is
    that of the latent's own next step, so with lookahead=1 a step costs b k evaluations. Needs a stochastic solver.
    """
    at_least(1, b=b, k=k, lookahead=lookahead)
    stochastic(ctx, "dlbs")

    xs = ctx.noise(b * k)
    for t in range(1, ctx.num_steps):
        xs = ctx.denoise(xs, until=t)
        kept = top(await ctx.score(ctx.lookahead(xs, lookahead)), b)
        # The last step adds no noise, so branches before it would be copies.
        xs = [y for i in kept for y in (xs[i], *ctx.branch(xs[i], k - 1 if t < ctx.num_steps - 1 else 0))]
    xs = ctx.denoise(xs)
    return xs[top(await ctx.score(xs), 1)[0]]
