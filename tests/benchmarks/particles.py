"""Many particles through a small store: SMC with ten thousand latents of 1 MB, on real actors.

    python tests/benchmarks/particles.py
    python tests/benchmarks/particles.py --n 1000 --store-gb 0.1 --object-store-gb 0.3

The model is an exact flow over one Gaussian in as many dimensions as make the latent that large; `smc` scores every
particle after each step and resamples. What does not fit the store is made again from its recipe. Printed are peaks of
the driver's memory, of the engine's store and of Ray's, what was spilled to disk (nothing, if memory is bounded), and
how many evaluations were made again.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import ray
from bench import Report, cluster, json_option, search, standing
from grpc import RpcError
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from actors.backend import Backend
from actors.rewards import View
from policies import smc
from raysearch.config import config as configuration


class First:
    """The first coordinate: a reward that costs nothing."""

    components: tuple[str, ...] = ("first",)
    needs: Literal["latent"] = "latent"

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        return np.array([[float(v.latent.flatten()[0])] for v in views])


@dataclass
class Peaks:
    """The most that was seen of each, in bytes."""

    of: dict[str, float] = field(default_factory=dict)

    def see(self, **values: float) -> None:
        for k, v in values.items():
            self.of[k] = max(self.of.get(k, 0.0), float(v))


def memory() -> dict[str, int]:
    """Rss and Pss of this process."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
    return {f"driver {w[0][:-1]}": int(w[1]) * 1024 for w in lines if w[0] in ("Rss:", "Pss:")}


@contextmanager
def sampled(peaks: Peaks, seconds: float = 0.5) -> Iterator[None]:
    over = threading.Event()
    state = get_state_from_address(ray.get_runtime_context().gcs_address)

    def watch() -> None:
        while not over.wait(seconds):
            peaks.see(**memory())
            with suppress(RpcError):  # a busy raylet may hang up; it is asked again
                stats = get_memory_info_reply(state).store_stats
                ours = {"used": stats.object_store_bytes_used, "spilled": stats.spilled_bytes_total}
                peaks.see(**{f"Ray's store, {k}": v for k, v in ours.items()})

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def measure(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    dimensions = int(args.mb * 1e6 / 4)
    model = {"_class_name": "GaussianMixture", "weights": [1.0], "means": [[0] * dimensions], "stds": [1.0]}
    (folder / "model_index.json").write_text(json.dumps(model))
    share = {"num_cpus": 0.1}
    config = configuration.build(
        {
            "model": {"path": str(folder), "height": 1, "width": 1, "num_frames": 1},
            "sampler": {"name": "flow-sde", "num_steps": args.steps, "guidance_scale": 1.0},
            "rewards": {"search": {"name": "particles:First"}},
            "prompts": ["anything"],
            "fleet": {
                "denoisers": {"replicas": args.denoisers, **share},
                "scorers": share,
                "encoders": share,
                "store_gb": args.store_gb,
            },
        }
    )
    async with standing(Backend(), config) as (fleet, plan):
        peaks = Peaks(memory())
        before = peaks.of["driver Pss"]
        began = time.perf_counter()
        with sampled(peaks):
            run = await search(config, plan, fleet, partial(smc.search, n=args.n, strength=3.0), fleet.replicas)
        seconds = time.perf_counter() - began
    rows = [[f"{k}, peak", f"{v / 1e6:,.0f} MB"] for k, v in sorted(peaks.of.items())]
    rows.insert(0, ["driver Pss, before", f"{before / 1e6:,.0f} MB"])
    alone, made, asked = run.context.charged.nfe, run.engine.nfe, len(run.context.history.rows)
    rows += [
        ["engine's store, peak", f"{run.engine.store.most / 1e6:,.0f} MB of {args.store_gb * 1e3:,.0f} MB"],
        ["latents evicted", f"{run.engine.store.evicted:,}"],
        ["scores asked", f"{asked:,}"],
        ["evaluations charged", f"{alone:,}"],
        ["evaluations made", f"{made:,} ({made / alone:.2f} x)"],
        ["seconds", f"{seconds:,.0f} ({made / seconds:,.0f} evaluations/s, {asked / seconds:,.0f} scores/s)"],
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--mb", type=float, default=1.0, help="of a latent")
    parser.add_argument("--steps", type=int, default=5, help="each is a round")
    parser.add_argument("--store-gb", type=float, default=1.0)
    parser.add_argument("--object-store-gb", type=float, default=1.5, help="Ray's own")
    parser.add_argument("--denoisers", type=int, default=2)
    json_option(parser)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(num_cpus=2, object_store_memory=int(args.object_store_gb * 1e9)),
    ):
        rows = asyncio.run(measure(args, Path(folder)))
    Report(args.json).table("particles", f"{args.n:,} particles, {args.steps} rounds | figure", rows)


if __name__ == "__main__":
    main()
