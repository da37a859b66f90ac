"""Which waiting item goes to which free slot: synchronous and pure, no clock, no device.

The item of the oldest search goes first. Among free slots it prefers the replica that made its input, then a replica on
the same node, then the replica with the most free slots; no slot stays free while an item of its kind waits.

Where no slot is free, an item may be handed to a replica ahead of time, so that the replica starts it as soon as a slot
empties. From there no other replica can take the item, so this happens only while at least as many items wait as there
are slots.

An item whose replica died runs alone: the replica with the fewest items takes no new item until it is empty.

A guess, an item that nobody has asked for, goes only to a replica that holds no other item, and occupies no slot: it
makes room as soon as an item is given to its replica.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass(frozen=True)
class Work:
    """An item that waits for a slot."""

    id: int
    kind: str  # of replica: "denoiser", "scorer" or "encoder"
    age: int  # of its search: the lowest goes first
    place: str = ""  # where its input was made; empty without an input
    alone: bool = False  # needs a replica that runs no other item
    avoid: str = ""  # with `alone`: a place to run at only if no other replica of the kind is in service


@dataclass(eq=False)
class ReplicaSlots:
    """The slots of one replica in service. A replica that restarts after its death gets new ReplicaSlots."""

    id: str
    kind: str
    node: str
    slots: int
    busy: int = 0  # items at the replica, running or handed to it ahead of time
    ahead: int = 0  # items that may be at the replica beyond its slots
    closed: bool = False  # an item runs alone on the replica
    reserved_for: int | None = None  # the id of the item that waits for the replica to empty, to run alone on it
    guesses: dict[int, tuple[float, ...]] = field(default_factory=dict)  # at the replica: id -> order

    @property
    def running(self) -> int:
        """The number of items in slots."""
        return min(self.busy, self.slots)

    @property
    def place(self) -> str:
        """Replica and node, `id@node`: latents made before the replica moved to another node are at another place."""
        return f"{self.id}@{self.node}"


class Scheduler:
    """The waiting items, and the slots of the replicas in service."""

    def __init__(self, replicas: Iterable[ReplicaSlots] = ()) -> None:
        self.replicas: dict[str, ReplicaSlots] = {}
        self._free: dict[str, dict[str, ReplicaSlots]] = defaultdict(dict)  # kind -> place -> with a free slot
        self._ahead: dict[str, dict[str, ReplicaSlots]] = defaultdict(dict)  # the same: no free slot, but room ahead
        self._slots: Counter[str] = Counter()  # kind -> slots in service
        self._waiting: dict[int, Work] = {}
        self._alone: dict[int, Work] = {}
        self._queue: dict[str, list[tuple[int, int]]] = defaultdict(list)  # kind -> heap of (age, id)
        self._queued: Counter[str] = Counter()  # kind -> items in the heap that still wait
        self.guessing = 0  # guesses at replicas
        self._nodes: dict[str, str] = {}  # place -> node, also for replicas out of service
        for replica in replicas:
            self.open(replica)

    def open(self, replica: ReplicaSlots) -> None:
        """Take a replica into service."""
        self.replicas[replica.id] = replica
        self._nodes[replica.place] = replica.node
        self._slots[replica.kind] += replica.slots
        self._index(replica)

    def shut(self, replica: ReplicaSlots) -> bool:
        """Take a replica out of service; False if it is out of service already."""
        if self.replicas.get(replica.id) is not replica:
            return False
        del self.replicas[replica.id]
        self._slots[replica.kind] -= replica.slots
        self._free[replica.kind].pop(replica.place, None)
        self._ahead[replica.kind].pop(replica.place, None)
        return True

    def add(self, work: Work) -> None:
        """Let an item wait for a slot."""
        self._waiting[work.id] = work
        if work.alone:
            self._alone[work.id] = work
        else:
            heappush(self._queue[work.kind], (work.age, work.id))
            self._queued[work.kind] += 1

    def remove(self, work_id: int) -> bool:
        """Forget a waiting item; False if no item with this id waits."""
        work = self._waiting.pop(work_id, None)
        if work is not None and not work.alone:
            self._queued[work.kind] -= 1
        if self._alone.pop(work_id, None) is not None:
            for replica in self.replicas.values():
                if replica.reserved_for == work_id:
                    replica.reserved_for = None
                    self._index(replica)
        return work is not None

    def depth(self) -> dict[str, int]:
        """The number of waiting items for each kind of replica; a kind without any is missing."""
        return Counter(w.kind for w in self._waiting.values())

    def release(self, replica: ReplicaSlots) -> None:
        """Free the slot of an item that has ended; also right for a replica that went out of service meanwhile."""
        replica.busy -= 1
        if self.replicas.get(replica.id) is replica:
            replica.closed = False
            self._index(replica)

    def room(self, kind: str) -> int:
        """How many more guesses replicas of the kind have room for."""
        return sum(r.slots - len(r.guesses) for r in self._idle(kind))

    def guess(self, work: Work, order: tuple[float, ...]) -> ReplicaSlots | None:
        """The replica that a guess goes to now, the one with the fewest guesses; None if there is none.

        Of guesses the one with the highest `order` makes room first.
        """
        node = self._nodes.get(work.place)
        near = lambda r: (len(r.guesses), r.place != work.place, r.node != node)  # noqa: E731
        replica = min(self._idle(work.kind), key=near, default=None)
        if replica is not None:
            replica.guesses[work.id] = order
            self.guessing += 1
        return replica

    def leave(self, replica: ReplicaSlots, work_id: int) -> bool:
        """Take a guess from its replica; False if it is no guess, or none any more."""
        if replica.guesses.pop(work_id, None) is None:
            return False
        self.guessing -= 1
        return True

    def confirm(self, replica: ReplicaSlots, work_id: int) -> bool:
        """Turn a guess into an item like others; False if it is one already."""
        if not self.leave(replica, work_id):
            return False
        replica.busy += 1
        if self.replicas.get(replica.id) is replica:
            self._index(replica)
        return True

    def _idle(self, kind: str) -> Iterator[ReplicaSlots]:
        return (r for r in self._free[kind].values() if not r.busy and len(r.guesses) < r.slots)

    def shrink(self, replica: ReplicaSlots) -> int:
        """Lower a replica's slots to one below its running items, but not below 1; returns how many slots are gone."""
        if self.replicas.get(replica.id) is not replica:
            return 0
        before, replica.slots = replica.slots, max(1, replica.running - 1)
        self._slots[replica.kind] -= before - replica.slots
        self._index(replica)
        return before - replica.slots

    def assign(self) -> Iterator[tuple[Work, ReplicaSlots]]:
        """Pairs of an item and the replica that it goes to, until no more fit; a yielded item waits no longer."""
        for work in sorted(self._alone.values(), key=lambda w: (w.age, w.id)):
            replica = self._choose_alone(work)
            if replica is not None:
                yield self._take(work, replica)
        for kind, queue in self._queue.items():
            while queue and (self._free[kind] or self._crowded(kind)):
                _, work_id = heappop(queue)
                waiting = self._waiting.get(work_id)
                if waiting is not None and not waiting.alone:
                    yield self._take(waiting, self._choose(waiting))

    def _crowded(self, kind: str) -> bool:
        """True if an item of the kind may be handed to a replica ahead of time."""
        return bool(self._ahead[kind]) and self._queued[kind] >= max(self._slots[kind], 1)

    def _take(self, work: Work, replica: ReplicaSlots) -> tuple[Work, ReplicaSlots]:
        del self._waiting[work.id]
        if not work.alone:
            self._queued[work.kind] -= 1
        self._alone.pop(work.id, None)
        replica.busy += 1
        replica.closed = work.alone
        replica.reserved_for = None
        self._index(replica)
        return work, replica

    def _choose(self, work: Work) -> ReplicaSlots:
        free = self._free[work.kind] or self._ahead[work.kind]
        if self.guessing:
            without = {place: r for place, r in free.items() if not r.guesses}
            if not without:  # the least of all guesses makes room
                return max(free.values(), key=lambda r: min(r.guesses.values(), default=()))
            free = without
        home = free.get(work.place)
        if home is not None:
            return home
        node = self._nodes.get(work.place)
        return min(free.values(), key=lambda r: (r.node != node, r.busy - r.slots))

    def _choose_alone(self, work: Work) -> ReplicaSlots | None:
        replicas = [r for r in self.replicas.values() if r.kind == work.kind]
        replicas = [r for r in replicas if r.place != work.avoid] or replicas
        replicas = [r for r in replicas if not r.closed and r.reserved_for in (None, work.id)]
        replica = min(replicas, key=lambda r: (r.busy, r.reserved_for is None, len(r.guesses)), default=None)
        held = next((r for r in replicas if r.reserved_for == work.id), None)
        if replica is not None and replica.busy == 0:
            if held is not None and held is not replica:  # another replica was empty first
                held.reserved_for = None
                self._index(held)
            return replica
        if replica is not None and held is None:
            replica.reserved_for = work.id
            self._index(replica)
        return None

    def _index(self, replica: ReplicaSlots) -> None:
        takes = not replica.closed and replica.reserved_for is None
        for group, yes in (
            (self._free, replica.busy < replica.slots),
            (self._ahead, replica.slots <= replica.busy < replica.slots + replica.ahead),
        ):
            if takes and yes:
                group[replica.kind][replica.place] = replica
            else:
                group[replica.kind].pop(replica.place, None)
