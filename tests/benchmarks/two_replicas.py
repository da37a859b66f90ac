"""How much faster two denoisers denoise than one, on two cores with one torch thread each.

    python tests/benchmarks/two_replicas.py

The same search of n candidates on one and on both replicas of a Ray fleet, in turns; the ratio of times is to be at
least 1.7. `bare` is what the machine gives: the same rollouts with no engine, each actor called directly.
"""

import argparse
import asyncio
import time
from functools import partial

import numpy as np
import torch
from bench import TINY, Report, cluster, json_option, paired, rollouts, search, spread, standing, stepwise, wan

from actors.backend import Backend
from raysearch.engine.protocol import Call, Denoise, Encode, Start, Text
from raysearch.recipe.origins import Noise


async def bare(denoisers, plan, text, n: int) -> float:
    """n rollouts by direct calls, divided evenly, one at a time on each."""
    sampler = plan.arms[0].sampler

    async def some(denoiser, mine) -> None:
        for i in mine:
            rollout = Denoise(sampler, b"", 0, sampler.num_steps, start=Start(Noise(i, 0), i))
            await denoiser.run(Call(rollout, {"text": text, "negative": text}))

    began = time.perf_counter()
    await asyncio.gather(*(some(d, range(i, n, len(denoisers))) for i, d in enumerate(denoisers)))
    return time.perf_counter() - began


async def measure(steps: int, n: int, repeats: int) -> list[list[str]]:
    config = wan(TINY, steps, denoisers=2)
    rows = []
    async with standing(Backend(), config) as (fleet, plan):
        denoisers = [r for r in fleet.replicas if r.kind == "denoiser"]
        rest = [r for r in fleet.replicas if r.kind != "denoiser"]
        encoded = await next(r for r in rest if r.kind == "encoder").run(Call(Encode(Text("a", 80))))

        async def searched(policy, on) -> float:
            return (await search(config, plan, fleet, partial(policy, n=n), [*on, *rest])).seconds

        for name, timed in (
            ("bare, whole rollouts", lambda on: bare(on, plan, encoded.ref, n)),
            ("search, whole rollouts", partial(searched, rollouts)),
            ("search, one step an item", partial(searched, stepwise)),
        ):
            one, two = await paired(repeats, partial(timed, denoisers[:1]), partial(timed, denoisers))
            rows.append([name, f"{n * steps / np.median(one):.0f}", f"{n * steps / np.median(two):.0f}"])
            rows[-1] += [spread(one / two), "" if name.startswith("bare") else "1.70"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--n", type=int, default=16, help="candidates of a search")
    parser.add_argument("--steps", type=int, default=10)
    json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with cluster(num_cpus=2):
        rows = asyncio.run(measure(args.steps, args.n, args.repeats))
    head = "what | steps/s of one | of two | ratio: median, least, most | at least"
    Report(args.json).table("two_replicas", head, rows)


if __name__ == "__main__":
    main()
