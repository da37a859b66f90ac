"""How much of a fleet many searches keep busy, in virtual time on fakes: RGRP over many prompts.

    python tests/benchmarks/occupancy.py

Denoisers differ in speed by up to a factor of two, and there are prompts for at least `--waves` first legs on each
slot. Printed is the share of slots that were busy until the queue of the denoisers was first empty, which is to be at
least 90%; the same to the end of the run; and with one prompt searched after another, which keeps far fewer busy.

A second table has searches among which an allocator shares a total out, with and without early starts of sure picks.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import Report, json_option

from raysearch.config import config as configuration
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, FakeReplica, run_virtual, virtual_now

ALLOCATED = [  # each allocator, and the same without the mark that lets sure picks start early
    ({"name": "uniform"}, {"name": "sharing_out:patient"}),
    ({"name": "lowest_best"}, {"name": "sharing_out:patient_lowest"}),
    ({"name": "threshold", "enough": 0.9}, {"name": "sharing_out:patient_threshold"}),
]
N, SCHEDULE, STEPS = 6, (2, 5, 8), 12


def fleet(replicas: int, slots: int, seed: int) -> FakeFleet:
    """Denoisers of unequal step times, and scorers and an encoder that are never waited for long."""
    rng = np.random.default_rng(seed)
    denoisers = [FakeReplica(f"d{i}", "denoiser", f"n{i // 8}", slots, rng.uniform(1, 2)) for i in range(replicas)]
    scorers = [FakeReplica(f"s{i}", "scorer", f"n{i // 8}", slots, 0.2) for i in range(replicas)]
    return FakeFleet(replicas=[*denoisers, *scorers, FakeReplica("e", "encoder", "n0", slots=64, seconds=0.001)])


async def watched(session: Session, every: float = 0.5) -> tuple[list[int], list[int]]:
    """Run it; denoisers' busy slots and waiting items, each `every` seconds of virtual time."""
    busy, waiting = [], []

    async def watch() -> None:
        while True:
            await asyncio.sleep(every)
            if d := session.progress.dispatcher:
                busy.append(d.tally.busy["denoiser"])
                waiting.append(d.waiting().get("denoiser", 0))

    async with asyncio.TaskGroup() as tasks:
        watcher = tasks.create_task(watch())
        await session.run()
        watcher.cancel()
    return busy, waiting


def allocated(replicas: int, slots: int, allocation: dict, folder: Path) -> tuple[float, float]:
    """The busy share of slots to the end, and the virtual seconds, of noises that are shared out: four a search."""
    searches = 4 * replicas * slots
    config = configuration.build(
        {
            "model": {"path": "fake"},
            "sampler": {"num_steps": STEPS},
            "policy": {"name": "best_of_n", "n": 12},
            "prompts": [str(i) for i in range(searches)],
            "budget": {"total_nfe": 4 * searches * 2 * STEPS},
            "allocation": allocation,
            "fleet": {"denoisers": {"replicas": replicas, "slots": slots}},
        }
    )
    session = Session(config, FakeBackend(fleet(replicas, slots, seed=0)), run_dir=folder, clock=virtual_now)
    busy, _ = run_virtual(watched(session))
    last = max(i for i, b in enumerate(busy) if b)
    return float(np.mean(busy[: last + 1]) / (replicas * slots)), 0.5 * (last + 1)


def measure(replicas: int, slots: int, prompts: int, max_searches: int | None, folder: Path) -> tuple[float, float]:
    """The busy share of slots until the queue is empty, and to the end."""
    config = configuration.build(
        {
            "model": {"path": "fake"},
            "sampler": {"num_steps": STEPS},
            "policy": {"name": "rgrp", "n": N, "schedule": list(SCHEDULE)},
            "prompts": [str(i) for i in range(prompts)],
            "max_searches": max_searches,
            "fleet": {"denoisers": {"replicas": replicas, "slots": slots}},
        }
    )
    on = fleet(replicas, slots, seed=0)
    session = Session(config, FakeBackend(on), run_dir=folder, clock=virtual_now)
    busy, waiting = run_virtual(watched(session))
    filled = next((i for i, w in enumerate(waiting) if w), 0)
    empty = next((i for i in range(filled, len(waiting)) if not waiting[i]), len(waiting))
    total = replicas * slots
    return float(np.mean(busy[: max(empty, 1)]) / total), float(np.mean(busy) / total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="*", default=[8, 64, 512])
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--waves", type=int, default=20)
    json_option(parser)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for replicas in args.replicas:
            prompts = -(-args.waves * replicas * args.slots // N)
            began = time.perf_counter()
            many = measure(replicas, args.slots, prompts, None, Path(scratch) / f"{replicas}")
            one = measure(replicas, args.slots, max(prompts // 20, 4), 1, Path(scratch) / f"{replicas}-one")
            cells = [f"{x:.1%}" for x in (*many, one[1])]
            seconds = time.perf_counter() - began
            rows.append([str(replicas), str(prompts), cells[0], "90%", cells[1], cells[2], f"{seconds:.0f}"])
    head = "denoisers | prompts | busy until queue empty | at least | to the end | one prompt after another | s"
    report = Report(args.json)
    report.table("occupancy", head, rows)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for early, waiting in ALLOCATED:
            name, n = str(early["name"]), args.replicas[0]
            with_, without = (
                allocated(n, args.slots, a, Path(scratch) / str(a["name"]).replace(":", "-")) for a in (early, waiting)
            )
            rows.append([name, str(n), *(cell for b, s in (with_, without) for cell in (f"{b:.1%}", f"{s:.0f}"))])
    head = "allocation | denoisers | busy | seconds | busy without early starts | seconds"
    report.table("allocation", head, rows)


if __name__ == "__main__":
    main()
