"""Beam search over latents: the common form of ScalingNoise (2503.16400) and DLBS (2501.19252)."""

from policies.checks import at_least
from policies.selection import top, variations
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context, *, k: int = 2, n: int = 4, every: int = 5, back: int = 2, one_step: bool = True
) -> Candidate:
    """Beam search: every few steps keep the best k latents and spread each into n.

    `every` counts solver steps. With `one_step` a latent is scored at its own point (by its x0 prediction, where the
    reward needs one), otherwise by its finished sample. Under an SDE the n latents are branches; under an ODE the
    forward kernel takes n - 1 of them `back` steps up the noise schedule.
    """
    at_least(1, k=k, n=n, every=every, back=back)

    xs = ctx.noise(k * n)
    for t in range(every, ctx.num_steps, every):
        xs = ctx.denoise(xs, until=t)
        r = await ctx.score(xs if one_step else ctx.denoise(xs))
        xs = [y for i in top(r, k) for y in variations(ctx, xs[i], n, back)]
    xs = ctx.denoise(xs)
    return xs[top(await ctx.score(xs), 1)[0]]
