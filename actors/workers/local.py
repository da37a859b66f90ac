"""The same workers without Ray, in this process: tests, notebooks, one machine with one device."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.workers.state import State
from actors.workers.worker import Worker
from raysearch.config.config import Config, PoolConfig
from raysearch.engine.protocol import Answer, Call
from raysearch.errors import ReplicaDied
from raysearch.session.plan import Plan

KINDS = ("denoiser", "scorer", "encoder")


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
            reply, made = await asyncio.wrap_future(self.worker.submit(item, call.request, call.inputs))
        except asyncio.CancelledError:
            self.worker.cancel(item)
            raise
        return Answer(reply, made)

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
        return ref.plain() if isinstance(ref, State) else dict(ref)

    def put(self, arrays: dict[str, Any]) -> State:
        return State(**arrays)


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
