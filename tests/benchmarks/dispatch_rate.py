"""How many items a second the scheduler and the dispatcher can hand out.

    python tests/benchmarks/dispatch_rate.py

On Ray: items through the dispatcher to actors that do nothing, against a bare asyncio loop that makes the same calls
(two returns, the first awaited), as many in flight, in turns; the ratio of rates is to be at least 0.8. On fakes that
answer in the next turn of the loop, with no Ray: at least 20,000 items a second. Rates are by the clock and, since a
busy machine takes the processor away, by the time this process had it.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from bench import Report, cluster, json_option, paired, spread

from actors.cluster.fleet import RayReplica
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.protocol import Answer, Call, Denoise, Denoised, Replica
from raysearch.testing import fake_sampler

CALL = Call(Denoise(fake_sampler(), b"", 0, 1), {"text": None, "negative": None})
DONE = Answer(Denoised(0, 0.0, 0))


@dataclass
class Instant:
    """A replica that answers in the next turn of the loop."""

    id: str
    node: str
    slots: int = 1
    kind: str = "denoiser"
    ahead: int = 1

    async def run(self, call: Call) -> Answer:
        await asyncio.sleep(0)
        return DONE

    async def ping(self) -> None: ...

    async def restart(self) -> None: ...


class Idle:
    """An actor that does nothing."""

    @ray.method(num_returns=2)
    async def run(self, item: int, request: Any, names: tuple[str, ...], *inputs: Any) -> tuple[Any, Any]:
        return DONE.reply, None


async def timed(n: int, in_flight: int, one: Callable[[int], Coroutine[Any, Any, Any]]) -> tuple[float, float]:
    """Seconds of the clock and of the processor for `one(i)`, i < n, `in_flight` at a time."""
    left = iter(range(n))

    async def some() -> None:
        for i in left:
            await one(i)

    clock, processor = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(some())
    return time.perf_counter() - clock, time.process_time() - processor


async def dispatched(replicas: list[Replica], n: int, in_flight: int) -> tuple[float, float]:
    """The same through a dispatcher: searches of different ages, half of the items with a place they prefer."""
    async with Dispatcher.open(replicas) as d:
        places = [r.id for r in replicas] + [""] * len(replicas)
        return await timed(n, in_flight, lambda i: d.submit(CALL, age=i % 7, place=places[i % len(places)]))


def on_fakes(n: int, repeats: int) -> list[list[str]]:
    rows = []
    for replicas, slots, in_flight in ((1, 1, 64), (8, 8, 128), (64, 1, 256), (512, 1, 2048)):
        fakes: list[Replica] = [Instant(f"d{i}", f"n{i // 8}", slots) for i in range(replicas)]
        rates = n / np.array([asyncio.run(dispatched(fakes, n, in_flight)) for _ in range(repeats)])
        name = f"fakes, {replicas} x {slots} slots, {in_flight} in flight"
        rows.append([name, *(spread(r, "{:,.0f}") for r in rates.T), "20,000"])
    return rows


async def on_ray(n: int, in_flight: int, actors: int, repeats: int) -> list[list[str]]:
    handles = [ray.remote(Idle).options(num_cpus=0.1, max_concurrency=1000).remote() for _ in range(actors)]
    replicas: list[Replica] = [
        RayReplica(f"d{i}", "denoiser", in_flight // actors, list, None, "node", actors=[h])
        for i, h in enumerate(handles)
    ]

    async def bare_call(i: int) -> None:
        made = handles[i % actors].run.remote(i, CALL.request, tuple(CALL.inputs), *CALL.inputs.values())
        await made[0]

    async def bare() -> float:
        return (await timed(n, in_flight, bare_call))[0]

    async def ours() -> float:
        return (await dispatched(replicas, n, in_flight))[0]

    a, b = await paired(repeats, ours, bare)
    return [
        [
            f"Ray, {actors} actors, {in_flight} in flight",
            spread(n / b, "{:,.0f}"),
            spread(n / a, "{:,.0f}"),
            spread(b / a),
            "0.80",
        ]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="items on fakes")
    parser.add_argument("--ray-n", type=int, default=3_000, help="items on Ray; 0 leaves Ray out")
    parser.add_argument("--in-flight", type=int, default=64, help="on Ray")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    report.table(
        "fakes",
        "items a second: median, least, most | by the clock | of processor time | at least",
        on_fakes(args.n, args.repeats),
    )
    if args.ray_n:
        with cluster(num_cpus=2):
            rows = asyncio.run(on_ray(args.ray_n, args.in_flight, args.actors, args.repeats))
        report.table("ray", "items a second: median, least, most | bare loop | dispatcher | ratio | at least", rows)


if __name__ == "__main__":
    main()
