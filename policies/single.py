"""One sample of the seed's own noise: the baseline of every comparison."""

from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context) -> Candidate:
    """One sample, no search: the video that diffusers' pipeline makes with the same seed."""
    return ctx.denoise(ctx.noise(1))[0]
