"""Sequential search: noises one after the other, until a finished video is good enough."""

from collections.abc import Sequence
from math import inf

from policies.checks import at_least, rising
from raysearch.errors import BudgetExhausted, check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

Point = tuple[int | None, float, bool]  # solver steps (None: finished), the bar there, whether it is for rewards.early


async def search(
    ctx: Context,
    *,
    n: int = 12,
    batch: int = 1,
    looks: Sequence[int] = (12,),
    bars: Sequence[float] | None = None,
    enough: float | None = None,
    early: bool = False,
) -> Candidate:
    """Sequential search: at most n noises, `batch` at a time, until one's finished reward is at least `enough`.

    `looks` are numbers of solver steps; after each, a candidate whose reward is below that look's bar is given up.
    `bars: null` gives nothing up, and `enough: null` never stops early. Looks are by rewards.early with `early`, else
    by rewards.search. The answer is the best finished one; if none was finished, the best at the latest look that any
    came to. On a long video each chunk, or each choice of a queue, is drawn at most n times before the best goes on.
    """
    at_least(1, n=n, batch=batch)
    if looks:
        rising(ctx, "looks", looks)
    if bars is None:
        bars = [-inf] * len(looks)
    check(len(bars) == len(looks), "policy.bars", bars, f"a list of {len(looks)}, a bar for each of policy.looks")
    goal = inf if enough is None else enough
    points: list[Point] = [*((t, bar, early) for t, bar in zip(looks, bars, strict=True)), (None, goal, False)]

    x, more = await draw(ctx, None, points, n=n, batch=batch)
    while more and x.part < ctx.long.choices:
        if (queue := ctx.long.queue) is not None:  # a frame that enters is far from clean when its slide is finished
            points = [(queue.iterations(x.part + 1) - 1, goal, False)]
        x, more = await draw(ctx, ctx.denoise([x])[0], points, n=n, batch=batch)
    return x


async def draw(
    ctx: Context, before: Candidate | None, points: Sequence[Point], *, n: int, batch: int
) -> tuple[Candidate, bool]:
    """The best of at most n candidates for the part after `before`, and whether the search may go on after that."""
    best, answer, made, left = (-1, -inf), before, 0, list[Candidate]()
    try:
        while made < n and not left:
            k = min(batch, n - made)
            if before is None or made:  # the first of a later part is no trial, since the video needs it
                k = await ctx.trials(k)
            if not k:
                break
            made += k
            left = ctx.noise(k) if before is None else ctx.extend(before, k)
            for i, (t, bar, early) in enumerate(points):
                left = ctx.denoise(left, until=t)
                r = await ctx.score(left, by="early" if early else "search")
                for x, value in zip(left, r, strict=True):
                    if (i, value) > best:
                        best, answer = (i, value), x
                left = [x for x, value in zip(left, r, strict=True) if value >= bar]
    except BudgetExhausted:
        if answer is None:
            raise
        return answer, False
    assert answer is not None
    return answer, made == n or bool(left)
