"""Search over paths (Ma et al. 2025, arXiv 2501.09732, section 3.3): forward noise, backward ODE, again and again."""

from policies.checks import at_least
from policies.selection import top
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context, *, n: int = 2, m: int = 3, start: int | None = None, forward: int = 2, backward: int = 5
) -> Candidate:
    """Search over paths (2501.09732, 3.3): noise n samples m times each, denoise further than that, keep the best n.

    Levels are steps of the grid: `start` is the paper's sigma (a quarter of the steps by default), `forward` its df and
    `backward` its db, which must be larger. The answer is the finished sample with the highest reward.
    """
    start = max(ctx.num_steps // 4, 1) if start is None else start
    at_least(1, n=n, m=m, forward=forward)
    check(backward > forward, "policy.backward", backward, f"above policy.forward, {forward}")
    check(1 <= start < ctx.num_steps, "policy.start", start, f"in 1..{ctx.num_steps - 1}")

    xs, t = ctx.denoise(ctx.noise(n), until=start), start
    while t < ctx.num_steps:
        up = max(t - forward, 0)
        t = min(up + backward, ctx.num_steps)
        ys = ctx.denoise([y for x in xs for y in ctx.renoise(x, m, to_step=up)], until=t)
        xs = [ys[i] for i in top(await ctx.score(ys), n)]
    return xs[0]
