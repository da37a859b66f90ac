"""Depth-first search over denoising steps (Zhang et al. 2025, arXiv 2505.23614)."""

from collections.abc import Sequence

from policies.checks import at_least, rising
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    schedule: Sequence[int] = (5, 10, 15),
    threshold: float = 1.5,
    back: int = 5,
    backtracks: int = 8,
) -> Candidate:
    """DFS (2505.23614): where the reward at a scheduled step is below `threshold`, go back and try again.

    The forward kernel takes the latent `back` steps up the noise schedule; a latent at step `back` or earlier is
    replaced by new noise. When `backtracks` are used up, the best latent seen at that step goes on. `threshold` has the
    unit of the search reward; `schedule` counts solver steps.
    """
    at_least(0, backtracks=backtracks)
    at_least(1, back=back)
    rising(ctx, "schedule", schedule, low=1)

    x, left = ctx.noise(1)[0], backtracks
    best: dict[int, tuple[float, Candidate]] = {}
    depth = 0
    while depth < len(schedule):
        t = schedule[depth]
        x = ctx.denoise([x], until=t)[0]
        r = float((await ctx.score([x]))[0])
        if t not in best or r > best[t][0]:
            best[t] = (r, x)
        if r >= threshold:
            depth += 1
        elif left:
            left -= 1
            x = ctx.renoise(x, 1, to_step=t - back)[0] if t > back else ctx.noise(1)[0]
            depth = next(i for i, s in enumerate(schedule) if s > x.step)
        else:
            x = best[t][1]
            depth += 1
    return ctx.denoise([x])[0]
