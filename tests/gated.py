"""A policy that a file lets end: a run in which something is always under way when it is stopped."""

from pathlib import Path


async def search(ctx, *, n: int = 4, gate: str = ""):
    """Best of n, and of n more again and again until the number in the file `gate` is above the search's seed."""
    while True:
        await ctx.score(ctx.denoise(ctx.noise(n)))
        if ctx.seed < int(Path(gate).read_text()):
            return ctx.best
