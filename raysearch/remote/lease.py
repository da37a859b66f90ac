"""Who may write a run's folder in a store: the holder of its lease, which is renewed while the run goes on.

The lease is one small file. It is claimed and renewed by conditional writes, so of two machines only one can; clocks
that differ cannot change that, but a machine whose clock is late by more than LASTS loses its lease to the next run.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from raysearch.errors import ConfigError
from raysearch.remote.store import Missing, Store, Taken

LEASE = "lease.json"
LASTS = 60.0  # seconds after which a lease that is not renewed may be taken over
RENEWED = 15.0  # seconds between renewals


@dataclass(frozen=True)
class Holder:
    """What the file says: a random name of the process, its machine, and until when, in seconds since the epoch."""

    owner: str
    host: str
    expires: float


class Lease:
    """The lease of one process. `claim` it, `renew` it every RENEWED seconds, `release` it."""

    def __init__(
        self,
        store: Store,
        owner: str,
        host: str,
        *,
        wall: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._wall, self._pause = store, wall, pause
        self._holder, self._tag = Holder(owner, host, 0.0), None

    def claim(self, say: Callable[[str], None], *, before: str = "", patient: bool = False) -> None:
        """Take the lease. Raises ConfigError if another run holds it, and StoreError.

        `before` is the owner of a dead process whose lease is taken over at once. With `patient` a lease that is not
        renewed is waited for, until it has run out.
        """
        found, tag = self._read()
        own = (before, self._holder.owner)  # of an earlier try whose answer was lost
        if patient and found and found.owner not in own and 0 < found.expires - self._wall() <= LASTS:
            say(f"a run on {found.host} holds the lease; waiting at most {LASTS:.0f} s for it to run out")
            was = tag
            while found and tag == was and found.expires > self._wall():
                self._pause(1.0)
                found, tag = self._read()
        if found and found.owner not in own and found.expires > self._wall():
            raise self._held(found)
        try:
            self._write(tag)
        except Taken as error:
            raise self._held(self._read()[0] or self._holder) from error
        if self._store.conditional and not self._heeded():
            self._store.conditional = False

    def renew(self) -> None:
        """Move the lease's end on. Raises Taken if another run has taken it over or deleted it, and StoreError."""
        try:
            self._write(self._tag)
        except (Taken, Missing):  # stores differ in what they call a condition on a file that is not there
            found, tag = self._read()
            if found is None or found.owner != self._holder.owner:
                what = f"a run on {found.host} has taken over its lease" if found else f"its {LEASE} is no longer there"
                raise Taken(what) from None
            self._write(tag)  # an earlier renewal came through, of which no answer did

    @property
    def certain(self) -> bool:
        """Whether the lease is surely this process's now: it was claimed or renewed, and has not run out since."""
        return self._wall() < self._holder.expires

    def release(self) -> None:
        """Let the next run take the lease at once. Raises Taken and StoreError."""
        self._write(self._tag, released=True)

    def _write(self, tag: Any, *, released: bool = False) -> None:
        holder = replace(self._holder, expires=0.0 if released else self._wall() + LASTS)
        self._tag = self._store.put_if(LEASE, json.dumps(asdict(holder)).encode(), tag)
        self._holder = holder

    def _heeded(self) -> bool:
        """Whether the store refuses a write whose condition does not hold; some servers ignore conditions."""
        try:
            self._tag = self._store.put_if(LEASE, json.dumps(asdict(self._holder)).encode(), None)
        except Taken:
            return True
        return False

    def _read(self) -> tuple[Holder | None, Any]:
        """The holder and the tag of the lease; what is no lease belongs to nobody."""
        try:
            content, tag = self._store.tagged(LEASE)
        except Missing:
            return None, None
        return parsed(content), tag

    def _held(self, by: Holder) -> ConfigError:
        left = max(by.expires - self._wall(), 0.0)
        allowed = f"one that no other run is writing to now (a run on {by.host} has its lease for {left:.0f} s more)"
        return ConfigError.of("run_dir", self._store.url, allowed)


def parsed(content: bytes) -> Holder | None:
    """The holder in a lease's content; None of anything else."""
    try:
        found = json.loads(content)
        return Holder(str(found["owner"]), str(found["host"]), float(found["expires"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def going(store: Store, *, wall: Callable[[], float] = time.time) -> bool:
    """Whether a run holds the lease of a folder now. Raises StoreError."""
    try:
        found = parsed(store.tagged(LEASE)[0])
    except Missing:
        return False
    return found is not None and found.expires > wall()
