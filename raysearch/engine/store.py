"""The latents that exist: candidate -> reference, within a bound in bytes, until their searches have ended.

A reference is opaque (a Ray ObjectRef, or an array in tests); dropping the reference frees the latent. Latents that no
live candidate needs are evicted first, the least recently used before the others. When the latents of live candidates
alone exceed the bound they are evicted too, since every latent can be made again from its recipe.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest

OF_AN_ENTRY = 1024  # bytes: about what the driver itself holds of a latent, however small that is
LOW_WATER = 0.9  # of the bound: how much may be left after an eviction, so that evictions are rare
SPARE = 0.8  # of the bound: how much work ahead may fill; less than what an eviction leaves


@dataclass(frozen=True)
class Entry:
    """A latent that was made."""

    ref: Any  # to the candidate's state: its latent and what its solver remembers
    nbytes: int
    place: str  # where it was made, `id@node`; empty if it was read from disk
    velocity: bool  # the state holds the model's velocity at the candidate's own point
    seconds: float  # replica-seconds of its trajectory, from the origin on


class Store:
    """References to latents by candidate. `capacity` is the bound, in bytes, and `own` counts for every latent."""

    def __init__(self, capacity: int, own: int = OF_AN_ENTRY) -> None:
        self.capacity, self._own = capacity, own
        self.nbytes = 0
        self.most = 0  # bytes, the peak of nbytes
        self.evicted = 0
        self._entries: OrderedDict[Digest, Entry] = OrderedDict()  # least recently used first
        self._steps: dict[Digest, dict[int, Digest]] = {}  # trajectory -> step -> candidate
        self._trajectory: dict[Digest, tuple[Digest, int]] = {}
        self._live: WeakSet[Candidate] = WeakSet()
        self._idle: set[Digest] = set()  # entries that no live candidate needed at the last check
        self._changes = 0  # candidates and entries added since that check
        self._groups: dict[str, set[Digest]] = {}  # of searches -> the entries that were made for them
        self._shared: set[Digest] = set()  # of no group

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def room(self) -> int:
        """How many latents that nobody has asked for have room, by the mean of those that are there."""
        return int(max(self.capacity * SPARE - self.nbytes, 0) * len(self) / max(self.nbytes, 1))

    def watch(self, c: Candidate) -> None:
        """Keep the latent that `c` needs while `c` is alive, as far as the bound allows."""
        self._live.add(c)
        self._changes += 1

    def get(self, c: Candidate) -> Entry | None:
        """The entry of a candidate, which becomes the most recently used; None if there is no entry."""
        entry = self._entries.get(c.identity)
        if entry is not None:
            self._entries.move_to_end(c.identity)
            self._idle.discard(c.identity)
        return entry

    def put(self, c: Candidate, entry: Entry, group: str = "") -> None:
        """Store a candidate's entry in place of an earlier one; others are evicted where the bound asks for it.

        It was made for a `group` of searches, and `forget` drops it when those have ended.
        """
        self.drop(c)
        self._entries[c.identity] = entry
        if group:
            self._groups.setdefault(group, set()).add(c.identity)
        self._steps.setdefault(c.trajectory, {})[c.step] = c.identity
        self._trajectory[c.identity] = (c.trajectory, c.step)
        self.nbytes += entry.nbytes + self._own
        self._changes += 1
        if self.nbytes > self.capacity:
            self._evict(keep=c.identity)
        self.most = max(self.most, self.nbytes)

    def drop(self, c: Candidate) -> None:
        """Forget a candidate's entry, if there is one."""
        if c.identity in self._entries:
            self._drop(c.identity)

    def forget(self, group: str) -> None:
        """Forget the entries of a group of searches that have all ended."""
        for identity in self._groups.pop(group, set()) - self._shared:
            if identity in self._entries:
                self._drop(identity)

    def share(self, identities: Iterable[Digest]) -> None:
        """Keep entries when the group that they were made for is forgotten: other groups ask for them, too."""
        self._shared.update(identities)

    def base(self, c: Candidate) -> int | None:
        """The latest stored step of the trajectory of `c` up to its own step; None if no step of it is stored."""
        return max((s for s in self._steps.get(c.trajectory, ()) if s <= c.step), default=None)

    def _drop(self, identity: Digest) -> None:
        self.nbytes -= self._entries.pop(identity).nbytes + self._own
        self._idle.discard(identity)
        trajectory, step = self._trajectory.pop(identity)
        steps = self._steps[trajectory]
        del steps[step]
        if not steps:
            del self._steps[trajectory]

    def _needed(self) -> set[Digest]:
        """For each live candidate the identity of its latent or, if it has none, of the latent to make it from."""
        needed = set()
        for c in self._live:
            source: Candidate | None = c
            while source is not None:
                step = self.base(source)
                if step is not None:
                    needed.add(self._steps[source.trajectory][step])
                source = source.parent if step is None else None
        return needed

    def _check(self) -> None:
        self._idle = self._entries.keys() - self._needed()
        self._changes = 0

    def _evict(self, keep: Digest) -> None:
        target = self.capacity * LOW_WATER
        # A check of every live candidate must cost no more than it cost to make the changes since the last check.
        if self._changes >= len(self._live):
            self._check()
        self._drop_until(target, [i for i in self._entries if i in self._idle and i != keep])
        self._drop_until(target, [i for i in self._entries if i != keep])

    def _drop_until(self, target: float, identities: Iterable[Digest]) -> None:
        for identity in identities:
            if self.nbytes <= target:
                return
            self._drop(identity)
            self.evicted += 1
