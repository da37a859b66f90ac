"""Work that is done once for all who ask for it, and bounded memories of what was done."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from raysearch.recipe.digests import Digest
from raysearch.recipe.sequels import Sequels

T = TypeVar("T")


@dataclass(eq=False)
class Guess:
    """Work that no search has asked for, but may come to ask for. `age` is that of the first one that did, else None.

    `vain` are the seconds for which replicas ran what was then given up. `asked` is called when the guess comes true,
    and `drop` gives the work up.
    """

    order: tuple[float, ...] = ()  # of guesses the lowest goes first
    age: int | None = None
    vain: float = 0.0
    asked: Callable[[], None] = lambda: None
    drop: Callable[[], None] = lambda: None
    _needs: list["Guess"] = field(default_factory=list)

    def need(self, other: "Guess") -> None:
        """Once this guess has come true, so has the other, on which it waits."""
        self._needs.append(other)
        if self.age is not None:
            other.confirm(self.age)

    def confirm(self, age: int) -> None:
        """A search of this age has asked for it."""
        if self.age is None:
            self.age = age
            self.asked()
            for other in self._needs:
                other.confirm(age)


def is_open(guess: Guess | None) -> bool:
    """True of a guess for which nobody has asked."""
    return guess is not None and guess.age is None


@dataclass
class Spent:
    """What was really run for one search. What searches share is counted for the search that asked first.

    `age` orders searches, `group` is shared by those that share candidates, and `spilled` are the parts of a long video
    that the search has on disk. With `sequels` the engine works ahead while the search waits; such work has a `guess`.
    """

    age: int = 0
    nfe: int = 0
    group: str = ""
    spilled: list[Digest] = field(default_factory=list)
    sequels: Sequels | None = None
    guess: Guess | None = None


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
    guess: Guess | None
    waiters: int = 0


class Jobs:
    """Jobs on their way, by what they make."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._jobs: dict[Digest, _Job[Any]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    async def share(self, key: Digest, make: Callable[[Spent], Coroutine[Any, Any, T]], spent: Spent) -> T:
        """Join the job that makes `key`, or start it; it is cancelled when its last waiter leaves.

        A job that was begun on a guess may fail for nobody but the guess: who asks for it then makes it anew.
        """
        while True:
            job = self._jobs.get(key) or self._start(key, make, spent)
            if job.guess is not None and spent.guess is not None:
                spent.guess.need(job.guess)
            elif job.guess is not None:
                job.guess.confirm(spent.age)
            job.waiters += 1
            try:
                value, error = await asyncio.shield(job.task)
            finally:
                job.waiters -= 1
                if not job.waiters:
                    self._drop(key, job)
            if error is None:
                return value  # type: ignore[return-value]
            self._drop(key, job)
            if job.guess is None or spent.guess is not None:
                raise error

    def _start(self, key: Digest, make: Callable[[Spent], Coroutine[Any, Any, T]], spent: Spent) -> _Job[T]:
        own = spent if spent.guess is None else replace(spent, guess=Guess(spent.guess.order))
        job = self._jobs[key] = _Job(self._tasks.create_task(_outcome(make(own))), own.guess)
        if own.guess is not None:
            own.guess.drop = partial(self._drop, key, job)
        return job

    def _drop(self, key: Digest, job: _Job[Any]) -> None:
        job.task.cancel()
        if self._jobs.get(key) is job:
            del self._jobs[key]


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


@dataclass(eq=False)
class _Stop:
    step: int
    guess: Guess | None


@dataclass
class _Trajectory:
    """The stops asked for on one trajectory; guesses wait until nobody asks."""

    stops: list[_Stop] = field(default_factory=list)
    running: _Stop | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def next(self) -> int:
        """The earliest stop."""
        return min([s.step for s in self.stops if not is_open(s.guess)] or [s.step for s in self.stops])


class Turns:
    """One item runs on a trajectory at a time, the earliest stop first."""

    def __init__(self) -> None:
        self._trajectories: dict[Digest, _Trajectory] = {}

    def __len__(self) -> int:
        return len(self._trajectories)

    @asynccontextmanager
    async def turn(self, trajectory: Digest, step: int, guess: Guess | None, age: int) -> AsyncIterator[None]:
        """Wait for the turn of a stop, and hold it; `age` is that of the search that asks, unless it is a guess."""
        t = self._trajectories.setdefault(trajectory, _Trajectory())
        stop = _Stop(step, guess)
        t.stops.append(stop)
        if not is_open(guess):  # a guess may have begun since the search asked
            self.clear(trajectory, step, age)
        try:
            await asyncio.sleep(0)  # stops asked for in the same turn are all known before the first leg starts
            async with t.changed:
                while t.running is not None or step != t.next:
                    if t.running is None:  # it was told that it is next, and then a later stop came true
                        t.changed.notify_all()
                    await t.changed.wait()
                t.running = stop
            try:
                yield
            finally:
                t.running = None
        finally:
            t.stops.remove(stop)
            if not t.stops:
                self._trajectories.pop(trajectory, None)
            async with t.changed:
                t.changed.notify_all()

    def clear(self, trajectory: Digest, step: int, age: int) -> None:
        """Let no guess keep a search from a stop: one that is on the way there has come true, another is given up."""
        t = self._trajectories.get(trajectory)
        if t is not None and t.running is not None and (guess := t.running.guess) is not None and guess.age is None:
            if t.running.step <= step:
                guess.confirm(age)
            else:
                guess.drop()
