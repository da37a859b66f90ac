"""Where the made things are: recipe -> reference, within a byte bound.

A reference is opaque (a Ray ObjectRef, an array in tests); dropping it frees what it stands for. Entries that no live
candidate needs go first, least recently used first; when live ones alone exceed the bound they go too, since whatever
is gone can be made again from its recipe.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest

LOW_WATER = 0.9  # an eviction pass frees down to this part of the bound, so that passes are rare


@dataclass(frozen=True)
class Entry:
    """A made latent: its reference, its size, where it was made, and whether the velocity at its point is with it."""

    ref: Any
    nbytes: int
    place: str
    velocity: bool
    seconds: float  # replica-seconds of its trajectory, from the origin on


class Store:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.most = 0  # the peak of nbytes
        self.evicted = 0
        self._entries: OrderedDict[Digest, Entry] = OrderedDict()  # least recently used first
        self._steps: dict[Digest, dict[int, Digest]] = {}  # trajectory -> step -> candidate
        self._trajectory: dict[Digest, tuple[Digest, int]] = {}
        self._live: WeakSet[Candidate] = WeakSet()
        self._idle: set[Digest] = set()  # entries that no live candidate needed, when last looked
        self._changes = 0  # since then

    def __len__(self) -> int:
        return len(self._entries)

    def watch(self, c: Candidate) -> None:
        """Keep what `c` needs while `c` is alive, as far as the bound allows."""
        self._live.add(c)
        self._changes += 1

    def get(self, c: Candidate) -> Entry | None:
        entry = self._entries.get(c.identity)
        if entry is not None:
            self._entries.move_to_end(c.identity)
            self._idle.discard(c.identity)
        return entry

    def put(self, c: Candidate, entry: Entry) -> None:
        self.drop(c)
        self._entries[c.identity] = entry
        self._steps.setdefault(c.trajectory, {})[c.step] = c.identity
        self._trajectory[c.identity] = (c.trajectory, c.step)
        self.nbytes += entry.nbytes
        self._changes += 1
        if self.nbytes > self.capacity:
            self._evict(keep=c.identity)
        self.most = max(self.most, self.nbytes)

    def drop(self, c: Candidate) -> None:
        if c.identity in self._entries:
            self._drop(c.identity)

    def base(self, c: Candidate) -> int | None:
        """The latest stored step of `c`'s trajectory that `c` can be made from."""
        return max((s for s in self._steps.get(c.trajectory, ()) if s <= c.step), default=None)

    def _drop(self, identity: Digest) -> None:
        self.nbytes -= self._entries.pop(identity).nbytes
        self._idle.discard(identity)
        trajectory, step = self._trajectory.pop(identity)
        steps = self._steps[trajectory]
        del steps[step]
        if not steps:
            del self._steps[trajectory]

    def _needed(self) -> set[Digest]:
        """For each live candidate its own latent or, where that is not made, the one it would be made from."""
        needed = set()
        for c in self._live:
            source: Candidate | None = c
            while source is not None:
                step = self.base(source)
                if step is not None:
                    needed.add(self._steps[source.trajectory][step])
                source = source.parent if step is None else None
        return needed

    def _evict(self, keep: Digest) -> None:
        target = self.capacity * LOW_WATER
        if self._changes >= len(self._live):  # a look at every live candidate must not cost more than what they made
            self._idle = self._entries.keys() - self._needed()
            self._changes = 0
        self._drop_until(target, [i for i in self._entries if i in self._idle and i != keep])
        self._drop_until(target, [i for i in self._entries if i != keep])

    def _drop_until(self, target: float, identities: Iterable[Digest]) -> None:
        for identity in identities:
            if self.nbytes <= target:
                return
            self._drop(identity)
            self.evicted += 1
