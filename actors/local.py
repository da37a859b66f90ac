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

from actors.denoiser import Denoiser
from actors.encoder import Encoder
from actors.gang import Gang, Place
from actors.scorer import Scorer
from raysearch.config import Config, PoolConfig
from raysearch.dispatcher import Answer, Call
from raysearch.errors import ReplicaDied
from raysearch.plan import Plan


def build(kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> Denoiser | Scorer | Encoder:
    """The worker of one replica, with its model loaded; a sharded denoiser's leads its `gang`."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder, dtype = plan.details["folder"], config.model.dtype
    pool: PoolConfig = getattr(config.fleet, f"{kind}s")
    device = "cuda" if pool.num_gpus else "cpu"
    if kind == "denoiser":
        return Denoiser(folder, dtype=dtype, device=device, slots=pool.slots, gang=gang)
    if kind == "scorer":
        return Scorer(folder, plan.details["rewards"], dtype=dtype, device=device)
    return Encoder(folder, dtype=dtype, device=device)


def shard(config: Config, plan: Plan, place: Place, store: Store | None = None) -> Gang:
    """One rank of a denoiser's gang, with its part of the model loaded, once all ranks have theirs."""
    pool = config.fleet.denoisers
    device = "cuda" if pool.num_gpus else "cpu"
    return Gang(plan.details["folder"], dtype=config.model.dtype, device=device, pool=pool, place=place, store=store)


class Worker:
    """A worker and its one compute thread; `submit` never blocks."""

    def __init__(self, kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> None:
        self._worker = build(kind, config, plan, gang)
        self._thread = ThreadPoolExecutor(max_workers=1)

    def submit(self, item: int, method: str, arguments: dict[str, Any], inputs: tuple[Any, ...]) -> "Future[Any]":
        """Resolves to (metadata, payload)."""
        if isinstance(self._worker, Denoiser):
            return self._worker.submit(item, arguments, inputs)
        return self._thread.submit(getattr(self._worker, method), arguments, *inputs)

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
        return Answer(meta | {"place": self.id}, payload)

    async def restart(self) -> None:
        raise ReplicaDied(f"{self.id} runs in this process")


@dataclass
class LocalFleet:
    replicas: list[LocalReplica] = field(default_factory=list)

    async def fetch(self, ref: Any) -> dict[str, bytes]:
        return dict(ref)


def replica_ids(config: Config) -> list[tuple[str, str, PoolConfig]]:
    """(kind, id, pool) of every replica of a config."""
    kinds = ("denoiser", "scorer", "encoder")
    pools: list[PoolConfig] = [getattr(config.fleet, f"{k}s") for k in kinds]
    return [(k, f"{k}-{i}", p) for k, p in zip(kinds, pools, strict=True) for i in range(p.replicas)]


@asynccontextmanager
async def local_fleet(config: Config, plan: Plan, make: Callable[..., Worker] = Worker) -> AsyncIterator[LocalFleet]:
    fleet = LocalFleet()
    try:
        for kind, name, pool in replica_ids(config):
            fleet.replicas.append(LocalReplica(name, kind, pool.slots, make(kind, config, plan)))
        yield fleet
    finally:
        for r in fleet.replicas:
            await asyncio.to_thread(r.worker.close)
