"""EvoSearch: evolutionary search along the denoising trajectory (He et al. 2025, arXiv 2505.17618)."""

from collections.abc import Sequence

import numpy as np

from policies.checks import at_least, rising
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    schedule: Sequence[int] = (5, 20, 30, 45),
    population: Sequence[int] = (10, 5, 5, 5, 5),
    elite: int = 2,
    beta: float = 0.2,
    eta: float = 0.7,
    share: float = 0.9,
) -> Candidate:
    """EvoSearch (2505.17618): generations at scheduled steps; fitness is the reward of an individual's finished sample.

    The first size in `population` is the number of initial noises; each later size belongs to a step of `schedule`. The
    pool of a generation holds the states of all individuals so far at its step. The best `elite` go on unchanged. The
    others win tournaments over a `share` of the pool and are mutated: sqrt(1 - beta^2) x + beta eps if the step is 0,
    x + s_t eps at later steps t, where s_t is the standard deviation that an SDE of strength `eta` adds there. The
    answer is the individual with the highest fitness of all generations.
    """
    rising(ctx, "schedule", schedule, high=ctx.num_steps - 2)
    check(len(population) == len(schedule) + 1, "policy.population", population, f"of {len(schedule) + 1} sizes")
    for n in population:
        check(n >= max(elite, 1), "policy.population", n, f"of sizes of at least {max(elite, 1)}, policy.elite")
    at_least(0, elite=elite, eta=eta)
    check(0 <= beta <= 1, "policy.beta", beta, "in [0, 1]")
    check(0 < share <= 1, "policy.share", share, "above 0 and at most 1")

    pool = ctx.noise(population[0])
    r = await ctx.score(ctx.denoise(pool))
    for t, n in zip(schedule, population[1:], strict=True):
        states = ctx.denoise(pool, until=t)
        mutants = []
        for _ in range(n - elite):
            some = ctx.rng.choice(len(states), size=max(round(share * len(states)), 1), replace=False)
            winner = states[some[int(r[some].argmax())]]
            mutants += ctx.perturb(winner, 1, beta) if t == 0 else ctx.jitter(winner, 1, spread(ctx.sigmas, t, eta))
        pool, r = [*pool, *mutants], np.append(r, await ctx.score(ctx.denoise(mutants)))
    return ctx.denoise([pool[int(r.argmax())]])[0]


def spread(sigmas: np.ndarray, t: int, eta: float) -> float:
    """The standard deviation that the flow SDE (2505.05470) adds in step t: eta sqrt(s / (1 - s)) sqrt(s - s_next)."""
    s = sigmas[t]
    off = sigmas[max(t, 1)]  # s / (1 - s) is singular at s = 1, where the solver takes step 1's level too
    return float(eta * np.sqrt(off / (1 - off)) * np.sqrt(s - sigmas[t + 1]))
