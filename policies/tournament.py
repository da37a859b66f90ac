"""Flash-BoN's tournament (Rawal et al. 2026, arXiv 2607.04461): videos play each other in pairs for an Elo rating."""

from itertools import combinations

import numpy as np

from policies.checks import above, at_least
from policies.selection import top
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context, *, n: int = 16, batch: int = 8, keep: float = 0.5, games: float = 1.5, rivals: int = 3, k: float = 32
) -> Candidate:
    """Flash-BoN (2607.04461): of n noises in batches, the video with the highest Elo rating by rewards.compare.

    Of a batch the share `keep` with the highest rewards.search goes on. They play random pairs, `games` for each of
    them, and the same share of them by rating goes on. These play whom they have not met, and the best of them plays
    the best `rivals` of earlier batches. At least two go on each time. Ratings begin at 1500, for all alike; in the
    released code by the judge's first score.
    """
    at_least(1, n=n, batch=batch)
    at_least(0, games=games, rivals=rivals)
    above(0, k=k)
    check(0 < keep <= 1, "policy.keep", keep, "above 0 and at most 1")
    xs, elo, leaders = list[Candidate](), list[float](), list[int]()

    async def play(pairs: list[tuple[int, int]]) -> None:
        p = await ctx.compare([xs[i] for i, _ in pairs], [xs[j] for _, j in pairs])
        for (i, j), won in zip(pairs, p.tolist(), strict=True):
            moved = gain(elo[i], elo[j], won, k)
            elo[i], elo[j] = elo[i] + moved, elo[j] - moved

    while new := await ctx.trials(min(batch, n - len(xs))):
        first, xs, elo = len(xs), xs + ctx.denoise(ctx.noise(new)), elo + [1500.0] * new
        r = await ctx.score(xs[first:])
        alive = sorted(first + i for i in top(r, max(2, int(keep * new))))
        pairs = list(combinations(alive, 2))
        drawn = ctx.rng.choice(len(pairs), size=min(int(games * len(alive)), len(pairs)), replace=False)
        await play(played := [pairs[i] for i in sorted(drawn)])
        alive = sorted(alive, key=lambda i: -elo[i])[: max(2, int(keep * len(alive)))]
        await play([pair for pair in combinations(sorted(alive), 2) if pair not in played])
        winner = max(alive, key=lambda i: elo[i])
        await play([(winner, i) for i in sorted(leaders, key=lambda i: -elo[i])[:rivals]])
        leaders += sorted(alive)
    return xs[max(leaders, key=lambda i: elo[i])]


def gain(own: float, other: float, won: float, k: float) -> float:
    """How far a game moves the rating `own` up, and `other` down, if its player wins with probability `won`.

    The paper's judge says how confident it is; here that is the distance of `won` from 0.5.
    """
    margin = abs(2 * won - 1)
    weight = 1.2 if margin >= 2 / 3 else 1.0 if margin >= 1 / 3 else 0.7
    expected = 1 / (1 + 10 ** ((other - own) / 400))
    return k * weight * (float(np.heaviside(won - 0.5, 0.5)) - expected)
