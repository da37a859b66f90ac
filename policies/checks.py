"""Checks of policies' arguments. Each raises ConfigError, which names the argument, its value and what is allowed."""

from collections.abc import Sequence

from raysearch.config.config import SDE
from raysearch.errors import ConfigError, check
from raysearch.search.context import Context


def at_least(low: float, **values: float) -> None:
    """Each argument, given by its name, must be `low` or more."""
    for key, value in values.items():
        check(value >= low, f"policy.{key}", value, f"at least {low:g}")


def above(low: float, **values: float) -> None:
    """Each argument must be above `low` by 1e-9 to 1e9, so that no exponent of a reward is infinite."""
    for key, value in values.items():
        check(value > low, f"policy.{key}", value, f"above {low:g}")
        check(low + 1e-9 <= value <= low + 1e9, f"policy.{key}", value, f"in {low + 1e-9:g}..{low + 1e9:g}")


def rising(ctx: Context, key: str, steps: Sequence[int], *, low: int = 0, high: int | None = None) -> None:
    """`steps` must be a strictly rising list, not empty, of steps in low..high, by default up to ctx.num_steps - 1."""
    high = ctx.num_steps - 1 if high is None else high
    check(len(steps) > 0, f"policy.{key}", steps, "a list of at least one step")
    for t in steps:
        check(low <= t <= high, f"policy.{key}", t, f"of steps in {low}..{high} (sampler.num_steps is {ctx.num_steps})")
    check(list(steps) == sorted(set(steps)), f"policy.{key}", steps, "strictly rising")


def stochastic(ctx: Context, name: str) -> None:
    """The solver must be stochastic, since under an ODE the branches of the policy `name` would be copies."""
    if not ctx.solver.stochastic:
        raise ConfigError(
            f"sampler.name: {ctx.solver.name!r} is not allowed with the policy {name}, which branches stochastic "
            f"steps; it must be one of {', '.join(SDE)}"
        )
