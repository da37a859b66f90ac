"""Denoising paths through a potential field of obstacles, with revert, for the repulsion policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

Setting = tuple[tuple[float, float], ...]  # eta and Q* of each obstacle


@dataclass(frozen=True)
class Way:
    """A path: a candidate, and the checkpoint at which its distance to the obstacles is measured next."""

    x: Candidate
    at: int = 0  # index of that checkpoint
    undone: int = 0  # how often a step was undone
    outside: bool = False  # at the checkpoint before it was clear of every obstacle
    pushed: bool = False  # since that checkpoint
    clearance: float = np.inf  # the least D / Q* over obstacles, as measured last; above 1 the path is clear


async def ends(
    ctx: Context,
    noises: Sequence[Candidate],
    setting: Setting,
    *,
    steps: Sequence[int],
    h: float,
    back: int,
    tries: int,
) -> list[Way]:
    """The finished paths of `noises`, in the order in which they end, with D / Q* measured after each of `steps`.

    The last of `steps` is ctx.num_steps. A path with D <= Q* of an obstacle is pushed away once, with step size h. If
    it is still inside, and is finished or was outside at the checkpoint before, the forward kernel undoes `back` steps,
    then twice as many each time, up to `tries` times. A path that was inside before is only pushed: early x0
    predictions are all near the mean of the data, so if an obstacle covers the mean, going back does not help.
    """
    eta, reach = [e for e, _ in setting], [q for _, q in setting]
    ways, ended = [Way(x) for x in noises], []
    while ways:
        xs = [ctx.denoise([w.x], until=steps[w.at])[0] for w in ways]
        clearances = (await ctx.distances(xs) / np.array(reach)).min(axis=1, initial=np.inf).tolist()
        measured, ways = [replace(w, x=x, clearance=c) for w, x, c in zip(ways, xs, clearances, strict=True)], []
        for w in measured:
            if w.clearance <= 1 and not w.pushed and not w.x.finished:
                ways.append(replace(w, x=ctx.push(w.x, eta=eta, reach=reach, h=h), pushed=True))
            elif w.clearance <= 1 and w.undone < tries and (w.outside or w.x.finished):
                y = ctx.renoise(w.x, 1, to_step=max(w.x.step - back * 2**w.undone, 0))[0]
                ways.append(Way(y, next(i for i, t in enumerate(steps) if t > y.step), w.undone + 1))
            elif w.x.finished:
                ended.append(w)
            else:
                ways.append(Way(w.x, w.at + 1, w.undone, outside=w.clearance > 1))
    return ended
