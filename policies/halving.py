"""Sequential halving (Karnin, Koren and Somekh 2013), where the rounds of a bandit are stretches of the grid."""

from collections.abc import Sequence

from policies.checks import at_least, rising
from policies.selection import best_finished, top
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(ctx: Context, *, n: int = 4, schedule: Sequence[int] = (10, 15), early: bool = False) -> Candidate:
    """Sequential halving (Karnin et al. 2013): of n noises the better half goes on at each scheduled step.

    `schedule` counts solver steps; a half is rounded up, and chosen by the reward after that step alone: by
    rewards.early with `early`, else by rewards.search. Whoever is left is finished, and if there are several the best
    of them by rewards.search is the answer.
    """
    at_least(1, n=n)
    rising(ctx, "schedule", schedule)

    xs = ctx.noise(n)
    for t in schedule:
        if len(xs) == 1:
            break
        xs = ctx.denoise(xs, until=t)
        r = await ctx.score(xs, by="early" if early else "search")
        xs = [xs[i] for i in sorted(top(r, (len(xs) + 1) // 2))]
    return await best_finished(ctx, xs)
