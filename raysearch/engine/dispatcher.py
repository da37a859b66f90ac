"""Items to slots, results to waiters: every item is resolved on every path, with a result, an error or cancellation.

The scheduler decides; this does. An item is run by the task that asked for it, which waits here for a seat; whenever a
slot or an item appears the scheduler is asked again, so there are no timers. An item whose replica died goes back to
the queue and from then on runs alone; only deaths while alone count against it, so that a poisonous item cannot take
others down with it. One for which a replica has no memory goes back too, and fewer run there from then on.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from raysearch.engine.protocol import Answer, Call, Replica
from raysearch.engine.scheduler import Scheduler, Seat, Work
from raysearch.errors import NoReplica, OutOfMemory, PoisonousItem, RaysearchError, ReplicaDied

DEATHS = 3  # of replicas on which an item ran alone, until it is given up


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
            self.join(r)

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

    def join(self, replica: Replica) -> None:
        """Take a replica into service, now or at any later time."""
        self._replicas[replica.id] = replica
        self._alive[replica.kind] = self._alive.get(replica.kind, 0) + 1
        self._open(replica)

    async def submit(self, call: Call, *, age: int, place: str = "", avoid: str = "") -> Answer:
        """Run `call` on a replica of its request's kind; older `age` goes first. Cancelling this cancels the item.

        With `avoid` it runs alone, and not at that place if there is another.
        """
        kind = call.request.kind
        work = Work(self._next_id, kind, age, place, alone=bool(avoid), avoid=avoid)
        self._next_id += 1
        deaths = shortages = 0
        while True:
            seat = await self._seat(work)
            replica, began = self._replicas[seat.id], False
            try:
                if work.alone:  # what died with the last one, idle ones on its node too, this item did not kill
                    await replica.ping()
                began = True
                return replace(await replica.run(call), place=seat.place)
            except ReplicaDied as death:
                self._bury(seat)
                deaths += work.alone and began
                if deaths >= DEATHS:
                    raise PoisonousItem(f"{call.name}: {deaths} replicas died while it ran alone ({death})") from death
                work = replace(work, place="", alone=True)
            except OutOfMemory as error:
                shortages += work.alone
                if shortages >= DEATHS:
                    raise OutOfMemory(f"{call.name}: {error}, {shortages} times while it ran alone") from error
                running = seat.running
                work = replace(work, alone=work.alone or running == 1)
                self.tally.slots[kind] -= self._scheduler.shrink(seat)
                self.tally.busy[kind] -= running - seat.running
            finally:
                self._release(seat)

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
                self._release(grant.result())
            raise
        finally:
            self._grants.pop(work.id, None)
            if self._scheduler.remove(work.id):  # a replica may have been kept free for it
                self._pump()

    def _pump(self) -> None:
        for work, seat in self._scheduler.assign():
            grant = self._grants[work.id]
            if grant.done():  # cancelled, and its waiter has not run yet
                self._scheduler.release(seat)
                continue
            self.tally.busy[work.kind] += seat.busy <= seat.slots
            grant.set_result(seat)

    def _open(self, replica: Replica) -> None:
        self.tally.slots[replica.kind] = self.tally.slots.get(replica.kind, 0) + replica.slots
        self.tally.busy.setdefault(replica.kind, 0)
        self._scheduler.open(Seat(replica.id, replica.kind, replica.node, replica.slots, ahead=replica.ahead))
        self._pump()

    def _release(self, seat: Seat) -> None:
        self.tally.busy[seat.kind] -= seat.busy <= seat.slots
        self._scheduler.release(seat)
        self._pump()

    def _bury(self, seat: Seat) -> None:
        """Take a dead replica out of service, once, and try to bring it back; meanwhile the others do its work."""
        if self._scheduler.shut(seat):
            self.tally.deaths += 1
            self.tally.slots[seat.kind] -= seat.slots
            self._revivals.add(self._tasks.create_task(self._revive(self._replicas[seat.id])))

    async def _revive(self, replica: Replica) -> None:
        try:
            await replica.restart()
        except RaysearchError as error:
            self._alive[replica.kind] -= 1
            if not self._alive[replica.kind]:
                for work_id in self._scheduler.waiting(replica.kind):
                    self._scheduler.remove(work_id)
                    if not self._grants[work_id].done():
                        self._grants[work_id].set_exception(NoReplica(f"no {replica.kind} is left ({error})"))
        else:
            self._open(replica)
        finally:
            self._revivals.discard(asyncio.current_task())
