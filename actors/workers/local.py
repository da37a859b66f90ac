"""The same workers without Ray, in this process: tests, notebooks, one machine with one device."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import diffusers
import transformers
from torch.distributed import Store  # type: ignore[attr-defined]

from actors.workers import memory
from actors.workers.denoiser import Denoiser
from actors.workers.encoder import Encoder
from actors.workers.gang import Gang, Place
from actors.workers.pulse import Pulse
from actors.workers.scorer import Scorer
from raysearch.config.config import Config, PoolConfig
from raysearch.engine.dispatcher import Answer, Call
from raysearch.errors import ReplicaDied
from raysearch.session.plan import Plan
from raysearch.session.snapshot import Snapshot

KINDS = ("denoiser", "scorer", "encoder")


def build(kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> Denoiser | Scorer | Encoder:
    """The worker of one replica, with its model loaded; a sharded denoiser's leads its `gang`."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder, dtype = plan.details["folder"], config.model.dtype
    pool: PoolConfig = getattr(config.fleet, f"{kind}s")
    if kind == "denoiser":
        return Denoiser(folder, dtype=dtype, device=pool.device, slots=pool.slots, gang=gang)
    if kind == "scorer":
        return Scorer(folder, plan.details["rewards"], dtype=dtype, device=pool.device)
    return Encoder(folder, dtype=dtype, device=pool.device)


def shard(config: Config, plan: Plan, place: Place, store: Store | None = None) -> Gang:
    """One rank of a denoiser's gang, with its part of the model loaded, once all ranks have theirs."""
    folder, dtype, pool = plan.details["folder"], config.model.dtype, config.fleet.denoisers
    return Gang(folder, dtype=dtype, device=pool.device, pool=pool, place=place, store=store)


class Worker:
    """A worker and its one compute thread; `submit` never blocks."""

    def __init__(self, kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> None:
        self._worker = build(kind, config, plan, gang)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.pulse = self._worker.pulse if isinstance(self._worker, Denoiser) else Pulse()

    def submit(self, item: int, method: str, arguments: dict[str, Any], inputs: tuple[Any, ...]) -> "Future[Any]":
        """Resolves to (metadata, payload)."""
        if isinstance(self._worker, Denoiser):
            return self._worker.submit(item, arguments, inputs)
        return self._thread.submit(self._call, method, arguments, inputs)

    def _call(self, method: str, arguments: dict[str, Any], inputs: tuple[Any, ...]) -> Any:
        with self.pulse.beat(), memory.guarded():
            return getattr(self._worker, method)(arguments, *inputs)

    def cancel(self, item: int) -> None:
        if isinstance(self._worker, Denoiser):
            self._worker.cancel(item)

    def close(self) -> None:
        self._thread.shutdown()
        if isinstance(self._worker, Denoiser):
            self._worker.close()


@dataclass
class LocalReplica:
    id: str
    kind: str
    slots: int
    worker: Worker
    node: str = "local"
    ahead: int = 0
    _items: int = 0

    async def run(self, call: Call) -> Answer:
        self._items += 1
        item = self._items
        try:
            future = self.worker.submit(item, call.method, call.arguments, call.inputs)
            meta, payload = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.worker.cancel(item)
            raise
        return Answer(meta, payload)

    async def ping(self) -> None:
        """It is there as long as this process is."""

    async def restart(self) -> None:
        raise ReplicaDied(f"{self.id} runs in this process")


@dataclass
class LocalFleet:
    replicas: list[LocalReplica] = field(default_factory=list)

    async def arrivals(self) -> AsyncIterator[LocalReplica]:
        return
        yield

    async def fetch(self, ref: Any) -> dict[str, Any]:
        return dict(ref)

    def put(self, value: dict[str, Any]) -> Any:
        return value

    def publish(self, snapshot: Snapshot) -> None:
        """Metrics are Ray's; there is status.json here."""


@asynccontextmanager
async def local_fleet(config: Config, plan: Plan, make: Callable[..., Worker] = Worker) -> AsyncIterator[LocalFleet]:
    """The fewest replicas that the config asks for."""
    fleet = LocalFleet()
    try:
        for kind in KINDS:
            pool: PoolConfig = getattr(config.fleet, f"{kind}s")
            for i in range(pool.fewest):
                fleet.replicas.append(LocalReplica(f"{kind}-{i}", kind, pool.slots, make(kind, config, plan)))
        yield fleet
    finally:
        for r in fleet.replicas:
            await asyncio.to_thread(r.worker.close)
