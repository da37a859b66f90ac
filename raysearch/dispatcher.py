"""Items to slots, results to waiters: every item is resolved on every path, with a result, an error or cancellation.

The scheduler decides; this does. An item is run by the task that asked for it, which waits here for a seat; whenever a
slot or an item appears the scheduler is asked again, so there are no timers. An item whose replica died goes back to
the queue and from then on runs alone; only deaths while alone count against it, so that a poisonous item cannot take
others down with it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from raysearch.errors import NoReplica, PoisonousItem, RaysearchError, ReplicaDied
from raysearch.scheduler import Scheduler, Seat, Work

DEATHS = 3  # of replicas on which an item ran alone, until it is given up


@dataclass(frozen=True)
class Call:
    """One piece of work for a replica: the name of its method, small arguments, and references that it reads."""

    method: str
    arguments: dict[str, Any]
    inputs: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a replica returns: small metadata, and a reference to the big part (which the driver need not pull)."""

    meta: dict[str, Any]
    ref: Any = None


class Replica(Protocol):
    """One worker. Ray hides behind this; fakes are in `raysearch.testing`."""

    id: str
    kind: str  # "denoiser", "scorer" or "encoder"
    node: str
    slots: int

    async def run(self, call: Call) -> Answer:
        """Raises ReplicaDied, InputLost, or the error of the call. Cancelling it frees the slot soon."""
        ...

    async def restart(self) -> None:
        """Come back from death. Raises ReplicaDied when that cannot be."""
        ...


@dataclass
class Tally:
    """How busy the fleet is, by kind."""

    slots: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    deaths: int = 0


class Dispatcher:
    """Use as `async with Dispatcher.open(replicas) as d: await d.submit(...)`."""

    def __init__(self, replicas: Sequence[Replica], tasks: asyncio.TaskGroup) -> None:
        self.tally = Tally()
        self._tasks = tasks
        self._replicas = {r.id: r for r in replicas}
        self._scheduler = Scheduler()
        self._grants: dict[int, asyncio.Future[Seat]] = {}  # of the waiting items
        self._revivals: set[asyncio.Task[None]] = set()
        self._next_id = 0
        self._alive: dict[str, int] = {}
        for r in replicas:
            self._alive[r.kind] = self._alive.get(r.kind, 0) + 1
            self.tally.slots[r.kind] = self.tally.slots.get(r.kind, 0) + r.slots
            self.tally.busy[r.kind] = 0
            self._scheduler.open(Seat(r.id, r.kind, r.node, r.slots))

    @classmethod
    @asynccontextmanager
    async def open(cls, replicas: Sequence[Replica]) -> AsyncIterator["Dispatcher"]:
        async with asyncio.TaskGroup() as tasks:
            dispatcher = cls(replicas, tasks)
            yield dispatcher
            for task in dispatcher._revivals:
                task.cancel()

    def waiting(self) -> dict[str, int]:
        """The depth of the queue, by kind."""
        return self._scheduler.depth()

    async def submit(self, kind: str, call: Call, *, age: int, place: str = "") -> Answer:
        """Run `call` on a replica of `kind`; older `age` goes first. Cancelling this cancels the item."""
        work = Work(self._next_id, kind, age, place)
        self._next_id += 1
        deaths = 0
        while True:
            seat = await self._seat(work)
            try:
                return await self._replicas[seat.id].run(call)
            except ReplicaDied as death:
                self._bury(seat)
                deaths += work.alone
                if deaths >= DEATHS:
                    raise PoisonousItem(
                        f"{call.method}: {deaths} replicas died while it ran alone ({death})"
                    ) from death
                work = replace(work, place="", alone=True)
            finally:
                self.tally.busy[kind] -= 1
                self._scheduler.release(seat)
                self._pump()

    async def _seat(self, work: Work) -> Seat:
        if not self._alive.get(work.kind):
            raise NoReplica(f"no {work.kind} is left")
        grant: asyncio.Future[Seat]
        grant = self._grants[work.id] = asyncio.get_running_loop().create_future()
        self._scheduler.add(work)
        self._pump()
        try:
            return await grant
        except asyncio.CancelledError:
            if grant.done() and not grant.cancelled():  # granted and cancelled in the same turn of the loop
                self.tally.busy[work.kind] -= 1
                self._scheduler.release(grant.result())
                self._pump()
            raise
        finally:
            self._grants.pop(work.id, None)
            self._scheduler.remove(work.id)

    def _pump(self) -> None:
        for work, seat in self._scheduler.assign():
            grant = self._grants[work.id]
            if grant.done():  # cancelled, and its waiter has not run yet
                self._scheduler.release(seat)
                continue
            self.tally.busy[work.kind] += 1
            grant.set_result(seat)

    def _bury(self, seat: Seat) -> None:
        """Take a dead replica out of service, once, and try to bring it back."""
        if self._scheduler.shut(seat):
            self.tally.deaths += 1
            self._revivals.add(self._tasks.create_task(self._revive(self._replicas[seat.id])))

    async def _revive(self, replica: Replica) -> None:
        try:
            await replica.restart()
        except RaysearchError as error:
            self._alive[replica.kind] -= 1
            self.tally.slots[replica.kind] -= replica.slots
            if not self._alive[replica.kind]:
                for work_id in self._scheduler.waiting(replica.kind):
                    self._scheduler.remove(work_id)
                    if not self._grants[work_id].done():
                        self._grants[work_id].set_exception(NoReplica(f"no {replica.kind} is left ({error})"))
        else:
            self._scheduler.open(Seat(replica.id, replica.kind, replica.node, replica.slots))
            self._pump()
        finally:
            self._revivals.discard(asyncio.current_task())
