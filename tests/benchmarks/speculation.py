"""How long one search takes on a fleet of its own, with and without work ahead of it, in virtual time on fakes.

    python tests/benchmarks/speculation.py

A step of one candidate takes 1. A look at it takes 1.9, as with a reward that reads decoded frames, or 0.3, as with one
that reads latents. There is a scorer for every six denoisers, and in the last column one for every denoiser. A denoiser
leaves a leg that is given up after the step that is under way. Figures are means over `--seeds`. Winners, rewards and
charges are asserted to be the same with and without, and so is what was run for the search; NFE wasted are besides.
"""

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from bench import Report, json_option

from raysearch.config import config as configuration
from raysearch.engine.protocol import Answer, Call
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, FakeReplica, run_virtual, virtual_now

LOOKS = {"frames": 1.9, "latent": 0.3}  # what a reward reads, and how long it takes; a step of one candidate takes 1
POLICIES: dict[str, tuple[bool, dict[str, Any]]] = {  # whether the solver is stochastic
    "rgrp": (False, {"n": 6, "schedule": [10, 15, 20]}),
    "beam": (False, {"k": 2, "n": 4, "every": 5}),
    "smc": (True, {"n": 4, "every": 5}),
}
STEPS = 50


@dataclass
class Steady(FakeReplica):
    """A denoiser of one slot that finishes the step under way of a leg that is given up."""

    free: float = 0.0

    async def run(self, call: Call) -> Answer:
        """The answer, once the slot is free."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self.free - loop.time(), 0.0))
        began = loop.time()
        try:
            return await super().run(call)
        except asyncio.CancelledError:
            self.free = began + ceil((loop.time() - began) / self.seconds - 1e-9) * self.seconds
            raise


def searched(
    policy: str, needs: str, denoisers: int, scorers: int, seed: int, speculate: bool
) -> tuple[dict[str, Any], int]:
    """The row of one search, and the NFE wasted."""
    stochastic, arguments = POLICIES[policy]
    replicas = [Steady(f"d{i}", "denoiser", f"n{i // 8}") for i in range(denoisers)]
    scoring = [FakeReplica(f"s{i}", "scorer", f"n{i // 8}", seconds=LOOKS[needs]) for i in range(scorers)]
    fleet = FakeFleet(replicas=[*replicas, *scoring, FakeReplica("e", "encoder", slots=8, seconds=0.01)])
    config = configuration.build(
        {
            "model": {"path": "fake"},
            "sampler": {"num_steps": STEPS},
            "policy": {"name": policy, **arguments},
            "prompts": ["one"],
            "seeds": [seed],
            "fleet": {"speculate": speculate, "denoisers": {"replicas": denoisers}},
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        backend = FakeBackend(fleet, needs=needs, stochastic=stochastic)
        progress = run_virtual(Session(config, backend, run_dir=Path(scratch) / "run", clock=virtual_now).run())
        (row,) = pq.read_table(Path(scratch) / "run" / "searches.parquet").to_pylist()
    assert progress.engine is not None
    return row, progress.engine.speculation.wasted


def measured(policy: str, needs: str, denoisers: int, scorers: int, seeds: int) -> tuple[float, float, float, float]:
    """Means over seeds: the latency without and with speculation, the NFE run, and the NFE wasted."""
    sums = [0.0] * 4
    for seed in range(seeds):
        (plain, none), (ahead, wasted) = (
            searched(policy, needs, denoisers, scorers, seed, speculate) for speculate in (False, True)
        )
        same = ("winner", "reward_search", "nfe", "decodes", "reward_calls", "nfe_spent")
        assert none == 0 and all(plain[k] == ahead[k] for k in same), (plain, ahead)
        for i, value in enumerate((plain["wall_seconds"], ahead["wall_seconds"], plain["nfe_spent"], wasted)):
            sums[i] += value / seeds
    return sums[0], sums[1], sums[2], sums[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--denoisers", type=int, nargs="*", default=[2, 6, 8, 64])
    parser.add_argument("--seeds", type=int, default=5)
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    for needs, look in LOOKS.items():
        rows = []
        for policy in POLICIES:
            for n in args.denoisers:
                off, on, nfe, wasted = measured(policy, needs, n, max(n // 6, 1), args.seeds)
                many = measured(policy, needs, n, n, args.seeds)
                cells = [f"{off:.1f}", f"{on:.1f}", f"{on / off:.2f}", f"{nfe:.0f}", f"{wasted:.0f}"]
                rows.append([policy, str(n), *cells, f"{many[1] / many[0]:.2f}"])
        head = "policy | denoisers | latency | ahead | ratio | NFE run | NFE wasted | ratio, a scorer for each denoiser"
        report.table(f"look_{look:g}", head, rows)


if __name__ == "__main__":
    main()
