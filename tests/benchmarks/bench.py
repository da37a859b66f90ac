"""What the benchmarks share: searches on a fleet that stands between them, timings in pairs, and the report.

A figure is a ratio of two timings that were taken one after the other, several times over, in turns; so what else the
machine does meets both. Printed are the median and the range. With `--json FILE` a benchmark also writes the tables
that it prints; docs/figures.py puts such files into the guides.
"""

import argparse
import json
import os
import re
import shlex
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
import torch

from raysearch.config import config as configuration
from raysearch.config.config import arms
from raysearch.config.prompts import load
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.engine.protocol import Fleet, Replica
from raysearch.engine.sharing import Spent
from raysearch.engine.store import Store
from raysearch.recipe.reward import Question, Reward, Score, seen
from raysearch.recipe.sequels import Sequels
from raysearch.search.context import Context
from raysearch.session.plan import Backend, Plan, context, searches

TINY = ROOT / "actors" / "assets" / "tiny-wan"
SIZE = {"height": 32, "width": 32, "num_frames": 17, "max_sequence_length": 80}
Policy = Callable[[Context], Awaitable[Any]]


@contextmanager
def cluster(**settings: Any) -> Iterator[None]:
    """A Ray of its own, whose workers find the benchmarks and the tests."""
    import ray  # here, since gpu.py runs where there is no Ray

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


async def search(
    config: configuration.Config,
    plan: Plan,
    fleet: Fleet,
    policy: Policy,
    on: Sequence[Replica],
    sequels: Sequels | None = None,
) -> Run:
    """One search by `policy` with nothing made before, on these replicas; with `sequels` they work ahead."""
    async with Dispatcher.open(on) as dispatcher, asyncio.TaskGroup() as tasks:
        engine = Engine(dispatcher, Store(int(config.fleet.store_gb * 1e9)), fleet.fetch, tasks)
        s = next(searches(plan, load(config), [0]))
        ctx = context(s, lambda xs, reward: engine.score(xs, reward, spent), time.monotonic)
        spent = Spent(sequels=sequels)
        began = time.perf_counter()
        await policy(ctx)
        seconds = time.perf_counter() - began
    return Run(seconds, ctx.charged.replica_seconds, engine, ctx)


async def rehearsed(config: configuration.Config, plan: Plan, policy: Policy) -> Sequels:
    """What `policy` asks about after what."""
    asks = []

    async def answer(xs: Sequence[Question], reward: Reward) -> list[Score]:
        asks.append([(c, reward.needs_velocity) for x in xs for c in seen(x)])
        return [Score((0.0,) * len(reward.components)) for _ in xs]

    await policy(context(next(searches(plan, load(config), [0])), answer, time.monotonic))
    sequels = Sequels()
    sequels.learn(asks)
    return sequels


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


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE` to a benchmark's options."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the printed tables to FILE, too")


class Report:
    """The tables of a benchmark: each is printed when it is made, and `file`, if given, holds all of them so far."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.tables: dict[str, dict[str, Sequence[Any]]] = {}

    def table(self, name: str, head: str, rows: Sequence[Sequence[str]]) -> None:
        """Print a table, and keep it as `name`. Columns of `head` are divided by |."""
        columns = [c.strip() for c in head.split("|")]
        lines = [columns, *[list(r) for r in rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip(), flush=True)
        self.tables[name] = {"columns": columns, "rows": lines[1:]}
        if self.file:
            made = {"command": command(sys.argv), "date": time.strftime("%Y-%m-%d"), "machine": machine()}
            text = json.dumps(made | {"tables": self.tables}, indent=1, ensure_ascii=False)
            self.file.write_text(re.sub(r"\n {4,}(?!\[)", " ", text) + "\n")  # a line for each row


def command(argv: Sequence[str]) -> str:
    """The command line of this process as it is typed in the checkout, without `--json FILE`."""
    words = list(argv[1:])
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    script = Path(argv[0]).resolve().relative_to(ROOT)
    return shlex.join(["python", str(script), *(w for w in words if not w.startswith("--json="))])


def machine() -> str:
    """This machine in plain words."""
    gpus = f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    return f"{len(os.sched_getaffinity(0))} CPU cores{gpus}"
