"""What diffusers' pipelines do as models, as they are: the contract on each toy kind, and what a run of them costs.

    python tests/benchmarks/own_pipelines.py

* `contract`: what `actors.models.pipelines.contract` measures on every kind of tests/pipelines.py, in float32.
* `costs`: whole rollouts through `Runs` over the pipeline's own call with the same embeddings, and how long a leg that
  begins two steps before the end takes until its first forward waits. Measured with the toys and with wider nets.
* `latents`: the latter for latents with as many numbers as large models' have; nothing but zeros is evaluated.
* `wan`: searches with the shipped Wan model through `sampler.name: own`, its pipeline as it is, and `unipc`, the
  family's own code: what is the same, and the ratio of their times.

Ratios are of pairs that were taken in turns, with one torch thread. All times are processor time, so that waiting for a
core beside other work is no part of them.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from bench import SIZE, TINY, Report, json_option, paired, search, spread, standing
from pipelines import KINDS, Kind, ltx, wan_two
from safetensors.torch import load_file

import raysearch
from actors.backend import Backend
from actors.models.pipelines import Conditioner, Runs, batch, contract
from actors.models.pipelines.call import arguments
from actors.models.pipelines.parts import pipeline
from actors.models.pipelines.runs import RunLeg
from actors.models.pipelines.state import Conditions, PipelineState
from actors.models.source import Source
from raysearch.config import config as configuration
from raysearch.config.config import Arm, arms
from raysearch.engine.protocol import Denoise, Start
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.origins import Noise
from raysearch.search.context import Context

PARTS = ("contract", "costs", "latents", "wan")
RATIO, REENTRY = 1.10, 100  # at most: a whole rollout's, and milliseconds
PROMPT = "a red circle moving left"
WIDE = {"num_attention_heads": 8, "attention_head_dim": 32}
COSTS = {  # what is measured, and at what size
    "Wan, toy": KINDS["Wan 2.2, two experts"],
    "LTX, toy": KINDS["LTX"],
    "Wan, wider": replace(KINDS["Wan 2.2, two experts"], make=lambda: wan_two(ffn_dim=1024, **WIDE), size=64),
    "LTX, wider": replace(KINDS["LTX"], make=lambda: ltx(num_layers=2, cross_attention_dim=256, **WIDE)),
}
LATENTS = {  # toys at a size at which their latents have about as many numbers as the real models' at this one
    "Wan, 480 x 832 x 81": ("Wan 2.2, two experts", (480, 832, 81)),
    "LTX, 480 x 704 x 121": ("LTX", (256, 352, 61)),
}


def planned(kind: Kind, folder: Path, steps: int, **size: int) -> Sampler:
    """The sampler of a run of this pipeline."""
    blocks = kind.blocks
    values = {"model": {**blocks["model"], **size, "path": str(folder)}, "prompts": [PROMPT]}
    values["sampler"] = {**blocks["sampler"], "num_steps": steps}
    values["rewards"] = {"search": {"name": "tiny:LatentNorm"}}
    c = configuration.build(values)
    return Backend().prepare(c, arms(c)).arms[0].sampler


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def held(scratch: Path, names: list[str], steps: int) -> list[list[str]]:
    """A row of the table `contract` for each kind."""
    rows = []
    for i, name in enumerate(names):
        kind = KINDS[name]
        folder = kind.save(scratch / f"held{i}")
        of = json.loads((folder / "model_index.json").read_text())["_class_name"]
        sampler = planned(kind, folder, steps)
        found = contract.measured(Source(folder), sampler, kind.pictures)
        cells = [yes(found.whole), yes(found.legs), yes(found.frames), f"{found.x0:.0e}", f"{found.batch:.0e}"]
        rows.append(
            [name, f"`{of}`", *cells, f"{sampler.nfe}", "stochastic" if sampler.stochastic else "deterministic"]
        )
    return rows


class Way:
    """One pipeline, through `Runs` and by its own call."""

    def __init__(self, kind: Kind, folder: Path, steps: int, **size: int) -> None:
        source = Source(kind.save(folder), own=True)
        self.sampler = planned(kind, folder, steps, **size)
        self.conditions: Conditions = Conditioner(source)(self.sampler, PROMPT)
        self.runs = Runs(source)
        self._own = pipeline(source, "whole")
        self._own.encode_prompt = remembered(self._own.encode_prompt)
        self._call = arguments(type(self._own), self.sampler, PROMPT, decoded=False)

    @torch.no_grad()
    def leg(self, until: int, base: PipelineState | None = None) -> RunLeg:
        """A leg that waits for its first forward."""
        start, step = (Start(Noise(1, 0), 1), 0) if base is None else (None, base.step)
        inputs = {"text": self.conditions} | ({} if base is None else {"base": base})
        return self.runs.admit(Denoise(self.sampler, b"", step, until, False, start), inputs)

    @torch.no_grad()
    def at(self, step: int, *, zeros: bool = False) -> PipelineState:
        """The state at a step; with `zeros` the nets are answered with zeros and not evaluated."""
        leg = self.leg(step)
        while not leg.finished:
            if zeros and leg.run.waiting is not None:
                leg.answer((torch.zeros_like(batch.first(leg.run.waiting)),))
            else:
                self.runs.advance([leg])
        return leg.to_state()

    async def timed(self) -> float:
        """Processor seconds of a whole rollout through `Runs`."""
        began = time.process_time()
        self.at(self.sampler.num_steps)
        return time.process_time() - began

    async def own(self) -> float:
        """Processor seconds of the pipeline's own call."""
        began = time.process_time()
        self._own(**self._call, generator=torch.Generator().manual_seed(1))
        return time.process_time() - began

    def entries(self, repeats: int, *, zeros: bool = False) -> np.ndarray:
        """Processor milliseconds until a leg of the last two steps waits for its first forward, (repeats,)."""
        base = self.at(self.sampler.num_steps - 2, zeros=zeros)
        found = []
        for _ in range(repeats + 1):  # the first does not count
            began = time.process_time()
            leg = self.leg(self.sampler.num_steps, base)
            found.append(1000 * (time.process_time() - began))
            leg.abandon()
        return np.array(found[1:])


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which computes once, and then returns the same whatever it is given."""
    kept: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(function(*args, **kwargs))
        return kept[0]

    return call


def costs(scratch: Path, steps: int, repeats: int) -> list[list[str]]:
    rows = []
    for i, (name, kind) in enumerate(COSTS.items()):
        way = Way(kind, scratch / f"costs{i}", steps)
        ours, own = asyncio.run(paired(repeats, way.timed, way.own))
        ratio = [f"{1000 * np.median(own) / steps:.1f}", spread(ours / own), f"{RATIO:.2f}"]
        rows.append([name, *ratio, spread(way.entries(repeats), "{:.0f}"), f"{REENTRY}"])
    return rows


def latents(scratch: Path, steps: int, repeats: int) -> list[list[str]]:
    rows = []
    for i, (name, (kind, size)) in enumerate(LATENTS.items()):
        given = dict(zip(("height", "width", "num_frames"), size, strict=True))
        way = Way(KINDS[kind], scratch / f"latents{i}", steps, **given)
        rows.append([name, spread(way.entries(repeats, zeros=True), "{:.0f}")])
    return rows


def searches(sampler: str, steps: int) -> dict[str, Any]:
    """A config of best-of-4 and RGRP with the shipped model."""
    early = [steps // 4, steps // 2]
    policies = [{"name": "best_of_n", "n": 4}, {"name": "rgrp", "n": 4, "schedule": early}]
    return {
        "model": {"path": str(TINY), **SIZE},
        "sampler": {"name": sampler, "num_steps": steps, "guidance_scale": 2.0},
        "arms": [{"name": p["name"], "policy": p} for p in policies],
        "rewards": {"search": {"name": "tiny:LatentNorm"}},
        "prompts": [PROMPT],
        "fleet": {"backend": "local"},
        "output": {"videos": False, "latents": True},
    }


def winners(scratch: Path, sampler: str, steps: int) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """What is said of each arm's winner, and its latent."""
    folder = tempfile.mkdtemp(dir=scratch)
    run = raysearch.run({**searches(sampler, steps), "run_dir": folder}, report=lambda line: None)
    found = []
    for row in pq.read_table(run.path / "searches.parquet").to_pylist():
        origin = json.loads(row["origin"])
        origin.pop("parent", None)  # whose name depends on the sampler's
        said = {"origin": origin} | {k: row[k] for k in ("arm", "reward_search", "nfe")}
        latent = load_file(run.path / "latents" / f"{row['search_id']}.safetensors")["latents"]
        found.append((said, latent))
    return found


async def finished(ctx: Context, of: Arm) -> None:
    """A search whose winner is denoised to the end."""
    await ctx.score(ctx.denoise([await of.search(ctx, **of.arguments)]))


async def wan(scratch: Path, steps: int, repeats: int) -> list[list[str]]:
    rows = []
    async with AsyncExitStack() as stack:
        fleets = {}
        for sampler in ("own", "unipc"):
            c = configuration.build(searches(sampler, steps))
            fleets[sampler] = c, *await stack.enter_async_context(standing(Backend(), c))

        async def seconds(sampler: str, arm: int) -> float:
            config, fleet, plan = fleets[sampler]
            began = time.process_time()
            await search(config, plan, fleet, partial(finished, of=plan.arms[arm].arm), fleet.replicas)
            return time.process_time() - began

        own, fast = [await asyncio.to_thread(winners, scratch, sampler, steps) for sampler in fleets]
        for arm, ((a, x), (b, y)) in enumerate(zip(own, fast, strict=True)):
            times = await paired(repeats, partial(seconds, "own", arm), partial(seconds, "unipc", arm))
            rows.append([a["arm"], yes(a == b), yes(torch.equal(x, y)), f"{a['nfe']}", spread(times[0] / times[1])])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="of `contract`")
    parser.add_argument("--steps", type=int, default=50, help="of `costs` and `latents`")
    parser.add_argument("--wan-steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    report = Report(args.json)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if "contract" in args.parts:
            head = "pipeline | class | whole | legs | frames | x0 error | batch error | NFE a step | scheduler"
            report.table("contract", head, held(scratch, args.kinds, 6))
        entry = f"ms to enter at step {args.steps - 2} of {args.steps}: median, least, most"
        if "costs" in args.parts:
            head = f"pipeline | ms a step | run / own call: median, least, most | at most | {entry} | at most"
            report.table("costs", head, costs(scratch, args.steps, args.repeats))
        if "latents" in args.parts:
            report.table("latents", f"latents of | {entry}", latents(scratch, args.steps, args.repeats))
        if "wan" in args.parts:
            head = "search | the same winner | with the same bits | NFE | own / unipc: median, least, most"
            report.table("wan", head, asyncio.run(wan(scratch, args.wan_steps, args.repeats)))


if __name__ == "__main__":
    main()
