"""What a plan is told of models that the config alone does not say; `actors.facts` finds it out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raysearch.recipe.candidate import Sampler
from raysearch.recipe.reward import Reward
from raysearch.session.plan import Plan


def plain_state(sampler: Sampler, step: int, velocity: bool) -> int:
    """The bytes of a state of fakes."""
    return 1000


@dataclass(frozen=True)
class Facts:
    """`state` gives the bytes of a state from its sampler, its step, and whether it holds the velocity there.

    `weights` are bytes in one replica of each kind, `waiting` the keys of rewards that wait for others instead of
    computing. `key` is how files of timings name the model, its shape and its dtype, and `device` names this machine's.
    `first` is the bytes of one frame.
    """

    state: Callable[[Sampler, int, bool], int] = plain_state
    weights: Mapping[str, float] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    key: Mapping[str, object] = field(default_factory=dict)
    device: str = "cpu"
    frame: int = 0


def alone(plan: Plan) -> list[Reward]:
    """All rewards that a run's arms see or are judged by, those of ensembles by themselves; some more than once."""
    whole = [r for a in plan.arms for r in (*a.asks, *(j for _, j in a.judges))]
    return [m for r in whole for m in (r.blend.members if r.blend else (r,))]
