"""What takes long is announced, and what is quick is not; work in a loop beside the caller's."""

import asyncio
import threading
from threading import Event

import pytest

from raysearch.threads import announced, beside


def test_what_takes_long_is_announced_while_it_runs():
    lines, said = [], Event()

    def say(line: str) -> None:
        lines.append(line)
        said.set()

    with announced("it goes on", say, after=0):
        assert said.wait(60)
    assert lines == ["it goes on"]


def test_what_is_quick_is_not_announced():
    lines: list[str] = []
    with announced("it goes on", lines.append, after=60):
        pass
    assert lines == []


def test_work_runs_beside_the_callers_loop_which_goes_on():
    """The work waits for what the caller does meanwhile, and reports in the caller's thread."""
    ready, said = Event(), []

    def report(line: str) -> None:
        said.append((line, threading.get_ident()))
        ready.set()

    async def work(tell):
        tell("begun")
        assert ready.wait(60)  # blocks its own loop alone
        return threading.get_ident()

    async def caller():
        return await beside(work, report)

    there = asyncio.run(caller())
    assert there != threading.get_ident()
    assert said == [("begun", threading.get_ident())]


def test_what_work_raises_is_raised():
    async def work(tell):
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        asyncio.run(beside(work, print))


@pytest.mark.parametrize("early", [True, False])
def test_a_cancelled_caller_cancels_the_work_and_waits_for_its_end(early):
    """Also if the work is still at something that blocks, before it first waits."""
    begun, go, ended = Event(), Event(), []

    async def work(tell):
        begun.set()
        assert not early or go.wait(60)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # the end takes time, too
            ended.append(True)

    async def caller():
        task = asyncio.create_task(beside(work, print))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        assert task.cancelled()

    asyncio.run(caller())
