"""Policies against answers that are given, without a model: a context that asks a world for its scores, and worlds."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysearch.config.config import SDE
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.reward import Reward, Score
from raysearch.search.budget import Budget, Ledger, Meter
from raysearch.search.context import Context
from raysearch.search.obstacles import Barrier

EARLY = Reward("early", b"early", ("early",), (1.0,), "latent")
DUEL = Reward("duel", b"duel", ("duel",), (1.0,), "frames", pairwise=True)


def sampler(num_steps: int = 12, name: str = "euler") -> Sampler:
    """The exact mixture's, whose noise levels are shifted by 3."""
    levels = (1 - i / num_steps for i in range(num_steps + 1))
    sigmas = tuple(3 * s / (1 + 2 * s) for s in levels)
    return Sampler(b"mixture", name, num_steps, sigmas, flow_shift=3.0, stochastic=name in SDE, eta=SDE.get(name))


def context(
    s: Sampler,
    *,
    world: Any,
    seed: int = 0,
    decodes: bool = False,
    obstacles: Sequence[Barrier] = (),
    at_steps: Callable[[int], Sampler] | None = None,
    turn: Callable[[Candidate], Awaitable[bool]] | None = None,
    **budget: float,
) -> Context:
    """A search's context whose scores are `world`'s answers; rewards.early is EARLY, and rewards.compare DUEL."""
    reward = Reward("r", b"r", ("r",), (1.0,), "frames" if decodes else "estimate")
    return Context(
        Prompt("a"),
        s,
        seed,
        reward=reward,
        early=EARLY,
        judge=DUEL,
        meter=Meter(Budget(**budget), Ledger(needs_velocity=True, decodes=decodes)),
        answer=world.answer,
        rng_key=("test",),
        at_steps=at_steps or (lambda n: sampler(n, s.name)),
        obstacles=obstacles,
        turn=turn,
    )


@dataclass
class Scripted:
    """Answers from a list, whatever is asked: `asked` has (kind of origin, step), and `by` the reward's key."""

    rewards: list[float]
    asked: list[tuple[str, int]] = field(default_factory=list)
    by: list[str] = field(default_factory=list)

    async def answer(self, xs: Sequence[Candidate], reward: Reward) -> list[Score]:
        self.asked += [(x.origin.describe()["kind"], x.step) for x in xs]
        self.by += [reward.key] * len(xs)
        return [Score((self.rewards.pop(0),)) for _ in xs]


class Alike:
    """Answers 0 to everything."""

    async def answer(self, xs: Sequence[Candidate], reward: Reward) -> list[Score]:
        return [Score((0.0,)) for _ in xs]
