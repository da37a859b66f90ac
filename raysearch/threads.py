"""Threads that do not keep the process alive: what runs in them may never return."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """A thread that runs calls one after the other, or several threads that share the calls out.

    The process can end while a call goes on; it waits for the threads of a ThreadPoolExecutor.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Queue a call and return at once; the future resolves to what it returns or raises."""
        done: Future[T] = Future()
        self._calls.put((done, call))
        return done

    def close(self, patience: float | None = None) -> None:
        """Wait until the calls are done, for so many seconds at most."""
        for _ in self._threads:
            self._calls.put(None)
        end = None if patience is None else time.monotonic() + patience
        for thread in self._threads:
            thread.join(None if end is None else max(end - time.monotonic(), 0.0))

    def _work(self) -> None:
        while (queued := self._calls.get()) is not None:
            done, call = queued
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(call())
                except BaseException as error:
                    done.set_exception(error)
            del queued, done, call  # an idle thread holds nothing


@contextmanager
def announced(line: str, say: Callable[[str], None], *, after: float = 0.5) -> Iterator[None]:
    """Say a line when what runs in this context takes longer than `after` seconds."""
    timer = threading.Timer(after, say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


async def beside(work: Callable[[Callable[[str], None]], Coroutine[Any, Any, T]], report: Callable[[str], None]) -> T:
    """The result of `work`, which runs in a loop of its own in another thread while the caller's loop goes on.

    `work` takes a function that calls `report` in the caller's loop. When the caller is cancelled, `work` is cancelled,
    and CancelledError is raised when `work` has ended.
    """
    here = asyncio.get_running_loop()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    def tell(line: str) -> None:
        with suppress(RuntimeError):  # the caller's loop is closed
            here.call_soon_threadsafe(report, line)

    async def held() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        return await work(tell)

    lane = Lane("loop")
    ended = asyncio.wrap_future(lane.submit(lambda: asyncio.run(held())))
    try:
        await asyncio.wait([ended])
    except asyncio.CancelledError:
        loop, task = await asyncio.wrap_future(started)
        with suppress(RuntimeError):  # the loop is closed: the work has just ended
            loop.call_soon_threadsafe(task.cancel)
        await asyncio.wait([ended])
        ended.cancelled() or ended.exception()  # it is looked at, whatever it is
        raise
    finally:
        lane.close(0.0)
    return ended.result()


def in_its_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of `asyncio.run` in another thread, so that the caller may be inside a running event loop.

    When the caller is interrupted, `work` is cancelled, and the interruption is raised when `work` has ended.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def held() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        return await work

    lane = Lane("loop")
    try:
        return lane.submit(lambda: asyncio.run(held())).result()
    except KeyboardInterrupt:
        loop, task = started.result()
        with suppress(RuntimeError):  # the loop is closed: the work itself has raised it
            loop.call_soon_threadsafe(task.cancel)
        lane.close()
        raise


async def ended_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; SIGTERM cancels it, as Ctrl-C does: a job is stopped so.

    Set within the loop, since Ray takes the signal for itself when it starts. The loop leaves SIGTERM fatal.
    """
    task = asyncio.current_task()
    assert task is not None
    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM interrupts what runs in this context as Ctrl-C does; an event loop that has ended has left it fatal."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
