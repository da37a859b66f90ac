"""Tempered sequential Monte Carlo (DAS without gradients: Kim et al. 2025, arXiv 2501.05803)."""

from collections.abc import Callable

import numpy as np

from policies.checks import above, at_least
from policies.feynman_kac import Duplicates, Scheme, particles
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    n: int = 4,
    strength: float = 10.0,
    every: int = 1,
    threshold: float = 0.5,
    resampling: Scheme = "ssp",
    duplicates: Duplicates = "drop",
) -> Candidate:
    """Tempered SMC (2501.05803): n particles towards p(x) exp(strength r), whose exponent is tempered from 0 to 1.

    Particles are scored every `every` steps, and resampled where the effective sample size is below `threshold` times
    their number. The answer is the finished particle with the highest reward. Made for stochastic solvers.
    """
    at_least(1, n=n, every=every)
    above(0, strength=strength)
    steps = [*range(every, ctx.num_steps, every), ctx.num_steps]
    xs, _ = await particles(
        ctx,
        ctx.noise(n),
        tempered(ctx.num_steps, strength),
        steps=steps,
        threshold=threshold,
        resampling=resampling,
        duplicates=duplicates,
    )
    return xs[int((await ctx.score(xs)).argmax())]


def tempered(num_steps: int, strength: float) -> Callable[[int, np.ndarray, np.ndarray], np.ndarray]:
    """log G_t = lam_t r_t - lam_s r_s, (n,), where s is the step scored before t and lam_t = strength (2^(t/T) - 1).

    The function remembers lam_s, so each search needs its own.
    """
    before = 0.0

    def log_g(t: int, r: np.ndarray, past: np.ndarray) -> np.ndarray:
        nonlocal before
        now = strength * (2 ** (t / num_steps) - 1)
        g: np.ndarray = now * r - (before * past[:, -1] if past.shape[1] else 0)
        before = now
        return g

    return log_g
