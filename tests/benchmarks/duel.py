"""RGRP by raysearch against a plain loop over diffusers' own parts that does what the paper's does.

    python tests/benchmarks/duel.py

The loop (`plain.py` has it) makes one candidate after another, one prompt after another, with guidance as two forwards
and the latent reward PAVRM at three steps. Both begin with encoding and end with the frames of every winner, and both
have their models loaded. They run in turns; printed are the ratio of their times, and whether noises, survivors and
winners are the same. On two cores raysearch is a Ray fleet of two denoisers with four slots each, and the loop may use
two threads or one, whichever is faster; on one core it is one denoiser with eight slots in one process, and the loop
has one thread.
"""

import argparse
import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context

import numpy as np
import torch
import transformers
from bench import SIZE, TINY, Report, cluster, json_option, paired, spread, standing
from plain import Loop, Won

from actors.backend import Backend
from actors.tiny import world
from policies.rgrp import search as rgrp
from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.config.prompts import load
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.engine.protocol import Fleet, Outputs
from raysearch.engine.sharing import Spent, gather
from raysearch.engine.store import Store
from raysearch.recipe.candidate import denoise
from raysearch.session.plan import Plan, Search, context, searches

CLOSE = 1e-3  # the largest difference of two latents that are the same but for rounding
TARGETS = {"two-cores": 2.0, "one-core": 1.3}


def config(args: argparse.Namespace, fleet: dict[str, object]) -> Config:
    """The duel's searches on a fleet."""
    policy = {"name": "rgrp", "n": args.n, "schedule": args.schedule}
    return configuration.build(
        {
            "model": {"path": str(TINY), **SIZE},
            "sampler": {"num_steps": args.steps, "guidance_scale": 2.0},
            "rewards": {"search": {"name": "pavrm"}},
            "policy": policy,
            "prompts": list(world.HELD_OUT_TWO[: args.prompts]),
            "fleet": fleet,
        }
    )


async def by_raysearch(plan: Plan, asked: list[Search], fleet: Fleet, args: argparse.Namespace) -> Won:
    """All searches side by side on the fleet, with nothing made before."""
    began = time.perf_counter()
    async with Dispatcher.open(fleet.replicas) as dispatcher, asyncio.TaskGroup() as tasks:
        engine = Engine(dispatcher, Store(10**9), fleet.fetch, tasks)

        async def one(s: Search) -> object:
            spent = Spent(age=s.age)
            ctx = context(s, lambda xs, reward: engine.score(xs, reward, spent), time.monotonic)
            x = denoise(await rgrp(ctx, n=args.n, schedule=args.schedule), args.steps)
            await engine.finish(x, [], Outputs(npy=True), spent)
            return (await engine.latent(x, False, spent)).ref

        refs = await gather(map(one, asked), len(asked))
        seconds = time.perf_counter() - began
        latents = [(await fleet.fetch(ref))["latent"] for ref in refs]
    return Won(latents, engine.nfe, seconds)


async def duel(kind: str, args: argparse.Namespace) -> list[str]:
    """A row of the table."""
    two = kind == "two-cores"
    share = {"num_cpus": 0.2}
    pool = {"denoisers": {"replicas": 2, "slots": 4, **share}, "scorers": share, "encoders": share}
    c = config(args, pool if two else {"backend": "local", "denoisers": {"slots": 8}})
    async with standing(Backend(), c) as (fleet, plan):
        asked = list(searches(plan, load(c), [0]))
        loop, found = Loop(TINY, plan.arms[0].sampler), dict[str, list[Won]]()

        async def ours() -> float:
            made = await by_raysearch(plan, asked, fleet, args)
            found.setdefault("ours", []).append(made)
            return made.seconds

        def plainly(threads: int):
            async def run() -> float:
                torch.set_num_threads(threads)
                won = loop.run(asked, n=args.n, schedule=args.schedule)
                found.setdefault("loop", []).append(won)
                return won.seconds

            return run

        threads = 1
        if two:
            faster = [await plainly(n)() for n in (1, 2, 1, 2)]
            threads = 2 if min(faster[1::2]) < min(faster[::2]) else 1
        a, b = await paired(args.repeats, plainly(threads), ours)
    first = found["loop"][0].latents
    same = sum(
        all(np.abs(x.latents[i] - y).max() < CLOSE for runs in found.values() for x in runs)
        for i, y in enumerate(first)
    )
    forwards = sorted({x.forwards for runs in found.values() for x in runs})
    cells = [
        f"{np.median(a):.1f} ({threads} thread{'s' * (threads > 1)})",
        f"{np.median(b):.1f}",
        spread(a / b, "{:.2f}"),
    ]
    return [kind, *cells, f"{TARGETS[kind]:.1f}", f"{same} of {len(asked)}", ", ".join(f"{n:,}" for n in forwards)]


def alone(kind: str, args: argparse.Namespace) -> list[str]:
    """A duel in a process of its own, which has the machine's cores, or one of them."""
    if kind == "one-core":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    transformers.utils.logging.disable_progress_bar()
    with cluster(num_cpus=2) if kind == "two-cores" else nullcontext():
        return asyncio.run(duel(kind, args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--n", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--schedule", type=int, nargs="+", default=[10, 15, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=TARGETS)
    json_option(parser)
    args = parser.parse_args()
    rows = []
    for kind in [args.only] if args.only else TARGETS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            rows.append(process.submit(alone, kind, args).result())
    head = "on | loop, s | raysearch, s | loop / raysearch: median, least, most | at least | same winners | forwards"
    Report(args.json).table("duel", head, rows)


if __name__ == "__main__":
    main()
