"""Where a run works, and the threads that go on beside it: the rounds of its mirror, the renewals of its lease."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from raysearch.errors import StoreError, told
from raysearch.remote.lease import RENEWED, Lease
from raysearch.remote.mirror import Mirror
from raysearch.remote.store import Taken

EVERY, SHARE = 1.0, 20.0  # seconds between rounds of the mirror, and how many times what a round takes of the CPU

T = TypeVar("T")


class Place:
    """The folder in which a run works, what is shown as its place, and its files that lie in the store alone."""

    def __init__(
        self, path: Path, shown: str, elsewhere: frozenset[str] = frozenset(), note: Callable[[], None] = lambda: None
    ) -> None:
        """`note` is called when the run has passed its checks."""
        self.path, self.shown, self.elsewhere, self._note = path, shown, elsewhere, note
        self.broken = ""  # why the run has to end
        self._cancel: Callable[[], None] = lambda: None

    async def guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the run has to end. Raises StoreError then."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        due = True

        def cancel() -> None:  # once: a second time would break off what the first one has the work write
            nonlocal due
            if due:
                due = False
                task.cancel()

        def cancelled() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(cancel)

        self._cancel = cancelled
        self._note()
        try:
            if self.broken:
                cancel()
            return await work
        except asyncio.CancelledError:
            if not self.broken:
                raise
            task.uncancel()
            raise self.error() from None
        finally:
            self._cancel = lambda: None

    def end(self, reason: str) -> None:
        """The run has to end; from any thread."""
        self.broken = self.broken or reason
        self._cancel()

    def named(self, text: str) -> str:
        """A line that names the folder in which the run works as its place, with what is shown as its place."""
        return renamed(text, self.path, self.shown)

    def error(self) -> StoreError:
        """Why the run has ended, in one line."""
        return StoreError(f"run_dir: {self.shown}: {self.broken}; this run has stopped, and its files are {self.path}")


def renamed(text: str, stage: Path, url: str) -> str:
    """A line about a run's folder with `url` in place of the stage, where it names that."""
    text = text.replace(f"run_dir={stage}", f"run_dir={url}")
    for path in (stage, stage.parent):
        text = text.replace(f"run_dir: {str(path)!r}", f"run_dir: {url!r}")
    return text


class Beside:
    """Threads that end with the process: `follow` a mirror, be `still` when the run has ended, and `close`."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._place: Place | None = None
        self._mirror: Mirror | None = None
        self._ended, self._stopped = threading.Event(), threading.Event()
        self._rounds: threading.Thread | None = None
        self.lost = ""  # who has the lease now
        self.seconds = 0.0  # in rounds
        self._renewals = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewals.start()

    def follow(self, mirror: Mirror, place: Place) -> None:
        """Begin with the rounds of a mirror."""
        self._place, self._mirror = place, mirror
        if self.lost:
            self._lose()
        self._rounds = threading.Thread(target=self._round, args=(mirror, place), name="mirror", daemon=True)
        self._rounds.start()

    def still(self) -> None:
        """End the rounds, and wait for the one that goes on."""
        self._stopped.set()
        if self._rounds is not None:
            self._rounds.join()

    def close(self) -> None:
        """End the renewals, too; one that waits for an answer is waited for a little."""
        self.still()
        self._ended.set()
        self._renewals.join(RENEWED)

    def _round(self, mirror: Mirror, place: Place) -> None:
        took = 0.0
        while not self._stopped.wait(max(EVERY, SHARE * took)):
            began = time.thread_time()
            try:
                mirror.round()
            except Exception as error:  # what is not expected must not pass unseen
                mirror.broken = f"the mirror has failed ({told(error)})"
            took = time.thread_time() - began
            self.seconds += took
            if mirror.broken:
                place.end(mirror.broken)
                return

    def _lose(self) -> None:
        if self._place is not None and self._mirror is not None:
            self._mirror.broken = self._mirror.broken or self.lost
            self._place.end(self.lost)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                self._lease.renew()
            except Taken as error:
                self.lost = str(error)
                self._lose()
                return
            except StoreError:  # if nobody takes the lease meanwhile, a later renewal succeeds
                pass
