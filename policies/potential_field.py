"""Paths through a potential field of obstacles, with revert: what the repulsion policy searches over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

Setting = tuple[tuple[float, float], ...]  # eta and Q* of each obstacle


@dataclass(frozen=True)
class Way:
    """A path that is looked at next at checkpoint `at`; `clear` is the least D / Q* when it was looked at last."""

    x: Candidate
    at: int = 0
    undone: int = 0
    outside: bool = False  # it was, at the checkpoint before
    pushed: bool = False
    clear: float = np.inf


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
    """Where the noises' paths end, looked at after each of `steps`, the last of which is the end.

    A path with D <= Q* is pushed. If that does not free it, a step that entered is undone by the forward kernel, and so
    is an end. A path that was inside before is only pushed on: early estimates are all near the mean of what there is,
    and where an obstacle holds that, going back would not help.
    """
    eta, reach = [e for e, _ in setting], [q for _, q in setting]
    ways, ended = [Way(x) for x in noises], []
    while ways:
        xs = [ctx.denoise([w.x], until=steps[w.at])[0] for w in ways]
        clear = (await ctx.distances(xs) / np.array(reach)).min(axis=1, initial=np.inf).tolist()
        looked, ways = [replace(w, x=x, clear=c) for w, x, c in zip(ways, xs, clear, strict=True)], []
        for w in looked:
            if w.clear <= 1 and not w.pushed and not w.x.finished:
                ways.append(replace(w, x=ctx.push(w.x, eta=eta, reach=reach, h=h), pushed=True))
            elif w.clear <= 1 and w.undone < tries and (w.outside or w.x.finished):
                y = ctx.renoise(w.x, 1, to_step=max(w.x.step - back * 2**w.undone, 0))[0]
                ways.append(Way(y, next(i for i, t in enumerate(steps) if t > y.step), w.undone + 1))
            elif w.x.finished:
                ended.append(w)
            else:
                ways.append(Way(w.x, w.at + 1, w.undone, outside=w.clear > 1))
    return ended
