"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848)."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from policies.checks import above, at_least
from policies.feynman_kac import Duplicates, Scheme, particles
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

Potential = Literal["difference", "max", "sum"]


async def search(
    ctx: Context,
    *,
    k: int = 4,
    lam: float = 10.0,
    potential: Potential = "max",
    interval: float = 0.2,
    threshold: float = 0.5,
    resampling: Scheme = "multinomial",
    duplicates: Duplicates = "drop",
) -> Candidate:
    """FK steering (2501.06848): k particles, resampled every `interval` of the steps by potentials of their rewards.

    They are resampled only where the effective sample size is below `threshold` times their number. `lam` multiplies
    rewards in the exponent. The answer is the finished particle with the highest reward. Made for stochastic solvers.
    """
    at_least(1, k=k)
    above(0, lam=lam)
    check(0 < interval <= 1, "policy.interval", interval, "above 0 and at most 1")
    steps = schedule(ctx.num_steps, interval)
    log_g = potentials(potential, lam, ctx.num_steps)
    xs, _ = await particles(
        ctx, ctx.noise(k), log_g, steps=steps, threshold=threshold, resampling=resampling, duplicates=duplicates
    )
    return xs[int((await ctx.score(xs)).argmax())]


def schedule(num_steps: int, interval: float) -> list[int]:
    """The steps at which particles are scored: 20, 40, 60, 80 and 100 of 100 steps with an interval of 0.2."""
    gap = max(round(interval * num_steps), 1)
    return [*range(gap, num_steps, gap), num_steps]


def potentials(kind: Potential, lam: float, num_steps: int) -> Callable[[int, np.ndarray, np.ndarray], np.ndarray]:
    """log G_t(t, r, past), (n,), by the kind of potential.

    For max and sum the terminal potential divides the earlier ones out, so that their product is exp(lam r_0).
    """

    def log_g(t: int, r: np.ndarray, past: np.ndarray) -> np.ndarray:
        seen = np.column_stack([past, r])
        if kind == "difference":
            return lam * np.diff(seen, axis=1, prepend=0)[:, -1]
        whole = np.maximum.accumulate(seen, axis=1) if kind == "max" else np.cumsum(seen, axis=1)
        if t < num_steps:
            return lam * whole[:, -1]
        terminal: np.ndarray = lam * (r - whole[:, :-1].sum(1))
        return terminal

    return log_g
