"""Cutting a population to the best, and spreading the survivors."""

import numpy as np

from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


def top(r: np.ndarray, k: int) -> list[int]:
    """The indices of the k highest rewards of r (n,), the highest first; of equal rewards the earlier index first."""
    return np.argsort(-r, kind="stable")[:k].tolist()  # type: ignore[no-any-return]


def variations(ctx: Context, x: Candidate, n: int, back: int) -> list[Candidate]:
    """x and n - 1 candidates near it.

    Under an SDE these are branches; under an ODE the forward kernel takes them `back` steps up the noise schedule.
    """
    if ctx.solver.stochastic:
        return [x, *ctx.branch(x, n - 1)]
    return [x, *ctx.renoise(x, n - 1, to_step=max(x.step - back, 0))]


async def best_finished(ctx: Context, xs: list[Candidate]) -> Candidate:
    """The one of `xs` that is best when finished, by rewards.search; a lone one is not scored."""
    xs = ctx.denoise(xs)
    return xs[0] if len(xs) == 1 else xs[int((await ctx.score(xs)).argmax())]
