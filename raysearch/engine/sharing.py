"""Work that is done once for all who ask for it, and bounded memories of what was done."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from raysearch.recipe.digests import Digest

T = TypeVar("T")


class Memo(OrderedDict[Digest, T], Generic[T]):
    """A bounded, least-recently-used dictionary. What is kept for a group can be forgotten together."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._groups: dict[str, list[Digest]] = {}

    def recall(self, key: Digest) -> T | None:
        """The value of a key, which is then the latest used; None if it is not there."""
        if key not in self:
            return None
        self.move_to_end(key)
        return self[key]

    def keep(self, key: Digest, value: T, group: str = "") -> None:
        """Remember a value, and forget the one used least recently where there are too many."""
        if group and key not in self:
            self._groups.setdefault(group, []).append(key)
        self[key] = value
        self.move_to_end(key)
        while len(self) > self._size:
            self.popitem(last=False)

    def forget(self, group: str) -> None:
        """Forget what was kept for a group."""
        for key in self._groups.pop(group, ()):
            self.pop(key, None)


@dataclass
class _Job(Generic[T]):
    task: "asyncio.Task[tuple[T | None, Exception | None]]"
    waiters: int = 0


class Jobs:
    """Jobs on their way, by what they make."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._jobs: dict[Digest, _Job[Any]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    async def share(self, key: Digest, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the job that makes `key`, or start it; it is cancelled when its last waiter leaves."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(self._tasks.create_task(_outcome(make())))
        job.waiters += 1
        try:
            value, error = await asyncio.shield(job.task)
        finally:
            job.waiters -= 1
            if not job.waiters:
                job.task.cancel()
                if self._jobs.get(key) is job:
                    del self._jobs[key]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


async def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """The result or the error of a job; an error is raised to the waiters, and not to the task group."""
    try:
        return await work, None
    except Exception as error:
        return None, error


async def gather(works: Iterable[Coroutine[Any, Any, T]], at_a_time: int) -> list[T]:
    """All results in order; the first error cancels the rest and is raised as it is.

    A work is drawn, and may hold references, only when it starts: so ten thousand may pass through a small store.
    """
    results: dict[int, T] = {}
    left = enumerate(works)

    async def work() -> None:
        for i, w in left:
            results[i] = await w

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_a_time):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [results[i] for i in range(len(results))]
