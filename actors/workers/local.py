"""A fleet without Ray: the workers run in this process. For tests, notebooks, and a machine with one device."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from actors.workers.conditions import condition, plain
from actors.workers.state import State
from actors.workers.worker import Worker
from raysearch.config.config import Config
from raysearch.config.fleet import PoolConfig
from raysearch.engine.protocol import Answer, Call, Text, Whole
from raysearch.errors import ReplicaDied, told
from raysearch.session.plan import Plan
from raysearch.threads import Lane

CLOSING_S = 5.0  # seconds that a call may still take when a run ends; then its thread is left behind
KINDS = ("scorer", "denoiser", "encoder")  # scorers first: a reward that fails is found before more is loaded


@dataclass
class LocalReplica:
    """A worker in this process as the engine's `Replica`."""

    id: str
    kind: str
    slots: int
    worker: Worker
    make: Callable[[], Worker]  # another worker, for one that hangs
    timeout: float  # fleet.timeout_s
    node: str = "local"
    ahead: int = 0
    _items: int = 0

    async def run(self, call: Call) -> Answer:
        """The worker's answer to a call, or the worker's error. Cancelling this frees a denoiser's slot.

        Raises ReplicaDied if a step or call of the worker takes longer than fleet.timeout_s.
        """
        self._items += 1
        item, worker = self._items, self.worker
        answer = asyncio.wrap_future(worker.submit(item, call.request, call.inputs))
        try:
            while not answer.done():
                left = worker.pulse.left(self.timeout)
                if left <= 0:
                    raise ReplicaDied(f"{self.id} has hung for {self.timeout:g} s (fleet.timeout_s)")
                await asyncio.wait([answer], timeout=left)
        except (asyncio.CancelledError, ReplicaDied):
            answer.cancel()
            worker.cancel(item)
            raise
        try:
            reply, made = answer.result()
        except Exception as error:
            if worker is not self.worker:  # which was abandoned, as another of its calls has hung
                raise ReplicaDied(f"{self.id} was started anew") from error
            raise
        return Answer(reply, made)

    async def ping(self) -> None:
        """Return at once: the replica lives as long as this process."""

    async def restart(self) -> None:
        """Leave the worker that hangs behind, and start another. Raises ReplicaDied if that fails."""
        self.worker.abandon()
        try:
            self.worker = await begun(self.make)
        except Exception as error:
            raise ReplicaDied(f"{self.id} does not start: {told(error)}") from error


@dataclass
class LocalFleet:
    """The replicas in this process as the engine's `Fleet`; a reference is the value itself."""

    replicas: list[LocalReplica] = field(default_factory=list)

    async def arrivals(self) -> AsyncIterator[LocalReplica]:
        """No replicas: a local fleet does not grow."""
        return
        yield

    async def fetch(self, ref: Any) -> dict[str, Any]:
        """The arrays of a finished state or of a condition by name, or the files of a video by extension."""
        return plain(ref)

    def put(self, arrays: dict[str, Any]) -> State:
        """The finished state that consists of these arrays."""
        return State(**arrays)

    def condition(self, what: Text | Whole, arrays: dict[str, Any]) -> Any:
        """The condition of these arrays."""
        return condition(what, arrays)

    async def release(self, kind: str) -> None:
        """End the workers of a kind, and let go of their models."""
        ended = [r for r in self.replicas if r.kind == kind]
        self.replicas = [r for r in self.replicas if r.kind != kind]
        for r in ended:
            await asyncio.to_thread(r.worker.close, CLOSING_S)
            r.worker.abandon()


async def begun(start: Callable[[], Worker]) -> Worker:
    """The worker that `start` returns, which runs in another thread, so that Ctrl-C ends one that never returns."""
    return await asyncio.wrap_future(Lane("start").submit(start))


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
                start = partial(make, kind, config, plan)
                worker = await begun(start)
                timeout = config.fleet.timeout_s
                fleet.replicas.append(LocalReplica(f"{kind}-{i}", kind, pool.slots, worker, start, timeout))
        yield fleet
    finally:
        await asyncio.gather(*(asyncio.to_thread(r.worker.close, CLOSING_S) for r in fleet.replicas))
