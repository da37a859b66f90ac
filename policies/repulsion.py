"""Repulsion: a potential field around obstacles, with revert (the essay "What inference-time scaling should be like for
Diffusion Model"; the potential is that of robot navigation, Khatib 1986)."""

from collections.abc import Sequence
from itertools import product

from policies.checks import above, at_least
from policies.potential_field import Setting, ends
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    n: int = 4,
    eta: Sequence[float] = (1.0, 0.1),
    reach: Sequence[float] = (0.5, 0.8),
    h: float = 0.1,
    start: int | None = None,
    every: int = 1,
    back: int = 2,
    tries: int = 8,
) -> Candidate:
    """Repulsion: n paths around the config's `obstacles`; of those that end clear, the one with the highest reward.

    From step `start` on (a quarter of the steps by default), every `every` steps, a path with D <= Q* (`reach`) of an
    obstacle is pushed by x <- x - h grad U_rep. If it is still inside, the forward kernel undoes `back` steps, then
    twice as many each time, at most `tries` times. All pairs of `eta` and `reach` are tried for each obstacle in turn,
    with the same noises, so paths that meet no obstacle are made once. A path is clear if it ends farther than Q* from
    every obstacle; if no path is clear, the answer is the path with the largest D / Q*.
    """
    start = max(ctx.num_steps // 4, 1) if start is None else start
    at_least(1, n=n, start=start, every=every, back=back)
    at_least(0, tries=tries)
    check(start <= ctx.num_steps, "policy.start", start, f"at most {ctx.num_steps} (sampler.num_steps)")
    above(0, h=h)
    for key, values in (("eta", eta), ("reach", reach)):
        check(len(values) > 0 and min(values) > 0, f"policy.{key}", values, "a list of numbers above 0, at least one")
    steps = [*range(start, ctx.num_steps, every), ctx.num_steps]
    noises = ctx.noise(n)

    async def best_under(setting: Setting) -> tuple[tuple[bool, float], Candidate, Setting]:
        ended = await ends(ctx, noises, setting, steps=steps, h=h, back=back, tries=tries)
        clear = [w.x for w in ended if w.clearance > 1]
        if not clear:
            w = max(ended, key=lambda w: w.clearance)
            return (False, w.clearance), w.x, setting
        r = await ctx.score(clear)
        return (True, float(r.max())), clear[int(r.argmax())], setting

    pairs = list(product(eta, reach))
    best = await best_under((pairs[0],) * len(ctx.obstacles))
    for i in range(len(ctx.obstacles)):
        kept = best[2]
        for pair in pairs[1:]:
            trial = await best_under((*kept[:i], pair, *kept[i + 1 :]))
            best = max(best, trial, key=lambda found: found[0])
    return best[1]
