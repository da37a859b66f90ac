"""Which waiting item goes to which free slot: synchronous and pure, no clock, no device.

Oldest search first; then the replica that made the item's input, then its node, then the emptiest; never idle while
work waits. Where no slot is free an item may go ahead and wait at a replica, so that the replica need not wait for its
next one; but only while as many more wait as there are slots, since from there no other replica can take it. An item
that has been on a replica when it died runs alone: the emptiest replica takes nothing new until it is empty.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(frozen=True)
class Work:
    """A waiting item. `age` orders searches, oldest first; `place` is where its input was made, if it has one."""

    id: int
    kind: str
    age: int
    place: str = ""
    alone: bool = False
    avoid: str = ""  # with `alone`: the place where it should not run again, if there is another


@dataclass(eq=False)
class Seat:
    """A replica in service, as the scheduler sees it. One that comes back from death gets a new seat."""

    id: str
    kind: str
    node: str
    slots: int
    busy: int = 0  # items that it holds, those that wait at it too
    ahead: int = 0  # how many may wait at it
    closed: bool = False  # an item runs alone on it
    reserved_for: int | None = None

    @property
    def running(self) -> int:
        return min(self.busy, self.slots)

    @property
    def place(self) -> str:
        """The replica on its node: what was made before it moved to another node is not there."""
        return f"{self.id}@{self.node}"


class Scheduler:
    def __init__(self, seats: Iterable[Seat] = ()) -> None:
        self.seats: dict[str, Seat] = {}
        self._free: dict[str, dict[str, Seat]] = defaultdict(dict)  # kind -> place -> seat with a free slot
        self._ahead: dict[str, dict[str, Seat]] = defaultdict(dict)  # the same, with none but room for one to wait
        self._slots: Counter[str] = Counter()  # of all seats in service, by kind
        self._waiting: dict[int, Work] = {}
        self._alone: dict[int, Work] = {}
        self._queue: dict[str, list[tuple[int, int]]] = defaultdict(list)  # kind -> heap of (age, id)
        self._queued: Counter[str] = Counter()  # of them, those that still wait
        self._nodes: dict[str, str] = {}  # place -> node, also of replicas that are gone
        for seat in seats:
            self.open(seat)

    def open(self, seat: Seat) -> None:
        """Take a replica into service."""
        self.seats[seat.id] = seat
        self._nodes[seat.place] = seat.node
        self._slots[seat.kind] += seat.slots
        self._index(seat)

    def shut(self, seat: Seat) -> bool:
        """Take a replica out of service; False if that seat is out already."""
        if self.seats.get(seat.id) is not seat:
            return False
        del self.seats[seat.id]
        self._slots[seat.kind] -= seat.slots
        self._free[seat.kind].pop(seat.place, None)
        self._ahead[seat.kind].pop(seat.place, None)
        return True

    def add(self, work: Work) -> None:
        self._waiting[work.id] = work
        if work.alone:
            self._alone[work.id] = work
        else:
            heappush(self._queue[work.kind], (work.age, work.id))
            self._queued[work.kind] += 1

    def remove(self, work_id: int) -> bool:
        """Forget a waiting item; False if it is not waiting (any more)."""
        work = self._waiting.pop(work_id, None)
        if work is not None and not work.alone:
            self._queued[work.kind] -= 1
        if self._alone.pop(work_id, None) is not None:
            for seat in self.seats.values():
                if seat.reserved_for == work_id:
                    seat.reserved_for = None
                    self._index(seat)
        return work is not None

    def waiting(self, kind: str) -> list[int]:
        """The waiting items of a kind, in the order in which they would be taken."""
        return [i for _, i in sorted((w.age, w.id) for w in self._waiting.values() if w.kind == kind)]

    def depth(self) -> dict[str, int]:
        """How many items of each kind wait."""
        return Counter(w.kind for w in self._waiting.values())

    def release(self, seat: Seat) -> None:
        """An item has left its seat."""
        seat.busy -= 1
        if self.seats.get(seat.id) is seat:
            seat.closed = False
            self._index(seat)

    def shrink(self, seat: Seat) -> int:
        """From now on one item fewer fits than it has now, and one at least. How many fewer that is than before."""
        if self.seats.get(seat.id) is not seat:
            return 0
        before, seat.slots = seat.slots, max(1, seat.running - 1)
        self._slots[seat.kind] -= before - seat.slots
        self._index(seat)
        return before - seat.slots

    def assign(self) -> Iterator[tuple[Work, Seat]]:
        """Pairs (item, seat), each taken off the queue as it is yielded, until no more fit."""
        for work in sorted(self._alone.values(), key=lambda w: (w.age, w.id)):
            seat = self._choose_alone(work)
            if seat is not None:
                yield self._take(work, seat)
        for kind, queue in self._queue.items():
            while queue and (self._free[kind] or self._crowded(kind)):
                _, work_id = heappop(queue)
                waiting = self._waiting.get(work_id)
                if waiting is not None and not waiting.alone:
                    yield self._take(waiting, self._choose(waiting))

    def _crowded(self, kind: str) -> bool:
        """An item may go ahead to a replica and wait there."""
        return bool(self._ahead[kind]) and self._queued[kind] >= max(self._slots[kind], 1)

    def _take(self, work: Work, seat: Seat) -> tuple[Work, Seat]:
        del self._waiting[work.id]
        if not work.alone:
            self._queued[work.kind] -= 1
        self._alone.pop(work.id, None)
        seat.busy += 1
        seat.closed = work.alone
        seat.reserved_for = None
        self._index(seat)
        return work, seat

    def _choose(self, work: Work) -> Seat:
        free = self._free[work.kind] or self._ahead[work.kind]
        home = free.get(work.place)
        if home is not None:
            return home
        node = self._nodes.get(work.place)
        return min(free.values(), key=lambda s: (s.node != node, s.busy - s.slots))

    def _choose_alone(self, work: Work) -> Seat | None:
        seats = [s for s in self.seats.values() if s.kind == work.kind]
        seats = [s for s in seats if s.place != work.avoid] or seats
        seats = [s for s in seats if not s.closed and s.reserved_for in (None, work.id)]
        seat = min(seats, key=lambda s: (s.busy, s.reserved_for is None), default=None)
        held = next((s for s in seats if s.reserved_for == work.id), None)
        if seat is not None and seat.busy == 0:
            if held is not None and held is not seat:  # another was empty first
                held.reserved_for = None
                self._index(held)
            return seat
        if seat is not None and held is None:
            seat.reserved_for = work.id
            self._index(seat)
        return None

    def _index(self, seat: Seat) -> None:
        takes = not seat.closed and seat.reserved_for is None
        for group, yes in (
            (self._free, seat.busy < seat.slots),
            (self._ahead, seat.slots <= seat.busy < seat.slots + seat.ahead),
        ):
            if takes and yes:
                group[seat.kind][seat.place] = seat
            else:
                group[seat.kind].pop(seat.place, None)
