"""How populations are cut and spread: shared by the policies that branch."""

import numpy as np

from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


def top(r: np.ndarray, k: int) -> list[int]:
    """The indices of the k highest, best first, ties by age."""
    return np.argsort(-r, kind="stable")[:k].tolist()  # type: ignore[no-any-return]


def variations(ctx: Context, x: Candidate, n: int, back: int) -> list[Candidate]:
    """x and n - 1 others near it: branches under an SDE; under an ODE, `back` steps up the schedule by the forward
    kernel, to be denoised again."""
    if ctx.solver.stochastic:
        return [x, *ctx.branch(x, n - 1)]
    return [x, *ctx.renoise(x, n - 1, to_step=max(x.step - back, 0))]
