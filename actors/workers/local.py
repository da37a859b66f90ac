"""A fleet without Ray: the workers run in this process. For tests, notebooks, and a machine with one device."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.workers.state import State
from actors.workers.worker import Worker
from raysearch.config.config import Config
from raysearch.config.fleet import PoolConfig
from raysearch.engine.protocol import Answer, Call
from raysearch.errors import ReplicaDied
from raysearch.session.plan import Plan

KINDS = ("scorer", "denoiser", "encoder")  # scorers first: a reward that fails is found before more is loaded


@dataclass
class LocalReplica:
    """A worker in this process as the engine's `Replica`."""

    id: str
    kind: str
    slots: int
    worker: Worker
    node: str = "local"
    ahead: int = 0
    _items: int = 0

    async def run(self, call: Call) -> Answer:
        """The worker's answer to a call, or the worker's error. Cancelling this frees a denoiser's slot."""
        self._items += 1
        item = self._items
        try:
            reply, made = await asyncio.wrap_future(self.worker.submit(item, call.request, call.inputs))
        except asyncio.CancelledError:
            self.worker.cancel(item)
            raise
        return Answer(reply, made)

    async def ping(self) -> None:
        """Return at once: the replica lives as long as this process."""

    async def restart(self) -> None:
        """Raises ReplicaDied, since a worker in this process cannot be started again."""
        raise ReplicaDied(f"{self.id} runs in this process")


@dataclass
class LocalFleet:
    """The replicas in this process as the engine's `Fleet`; a reference is the value itself."""

    replicas: list[LocalReplica] = field(default_factory=list)

    async def arrivals(self) -> AsyncIterator[LocalReplica]:
        """No replicas: a local fleet does not grow."""
        return
        yield

    async def fetch(self, ref: Any) -> dict[str, Any]:
        """The arrays of a finished state by name, or the files of a video by extension."""
        return ref.plain() if isinstance(ref, State) else dict(ref)

    def put(self, arrays: dict[str, Any]) -> State:
        """The finished state that consists of these arrays."""
        return State(**arrays)


@asynccontextmanager
async def local_fleet(config: Config, plan: Plan, make: Callable[..., Worker] = Worker) -> AsyncIterator[LocalFleet]:
    """A fleet of as many replicas of each kind as the config asks for at least, with their models loaded.

    `make` builds a worker. When the context ends, so do the workers.
    """
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
