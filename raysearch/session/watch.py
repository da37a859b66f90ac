"""A run is looked at while it goes on: the one place with a timer, outside of the engine."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from raysearch.errors import single
from raysearch.session.progress import Progress
from raysearch.session.snapshot import Snapshot

T = TypeVar("T")
Sink = tuple[float, Callable[[Snapshot], None]]  # every so many seconds a snapshot is handed to it


async def follow(
    work: Coroutine[Any, Any, T],
    progress: Progress,
    sinks: Sequence[Sink],
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> T:
    """Await `work`; meanwhile each sink gets snapshots, the first at once, the last when it has ended."""
    task = asyncio.ensure_future(work)
    due = [clock()] * len(sinks)
    state, reason = "interrupted", ""
    try:
        while not task.done():
            now = clock()
            for i, (every, take) in enumerate(sinks):
                if due[i] <= now:
                    take(progress.snapshot(now, wall()))
                    due[i] = now + every
            await asyncio.wait([task], timeout=min(due) - now)
        result = task.result()
        state = "finished"
        return result
    except Exception as raised:
        error = single(raised)
        state, reason = "broken", " ".join(f"{type(error).__name__}: {error}".split())
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        for _, take in sinks:
            take(progress.snapshot(clock(), wall(), state, reason))
