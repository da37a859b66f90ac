"""What a search costs beyond its forwards: on one Ray denoiser, against a plain loop in this process.

    python tests/benchmarks/overhead.py

The loop makes the same forwards and solver steps, one candidate after another, and nothing else. The search makes them
on a Ray actor, with every candidate scored by a reward that costs next to nothing: as whole rollouts, and with one step
an item, where latents and solver states go through the object store after each step, and the next step is asked for
when all scores are there; and once more with fleet.speculate, where the denoiser works ahead meanwhile. Of pairs of
both, the ratio of their times: at most 1.05 with the tiny model, at most 1.02 with a wider one, of random weights,
whose steps take about 100 ms. `busy` is the share of a search's time in which its denoiser computed.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from bench import (
    TINY,
    Report,
    cluster,
    json_option,
    paired,
    rehearsed,
    rollouts,
    search,
    spread,
    standing,
    stepwise,
    wan,
)
from diffusers import WanTransformer3DModel

from actors.backend import Backend
from actors.models import wan as models
from actors.models.source import Source
from actors.sampling import solvers
from raysearch.recipe.candidate import Sampler

TARGETS = {"tiny": 1.05, "wide": 1.02}
WAYS = {  # a policy, and whether the denoiser works ahead
    "whole rollouts": (rollouts, False),
    "one step an item": (stepwise, False),
    "one step an item, working ahead": (stepwise, True),
}


def widened(folder: Path, heads: int) -> Path:
    """The tiny model with a wider transformer."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*transformer*"))
    torch.manual_seed(0)
    shape = dict(WanTransformer3DModel.load_config(TINY / "transformer"))
    shape |= {"num_attention_heads": heads, "ffn_dim": 96 * heads}
    WanTransformer3DModel.from_config(shape).save_pretrained(folder / "transformer")
    return folder


class Loop:
    """The forwards of `n` rollouts, by hand."""

    def __init__(self, folder: Path, sampler: Sampler, n: int) -> None:
        self._model = models.Transformer(Source(folder))
        encode = models.TextEncoder(Source(folder))
        length = sampler.max_sequence_length
        self._texts = [torch.tensor(encode(t, length)) for t in ("a red circle", sampler.negative_prompt)]
        self._solver = solvers.solver(solvers.scheduler_config(folder), sampler)
        size = {"num_frames": sampler.num_frames, "height": sampler.height, "width": sampler.width}
        self._shape = models.Geometry.of(folder).latent_shape(**size)
        self._scale, self._n = sampler.guidance_scale, n

    @torch.no_grad()
    def run(self) -> float:
        began = time.perf_counter()
        for i in range(self._n):
            x = torch.randn(self._shape, generator=torch.Generator().manual_seed(i))
            state = self._solver.start(0)
            for t in self._solver.timesteps:
                c, u = (self._model(x, t[None], text, [None]) for text in self._texts)
                x, state = self._solver.step(state, u + self._scale * (c - u), x)
        return time.perf_counter() - began


async def measure(name: str, folder: Path, steps: int, n: int, repeats: int) -> list[list[str]]:
    config = wan(folder, steps)
    rows = []
    async with standing(Backend(), config) as (fleet, plan):
        loop = Loop(folder, plan.arms[0].sampler, n)
        for what, (way, ahead) in WAYS.items():
            policy, busy = partial(way, n=n), []
            sequels = await rehearsed(config, plan, policy) if ahead else None

            async def on_ray(policy=policy, busy=busy, sequels=sequels) -> float:
                found = await search(config, plan, fleet, policy, fleet.replicas, sequels)
                busy.append(found.made / found.seconds)
                return found.seconds

            async def by_hand() -> float:
                return loop.run()

            a, b = await paired(repeats, on_ray, by_hand)
            cells = [spread(a / b), f"{TARGETS[name]:.2f}", f"{np.median(busy):.3f}"]
            rows.append([f"{name}, {what}", f"{1000 * np.median(b) / n / steps:.1f}", *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--n", type=int, default=8, help="candidates of a search")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--heads", type=int, default=16, help="of the wide model, 32 wide each")
    parser.add_argument("--only", choices=TARGETS)
    json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as scratch, cluster(num_cpus=2):
        for name in [args.only] if args.only else TARGETS:
            folder = TINY if name == "tiny" else widened(Path(scratch) / "wide", args.heads)
            rows += asyncio.run(measure(name, folder, args.steps, args.n, args.repeats))
    head = "model | ms a step | search / loop: median, least, most | at most | busy"
    Report(args.json).table("overhead", head, rows)


if __name__ == "__main__":
    main()
