"""Runs items on replicas: every item ends on every path, with a result, an error or its cancellation.

The scheduler decides which item goes where; the dispatcher does it. An item is run by the task that asked for it, which
waits here for a slot. Whenever a slot or an item appears the scheduler is asked again, so there are no timers.

An item whose replica died goes back to the queue and from then on runs alone. Only replicas that die while the item
runs alone count against it, so that a poisonous item cannot take other items down with it. An item for which a replica
had no memory goes back to the queue too, and that replica has fewer slots from then on.

A guess does not wait: it gets a replica that has nothing else to do, or none, and leaves it when an item comes. Once a
search has asked for it, it is an item like others.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from raysearch.engine.protocol import Answer, Call, Replica
from raysearch.engine.scheduler import ReplicaSlots, Scheduler, Work
from raysearch.engine.sharing import Guess, is_open
from raysearch.engine.trace import Listener, Ran
from raysearch.errors import InputLost, NoReplica, OutOfMemory, PoisonousItem, RaysearchError, ReplicaDied


class Displaced(RaysearchError):
    """A guess that has no replica, or has left it to an item."""


ENDS: dict[type[BaseException], str] = {  # how an item ended that raised; any other failed
    ReplicaDied: "died",
    InputLost: "lost",
    OutOfMemory: "memory",
    asyncio.CancelledError: "cancelled",
    Displaced: "cancelled",
}
DEATHS = 3  # replicas that may die, or lack memory, while an item runs alone on them; then the item fails


@dataclass
class Tally:
    """Slots in service and slots that run an item, for each kind of replica; and the replicas that have died."""

    slots: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    deaths: int = 0


@dataclass
class Pace:
    """A number of steps or scores, and the replica-seconds that they took."""

    n: int = 0
    seconds: float = 0.0

    def add(self, n: int, seconds: float) -> None:
        """Count `n` more, which took `seconds` together."""
        self.n += n
        self.seconds += seconds

    @property
    def each(self) -> float | None:
        """The mean replica-seconds of one; None before the first."""
        return self.seconds / self.n if self.n else None


class Dispatcher:
    """Gives items to replicas. Use as `async with Dispatcher.open(replicas) as d: await d.submit(...)`."""

    def __init__(self, replicas: Sequence[Replica], tasks: asyncio.TaskGroup, tell: Listener | None = None) -> None:
        self.tally = Tally()
        self._tasks, self._tell = tasks, tell
        self._replicas = {r.id: r for r in replicas}
        self._scheduler = Scheduler()
        self._grants: dict[int, asyncio.Future[ReplicaSlots]] = {}  # waiting item -> the replica that it will get
        self._revivals: set[asyncio.Task[None]] = set()  # each with its replica's kind as its name
        self._guesses: dict[int, asyncio.Future[Answer]] = {}  # at replicas
        self.spare: Callable[[], None] = lambda: None  # called when replicas may have room for guesses
        self._next_id = 0
        self._alive: dict[str, int] = {}  # kind -> replicas in service or restarting; 0 of a retired kind
        for r in replicas:
            self.join(r)

    @classmethod
    @asynccontextmanager
    async def open(cls, replicas: Sequence[Replica], tell: Listener | None = None) -> AsyncIterator["Dispatcher"]:
        """A dispatcher with these replicas in service; leaving the context stops the restarts that are under way.

        What replicas ran is told to `tell`.

        Raises NoReplica out of the context, whose tasks are cancelled, if all replicas of a kind are gone for good.
        """
        async with asyncio.TaskGroup() as tasks:
            dispatcher = cls(replicas, tasks, tell)
            yield dispatcher
            for task in dispatcher._revivals:
                task.cancel()

    def waiting(self) -> dict[str, int]:
        """The number of waiting items for each kind of replica; a kind without any is missing."""
        return self._scheduler.depth()

    def room(self, kind: str) -> int:
        """How many guesses replicas of the kind have room for, with those that they have."""
        return self._scheduler.room(kind) + self._scheduler.guessing

    def join(self, replica: Replica) -> None:
        """Take a replica into service, now or at any later time; one of a retired kind comes too late."""
        if self._alive.get(replica.kind) == 0:
            return
        self._replicas[replica.id] = replica
        self._alive[replica.kind] = self._alive.get(replica.kind, 0) + 1
        self._open(replica)

    def retire(self, kind: str) -> bool:
        """Take all replicas of a kind out of service for good; False, and none is, while an item needs one."""
        if self.tally.busy.get(kind) or self.waiting().get(kind):
            return False
        self._alive[kind] = self.tally.slots[kind] = 0
        for slots in [r for r in self._scheduler.replicas.values() if r.kind == kind]:
            self._scheduler.shut(slots)
            self._displace(slots)
        for task in [t for t in self._revivals if t.get_name() == kind]:
            task.cancel()
        return True

    async def submit(
        self, call: Call, *, age: int, place: str = "", avoid: str = "", guess: Guess | None = None
    ) -> Answer:
        """The answer of a replica of the request's kind. Cancelling this coroutine cancels the item.

        The item with the lowest `age` goes first. `place` is where its input was made. With `avoid` the item runs
        alone, and at that place only if no other replica of the kind is in service. Raises PoisonousItem or OutOfMemory
        if the item failed DEATHS times while it ran alone, NoReplica if the kind is retired or was never there, and
        what the call itself raises. A `guess` that nobody has asked for yet is given up for any reason: Displaced if it
        is for want of a replica.
        """
        kind = call.request.kind
        if not self._alive.get(kind):
            raise NoReplica(f"{call.name}: no {kind} is left: none was foreseen; fleet.{kind}s.cache=false keeps one")
        work = Work(self._next_id, kind, age, place, alone=bool(avoid), avoid=avoid)
        self._next_id += 1
        deaths = shortages = 0
        while True:
            asked = asyncio.get_running_loop().time()
            if guess is not None and guess.age is not None:
                work = replace(work, age=min(work.age, guess.age))
            granted = self._guess(work, guess) if guess is not None and is_open(guess) else await self._slot(work)
            replica, began = self._replicas[granted.id], False
            try:
                if work.alone:  # an idle replica may have died with its node; that death is not the item's doing
                    await replica.ping()
                began = True
                run = replica.run(call) if guess is None else self._interruptible(work.id, replica.run(call))
                return replace(await self._run(run, call, granted, age, asked, guess), place=granted.place)
            except Displaced:
                if is_open(guess):
                    raise
            except ReplicaDied as death:
                self._bury(granted)
                if is_open(guess):
                    raise
                deaths += work.alone and began
                if deaths >= DEATHS:
                    raise PoisonousItem(f"{call.name}: {deaths} replicas died while it ran alone ({death})") from death
                work = replace(work, place="", alone=True)
            except OutOfMemory as error:
                if is_open(guess):
                    raise
                shortages += work.alone
                if shortages >= DEATHS:
                    raise OutOfMemory(f"{call.name}: {error}, {shortages} times while it ran alone") from error
                running = granted.running
                work = replace(work, alone=work.alone or running == 1)
                self.tally.slots[kind] -= self._scheduler.shrink(granted)
                self.tally.busy[kind] -= running - granted.running
            finally:
                self._release(granted, work.id)

    async def _run(
        self,
        run: Coroutine[Any, Any, Answer],
        call: Call,
        granted: ReplicaSlots,
        age: int,
        asked: float,
        guess: Guess | None,
    ) -> Answer:
        """Run an item at a replica, and tell what became of it."""
        now, busy = asyncio.get_running_loop().time, granted.busy or len(granted.guesses)
        began, reply, how = now(), None, "failed"
        try:
            answer = await run
            reply, how = answer.reply, "done"
            return answer
        except BaseException as error:
            how = next((name for kind, name in ENDS.items() if isinstance(error, kind)), how)
            raise
        finally:
            if guess is not None and guess.age is None and how != "done":
                guess.vain += now() - began
            if self._tell is not None:
                self._tell(Ran(call, age, granted.id, granted.node, busy, asked, began, now(), reply, how))

    def _guess(self, work: Work, guess: Guess) -> ReplicaSlots:
        """A replica that has nothing else to do. Raises Displaced if there is none."""
        granted = self._scheduler.guess(work, guess.order)
        if granted is None:
            raise Displaced("no replica is idle")

        def confirm() -> None:
            if self._scheduler.confirm(granted, work.id):
                self.tally.busy[work.kind] += granted.busy <= granted.slots
                # Others leave it, but for those that come true in the same turn of the loop.
                asyncio.get_running_loop().call_soon(self._displace, granted)

        guess.asked = confirm
        return granted

    async def _interruptible(self, work_id: int, run: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a guess until it is done, cancelled, or to leave its replica."""
        running = self._guesses[work_id] = asyncio.ensure_future(run)
        try:
            return await running
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Displaced("an item needs its replica") from None
        finally:
            del self._guesses[work_id]

    def _displace(self, granted: ReplicaSlots) -> None:
        for work_id in granted.guesses:
            if (running := self._guesses.get(work_id)) is not None:
                running.cancel()

    async def _slot(self, work: Work) -> ReplicaSlots:
        """Wait for a slot; returns the replica that has it."""
        grant: asyncio.Future[ReplicaSlots]
        grant = self._grants[work.id] = asyncio.get_running_loop().create_future()
        self._scheduler.add(work)
        self._pump()
        try:
            return await grant
        except asyncio.CancelledError:
            if grant.done() and not grant.cancelled():  # granted and cancelled in the same turn of the loop
                self._release(grant.result(), work.id)
            raise
        finally:
            self._grants.pop(work.id, None)
            if self._scheduler.remove(work.id):  # a replica may have been kept free for it
                self._pump()

    def _pump(self) -> None:
        """Give the free slots to waiting items."""
        for work, granted in self._scheduler.assign():
            grant = self._grants[work.id]
            if grant.done():  # cancelled, and its waiter has not run yet
                self._scheduler.release(granted)
                continue
            self.tally.busy[work.kind] += granted.busy <= granted.slots
            self._displace(granted)
            grant.set_result(granted)
        self.spare()

    def _open(self, replica: Replica) -> None:
        self.tally.slots[replica.kind] = self.tally.slots.get(replica.kind, 0) + replica.slots
        self.tally.busy.setdefault(replica.kind, 0)
        slots = ReplicaSlots(replica.id, replica.kind, replica.node, replica.slots, ahead=replica.ahead)
        self._scheduler.open(slots)
        self._pump()

    def _release(self, granted: ReplicaSlots, work_id: int) -> None:
        if not self._scheduler.leave(granted, work_id):
            self.tally.busy[granted.kind] -= granted.busy <= granted.slots
            self._scheduler.release(granted)
        self._pump()

    def _bury(self, dead: ReplicaSlots) -> None:
        """Take a dead replica out of service, once, and restart it; meanwhile the other replicas do its work."""
        if self._scheduler.shut(dead):
            self.tally.deaths += 1
            self.tally.slots[dead.kind] -= dead.slots
            self._revivals.add(self._tasks.create_task(self._revive(self._replicas[dead.id]), name=dead.kind))

    async def _revive(self, replica: Replica) -> None:
        """Restart a dead replica; if the last of its kind cannot restart, the fleet is gone, and with it the run.

        Raises NoReplica, which ends whatever runs within `Dispatcher.open`: no item and no search is to blame.
        """
        try:
            await replica.restart()
        except RaysearchError as error:
            self._alive[replica.kind] -= 1
            if not self._alive[replica.kind]:
                raise NoReplica(f"no {replica.kind} is left ({error})") from error
        else:
            self._open(replica)
        finally:
            self._revivals.discard(asyncio.current_task())
