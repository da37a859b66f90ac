"""The dry run of a policy that does not end, or takes long: it is bounded, shown, and left behind when interrupted."""

import asyncio
import signal
import threading

import pytest
from fakes import config

from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Prompt
from raysearch.session import plan
from raysearch.testing import FakeBackend
from raysearch.threads import Lane, in_its_own_loop

GO = threading.Event()


@pytest.fixture(autouse=True)
def gate():
    GO.clear()
    yield
    GO.set()


async def waits(ctx):
    GO.wait(600)
    return ctx.best


async def asks(ctx, *, n: int = 0):
    while n:
        n -= 1
        await ctx.score([ctx.best])
    return ctx.best


def estimate(policies, **given):
    arms = [{"name": f"arm{i}", "policy": p} for i, p in enumerate(policies)]
    c = config(arms=arms)
    prepared = FakeBackend().prepare(c, configuration.arms(c))
    return plan.estimate(prepared, [Prompt("a")], [0], **given)


def test_a_dry_run_that_takes_long_is_shown():
    said = []

    def report(line):
        said.append(line)
        GO.set()

    costs = estimate([{"name": "single"}, {"name": "test_dry_run:waits"}], report=report, patience=0)
    assert list(costs) == ["arm0", "arm1"]
    (line,) = said
    assert line.startswith("the dry run of arm arm") and line.endswith(" goes on; Ctrl-C ends it")


def test_a_quick_dry_run_says_nothing():
    said = []
    estimate([{"name": "single"}], report=said.append, patience=600)
    assert said == []


def test_an_interrupted_dry_run_is_left_behind():
    def report(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate([{"name": "test_dry_run:waits"}], report=report, patience=0)
    assert not GO.is_set()  # the policy waits still


def test_questions_are_bounded(monkeypatch):
    monkeypatch.setattr(plan, "MOST_QUESTIONS", 7)
    estimate([{"name": "test_dry_run:asks", "n": 7}])
    with pytest.raises(ConfigError, match=r"arm0\): .*test_dry_run.py:\d+: it asks more than 7 questions"):
        estimate([{"name": "test_dry_run:asks", "n": 8}])


def test_a_lane_runs_calls_in_order_and_gives_what_they_raise():
    lane, seen = Lane("test"), []
    first, second = (lane.submit(lambda i=i: seen.append(i)) for i in range(2))
    failed = lane.submit(lambda: exec("raise SystemExit(3)"))
    assert isinstance(failed.exception(60), SystemExit)
    assert (first.result(), second.result(), seen) == (None, None, [0, 1])
    cancelled = lane.submit(GO.wait), lane.submit(lambda: seen.append(2))
    assert cancelled[1].cancel()
    GO.set()
    lane.close()
    assert seen == [0, 1]


def test_work_in_its_own_loop_is_cancelled_by_ctrl_c():
    ended = []

    async def work():
        try:
            while True:  # a signal between two instructions of the waiting thread may not wake it
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                await asyncio.sleep(0.01)
        finally:
            ended.append(True)

    def once(*_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, once)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_its_own_loop(work())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True]


def test_work_in_its_own_loop_gives_its_result():
    async def work():
        return 3

    assert in_its_own_loop(work()) == 3
