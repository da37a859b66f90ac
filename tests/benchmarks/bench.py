"""What the benchmarks share: searches on a fleet that stands between them, and timings in pairs.

A figure is a ratio of two timings that were taken one after the other, several times over, in turns; so what else the
machine does meets both. Printed are the median and the range.
"""

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATH = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
sys.path[:0] = PATH
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import asyncio

import numpy as np
import ray

from raysearch.config import config as configuration
from raysearch.config.config import arms
from raysearch.config.prompts import load
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine, Spent
from raysearch.engine.protocol import Fleet, Replica
from raysearch.engine.store import Store
from raysearch.search.context import Context
from raysearch.session.plan import Backend, Plan, context, searches

TINY = ROOT / "actors" / "assets" / "tiny-wan"
SIZE = {"height": 32, "width": 32, "num_frames": 17, "max_sequence_length": 80}
Policy = Callable[[Context], Awaitable[Any]]


@contextmanager
def cluster(**settings: Any) -> Iterator[None]:
    """A Ray of its own, whose workers find the benchmarks and the tests."""
    here = {"env_vars": {"PYTHONPATH": os.pathsep.join(PATH)}}
    ray.init(
        address="local",
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env=here,
        **settings,
    )
    try:
        yield
    finally:
        ray.shutdown()


def wan(folder: Path, steps: int, denoisers: int = 1) -> configuration.Config:
    """Searches with a Wan model and a reward that costs next to nothing, on small shares of this machine."""
    share = {"num_cpus": 0.2}
    return configuration.build(
        {
            "model": {"path": str(folder), **SIZE},
            "sampler": {"num_steps": steps, "guidance_scale": 2.0},
            "rewards": {"search": {"name": "tiny:LatentNorm"}},
            "prompts": ["a red circle moving left and a green square moving up"],
            "fleet": {"denoisers": {"replicas": denoisers, **share}, "scorers": share, "encoders": share},
        }
    )


@asynccontextmanager
async def standing(backend: Backend, config: configuration.Config):
    """(fleet, plan), up and loaded."""
    plan = backend.prepare(config, arms(config))
    async with backend.fleet(config, plan, print) as fleet:
        yield fleet, plan


@dataclass(frozen=True)
class Run:
    seconds: float
    made: float  # replica-seconds of denoising
    engine: Engine
    context: Context


async def search(config: configuration.Config, plan: Plan, fleet: Fleet, policy: Policy, on: Sequence[Replica]) -> Run:
    """One search by `policy` with nothing made before, on these replicas of a fleet."""
    async with Dispatcher.open(on) as dispatcher, asyncio.TaskGroup() as tasks:
        engine = Engine(dispatcher, Store(int(config.fleet.store_gb * 1e9)), fleet.fetch, tasks)
        s = next(searches(plan, load(config), [0]))
        ctx = context(s, lambda xs, reward: engine.score(xs, reward, spent), time.monotonic)
        spent = Spent()
        began = time.perf_counter()
        await policy(ctx)
        seconds = time.perf_counter() - began
    return Run(seconds, ctx.charged.replica_seconds, engine, ctx)


async def rollouts(ctx: Context, n: int) -> None:
    """Whole rollouts: an item is a trajectory."""
    await ctx.score(ctx.denoise(ctx.noise(n)))


async def stepwise(ctx: Context, n: int) -> None:
    """One step an item: after each, latents and solver states go through the object store."""
    xs = ctx.noise(n)
    for t in range(1, ctx.num_steps + 1):
        xs = ctx.denoise(xs, until=t)
        await ctx.score(xs)


async def paired(
    repeats: int, a: Callable[[], Awaitable[float]], b: Callable[[], Awaitable[float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Timings of both, (repeats,) each, in turns and in changing order, after one of each that does not count."""
    await a(), await b()
    pairs = []
    for i in range(repeats):
        if i % 2:
            first = await b()
            pairs.append((await a(), first))
        else:
            pairs.append((await a(), await b()))
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def spread(values: np.ndarray, form: str = "{:.3f}") -> str:
    """The median, and the range."""
    return " ".join(form.format(v) for v in (np.median(values), values.min(), values.max()))


def table(head: str, rows: Sequence[Sequence[str]]) -> None:
    """Columns of `head` are divided by |."""
    lines = [[c.strip() for c in head.split("|")], *[list(r) for r in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip(), flush=True)
