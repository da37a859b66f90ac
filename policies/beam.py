"""Beam search over latents: the common form of what ScalingNoise and DLBS do."""

from policies.checks import at_least
from policies.selection import top, variations
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context, *, k: int = 2, n: int = 4, every: int = 5, back: int = 2, one_step: bool = True
) -> Candidate:
    """Beam search: every few steps keep the best k latents and spread each into n.

    Latents are judged at their own point (by a one-step x0 estimate where the reward looks at one), or with
    `one_step=false` by their finished samples. Under an ODE a latent is spread by `back` steps of the forward kernel.
    """
    at_least(1, k=k, n=n, every=every, back=back)

    xs = ctx.noise(k * n)
    for t in range(every, ctx.num_steps, every):
        xs = ctx.denoise(xs, until=t)
        r = await ctx.score(xs if one_step else ctx.denoise(xs))
        xs = [y for i in top(r, k) for y in variations(ctx, xs[i], n, back)]
    xs = ctx.denoise(xs)
    return xs[top(await ctx.score(xs), 1)[0]]
