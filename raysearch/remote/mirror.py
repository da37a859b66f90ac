"""The mirror: it brings what a run writes to its stage into a store, while the run goes on.

It knows three kinds of files. The journal grows, and goes up in sealed segments. A file that is there for the first
time goes up at once. A file that changed, such as a table, goes up again when it has not been sent for a while.
A segment follows the files that were there when it was cut: what a sealed record names is in the store, too.

The mirror holds up no search: what fails is tried again, and only a store that takes nothing for MOST_BEHIND ends a
run, whose files are then on its stage.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from raysearch.errors import StoreError, told
from raysearch.files import own_content
from raysearch.remote import segments
from raysearch.remote.lease import LEASE
from raysearch.remote.segments import ANSWERED, SEGMENTS, Sealed
from raysearch.remote.stage import MADE, THREADS
from raysearch.remote.store import Entry, Store, Taken
from raysearch.session.directory import CONFIG, CONTENT

FIRST = (CONFIG, str(CONTENT))  # the files without which no run goes on
PASSING = ("spill/", "rollouts/", "dataset/")  # what a run itself deletes
SEGMENT_BYTES, SEGMENT_S = 1 << 20, 10.0  # a segment is cut after so many bytes or seconds
PATIENCE = 60.0  # seconds for which a segment waits for the files before it
AGAIN, SHARE = 10.0, 20.0  # a file is sent again after so many seconds, and so many times what sending it took
BACKOFF = 60.0  # most seconds between two tries
MOST_BEHIND = 1800.0  # seconds without one success, while files wait
GIVE_UP = 180.0  # the same at the end of a run
SMALL = 8 << 20  # bytes of a file that is read at once
RECORDS = "the journal"  # the segment that is on its way, among names of files

Signature: TypeAlias = tuple[int, int, int]  # of a file: inode, time of its last change, bytes
Submit: TypeAlias = Callable[[Callable[[], Any]], "Future[Any]"]


@dataclass
class Mark:
    """Where the next segment will end, and the files that go up before it."""

    end: int
    files: set[str]
    since: float


class Mirror:
    """Call `round` again and again while the run goes on, and `finish` when it has ended."""

    def __init__(
        self,
        store: Store,
        stage: Path,
        sealed: Sealed,
        known: Mapping[str, Entry],
        submit: Submit,
        say: Callable[[str], None],
        *,
        may: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known` are the files that the store has. `submit` runs a call beside others, if the run `may` write now."""
        self._store, self._stage, self._sealed = store, stage, sealed
        self._submit, self._say, self._may, self._clock = submit, say, may, clock
        self.broken = ""  # why the run must end
        self.uploads, self.bytes = 0, 0  # so far
        self.left = 0  # files that the store has not, after the latest round
        there = self._scan().items()  # what is made from now on is sent, also where the store has a file of its name
        self._sent = {n: s for n, s in there if n.startswith(MADE) and n in known and known[n].size == s[2]}
        self._flying: dict[str, tuple[Future[Any], Signature | None, float]] = {}
        self._again: dict[str, float] = {}  # when a file that was sent may be sent again
        self._failed: dict[str, tuple[int, float]] = {}  # how often in a row, and when it is tried again
        self._mark: Mark | None = None
        self._held = False  # nothing goes up, as the run may not write now
        self._cut = self._well = clock()  # when the last segment was cut, and when all was well

    def round(self, *, final: bool = False) -> bool:
        """Start what is due and take in what is done; True if the store has all. At the end (`final`) all is due."""
        now = self._clock()
        self._take_in(now)
        try:
            end = (self._stage / ANSWERED).stat().st_size  # before the files: what the records name is among these
        except OSError:
            return True  # the run has not begun
        files = self._scan()
        if not files.get(CONFIG, (0, 0, 0))[2] or self.broken:
            return not self.broken
        held = not self._may()
        if held and not self._held:
            self._say("the run goes on, but its lease cannot be renewed now; until it can, nothing is uploaded")
        elif self._held and not held:
            self._say("the lease is renewed again, and files are uploaded")
        self._held = held
        unsent = {n: s for n, s in files.items() if self._sent.get(n) != s}
        ready = all(n in self._sent for n in FIRST if n in files)
        for name in sorted(unsent, key=lambda n: (n not in FIRST, n in self._sent, n)):
            waits = not final and now < self._again.get(name, 0.0)
            if (ready or name in FIRST) and not waits:
                self._start(name, lambda n=name: self._send(n), unsent[name], now)  # type: ignore[misc]
        for name in [n for n in self._sent if n not in files and n.startswith(PASSING)]:
            self._start(name, lambda n=name: self._store.delete(n), None, now)  # type: ignore[misc]
        if ready:
            self._seal(end, {n for n in unsent if n not in self._sent}, files.keys(), now, final=final)
        behind = bool(unsent) or self._sealed.end < end
        self.left = len(unsent) + (self._sealed.end < end)
        if not behind or (not self._failed and not self._held):
            self._well = now
        if now - self._well > MOST_BEHIND and not self.broken:
            self.broken = f"the store has taken no file for {MOST_BEHIND / 60:.0f} minutes"
        return not behind and not self._flying

    def finish(self, bound: float | None, *, pause: Callable[[float], None] = time.sleep) -> bool:
        """Send all that is left; False if the store does not take it, within `bound` seconds if that is given."""
        began = self._well = self._clock()
        while not self.round(final=True):
            now = self._clock()
            late = now - self._well > GIVE_UP or (bound is not None and now - began > bound)
            if self.broken or late:
                return False
            pause(0.02)
        return True

    def withdraw(self) -> None:
        """Delete what was sent of a run that has not begun after all. Raises StoreError."""
        for name in self._sent:
            self._store.delete(name)

    def _scan(self) -> dict[str, Signature]:
        """The files of the stage that are whole, by name; links, locks and the journal are not among them."""
        found: dict[str, Signature] = {}
        waiting = [""]
        while waiting:
            above = waiting.pop()
            try:
                with os.scandir(self._stage / above) as entries:
                    for e in entries:
                        name, about = above + e.name, e.stat(follow_symlinks=False)
                        if e.name.endswith(".partial") or name in (ANSWERED, LEASE) or e.name == "lock":
                            continue
                        if stat.S_ISDIR(about.st_mode):
                            waiting.append(f"{name}/")
                        elif stat.S_ISREG(about.st_mode):
                            found[name] = (about.st_ino, about.st_mtime_ns, about.st_size)
            except OSError:  # it was deleted meanwhile
                continue
        return {n: s for n, s in found.items() if not n.startswith(f"{SEGMENTS}/")}

    def _start(self, name: str, call: Callable[[], Any], signature: Signature | None, now: float) -> bool:
        _, after = self._failed.get(name, (0, 0.0))
        if name in self._flying or now < after or len(self._flying) >= 2 * THREADS or self._held:
            return False
        self._flying[name] = (self._submit(lambda: self._call(call)), signature, now)
        return True

    def _call(self, call: Callable[[], Any]) -> Any:
        """What a call returns that has waited for its turn: meanwhile the process may have been stopped for long."""
        if not self._may():
            raise StoreError("the lease has run out")
        return call()

    def _send(self, name: str) -> None:
        path = self._stage / name
        try:
            size = path.lstat().st_size
        except FileNotFoundError:  # the run has deleted it
            return
        content = own_content(path) if size < SMALL else path
        if size and not content:
            return
        self._store.put(name, content)
        self.uploads, self.bytes = self.uploads + 1, self.bytes + size

    def _seal(self, end: int, fresh: set[str], there: Any, now: float, *, final: bool) -> None:
        waiting = end - self._sealed.end
        due = final or waiting >= SEGMENT_BYTES or now - self._cut >= SEGMENT_S
        if self._mark is None and waiting > 0 and due:
            self._mark = Mark(end, fresh, now)
        if self._mark is None or RECORDS in self._flying:
            return
        left = {n for n in self._mark.files if n not in self._sent and n in there}
        if not left or now - self._mark.since > PATIENCE:
            lines = segments.unsealed(self._stage / ANSWERED, self._sealed, self._mark.end)
            if not lines:  # the end of the journal is torn
                self._mark = None
            elif self._start(RECORDS, lambda: segments.seal(self._store, self._sealed, lines), None, now):
                self._cut = now

    def _take_in(self, now: float) -> None:
        """What became of the calls that have ended."""
        for name, (done, signature, since) in list(self._flying.items()):
            if not done.done():
                continue
            del self._flying[name]
            error = done.exception()
            if error is not None:
                self._note(name, error, now)
                continue
            if self._failed.pop(name, None) and not self._failed:
                self._say("the store takes files again")
            self._well = now
            if name == RECORDS:
                self._sealed, self._mark = done.result(), None
                self.uploads += 1
            elif signature is None:
                self._sent.pop(name, None)
            else:
                self._sent[name] = signature
                self._again[name] = now + max(AGAIN, SHARE * (now - since))

    def _note(self, name: str, error: BaseException, now: float) -> None:
        if name == RECORDS and isinstance(error, Taken):
            self.broken = str(error)
            return
        if not self._failed:
            self._say(f"the run goes on, but the store does not take {name} now; it is tried again ({told(error)})")
        times, _ = self._failed.get(name, (0, 0.0))
        self._failed[name] = (times + 1, now + min(2.0**times, BACKOFF))
