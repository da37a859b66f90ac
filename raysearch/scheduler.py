"""Which waiting item goes to which free slot: synchronous and pure, no clock, no device.

Oldest search first; then the replica that made the item's input, then its node, then the emptiest; never idle while
work waits. An item that has been on a replica when it died runs alone: the emptiest replica takes nothing new until
it is empty.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(frozen=True)
class Work:
    """A waiting item. `age` orders searches, oldest first; `place` is the replica that made its input, if any."""

    id: int
    kind: str
    age: int
    place: str = ""
    alone: bool = False


@dataclass(eq=False)
class Seat:
    """A replica in service, as the scheduler sees it. One that comes back from death gets a new seat."""

    id: str
    kind: str
    node: str
    slots: int
    busy: int = 0
    closed: bool = False  # an item runs alone on it
    reserved_for: int | None = None


class Scheduler:
    def __init__(self, seats: Iterable[Seat] = ()) -> None:
        self.seats: dict[str, Seat] = {}
        self._free: dict[str, dict[str, Seat]] = defaultdict(dict)  # kind -> id -> seat with a free slot
        self._waiting: dict[int, Work] = {}
        self._alone: dict[int, Work] = {}
        self._queue: dict[str, list[tuple[int, int]]] = defaultdict(list)  # kind -> heap of (age, id)
        self._nodes: dict[str, str] = {}
        for seat in seats:
            self.open(seat)

    def open(self, seat: Seat) -> None:
        """Take a replica into service."""
        self.seats[seat.id] = seat
        self._nodes[seat.id] = seat.node
        self._index(seat)

    def shut(self, seat: Seat) -> bool:
        """Take a replica out of service; False if that seat is out already."""
        if self.seats.get(seat.id) is not seat:
            return False
        del self.seats[seat.id]
        self._free[seat.kind].pop(seat.id, None)
        return True

    def add(self, work: Work) -> None:
        self._waiting[work.id] = work
        if work.alone:
            self._alone[work.id] = work
        else:
            heappush(self._queue[work.kind], (work.age, work.id))

    def remove(self, work_id: int) -> bool:
        """Forget a waiting item; False if it is not waiting (any more)."""
        work = self._waiting.pop(work_id, None)
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
        """A slot has become free."""
        if self.seats.get(seat.id) is seat:
            seat.busy -= 1
            seat.closed = False
            self._index(seat)

    def assign(self) -> Iterator[tuple[Work, Seat]]:
        """Pairs (item, seat), each taken off the queue as it is yielded, until no more fit."""
        for work in sorted(self._alone.values(), key=lambda w: (w.age, w.id)):
            seat = self._choose_alone(work)
            if seat is not None:
                yield self._take(work, seat)
        for kind, queue in self._queue.items():
            while queue and self._free[kind]:
                _, work_id = heappop(queue)
                waiting = self._waiting.get(work_id)
                if waiting is not None and not waiting.alone:
                    yield self._take(waiting, self._choose(waiting))

    def _take(self, work: Work, seat: Seat) -> tuple[Work, Seat]:
        del self._waiting[work.id]
        self._alone.pop(work.id, None)
        seat.busy += 1
        seat.closed = work.alone
        seat.reserved_for = None
        self._index(seat)
        return work, seat

    def _choose(self, work: Work) -> Seat:
        free = self._free[work.kind]
        home = free.get(work.place)
        if home is not None:
            return home
        node = self._nodes.get(work.place)
        return min(free.values(), key=lambda s: (s.node != node, s.busy - s.slots))

    def _choose_alone(self, work: Work) -> Seat | None:
        seats = [s for s in self.seats.values() if s.kind == work.kind and not s.closed]
        seats = [s for s in seats if s.reserved_for in (None, work.id)]
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
        if seat.busy < seat.slots and not seat.closed and seat.reserved_for is None:
            self._free[seat.kind][seat.id] = seat
        else:
            self._free[seat.kind].pop(seat.id, None)
