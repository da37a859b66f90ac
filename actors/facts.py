"""What a plan needs to know of a model besides its timings: sizes of states, weights of each kind of replica."""

import os
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch

from actors.models.roles import WORKERS, footprint
from actors.models.source import Source
from actors.plan import planned, special
from actors.rewards import RewardSpec
from actors.rewards.planning import gigabytes_of
from actors.sampling import solvers
from actors.shipped import find
from raysearch.config.config import Config, arms
from raysearch.planner.facts import Facts
from raysearch.recipe.candidate import Sampler
from raysearch.session.plan import Plan

FLOAT = 4  # bytes: states are float32
PROBE = (1, 1, 1, 2, 2)  # the shape of a latent on which a solver's history is counted


def prepared(config: Config) -> tuple[Plan, Facts]:
    """The plan of a config and the facts of its model. No cluster is asked, and no weights are loaded.

    Raises ConfigError for what a run would refuse on any machine.
    """
    plan = planned(config, arms(config))
    return plan, facts(config, plan)


def facts(config: Config, plan: Plan) -> Facts:
    """What a plan's arms need: see `Facts`."""
    source: Source = plan.details["source"]
    shape: tuple[int, ...] = plan.details["shape"]
    specs: Sequence[RewardSpec] = plan.details["rewards"]
    latent = FLOAT * prod(shape)

    def state(sampler: Sampler, step: int, velocity: bool) -> int:
        return latent * (1 + velocity + kept(source, sampler, step))

    weights = {kind: footprint(source, role, offloaded=False).bytes for kind, role in WORKERS.items()}
    weights["scorer"] += gigabytes_of(specs) * 1e9
    waiting = frozenset(s.key for s in specs if getattr(find(s.name, s.where), "waits", False))
    m = config.model
    return Facts(state, weights, waiting, key(config, plan), device(), m.height * m.width * 3)


def key(config: Config, plan: Plan) -> dict[str, Any]:
    """How files of timings name a model, the videos that it makes, and how it computes."""
    m, first = config.model, plan.arms[0].sampler
    return {
        "model": first.model.hex(),
        "shape": [m.num_frames, m.height, m.width],
        "dtype": ", ".join([m.dtype, *special(config), *["batched guidance"] * first.batched_guidance]),
    }


def device() -> str:
    """This machine's device in words, as files of timings name it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU, {len(os.sched_getaffinity(0))} cores"


def kept(source: Source, sampler: Sampler, step: int) -> int:
    """How many arrays of a latent's size a solver's history has after so many steps from the start; 1 of a pipeline."""
    if sampler.piped:
        return 1
    if sampler.whole is not sampler or step >= sampler.num_steps:  # a queue has no history
        return 0
    counts = histories(str(source.folder), sampler)
    return counts[min(step, len(counts) - 1)]


@cache
def histories(folder: str, sampler: Sampler) -> list[int]:
    """The arrays of a solver's history after each step from the start, until their number stays the same."""
    from pathlib import Path

    solver = solvers.solver(solvers.scheduler_config(Path(folder)), sampler)
    latent, state = torch.zeros(PROBE), solver.start(0)
    counts = [arrays(state)]
    for _ in range(min(sampler.num_steps - 1, 5)):
        noise = torch.zeros(PROBE) if sampler.stochastic else None
        latent, state = solver.step(state, torch.zeros(PROBE), latent, noise)
        counts.append(arrays(state))
    return counts


def arrays(state: Any) -> int:
    """How many tensors of a latent's size are in a solver's state."""
    if isinstance(state, torch.Tensor):
        return int(state.numel() == prod(PROBE))
    if isinstance(state, dict):
        return sum(map(arrays, state.values()))
    return sum(map(arrays, state)) if isinstance(state, list | tuple) else 0
