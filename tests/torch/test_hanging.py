"""Calls that do not return, in a local run: fleet.timeout_s holds for them, and Ctrl-C ends the process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.workers import pulse
from actors.workers.local import LocalReplica
from actors.workers.pulse import Pulse
from raysearch.engine.protocol import Call, Encode, Text
from raysearch.errors import ReplicaDied

ROOT = Path(__file__).parents[2]
CALL = Call(Encode(Text("a", 4)), {})


class Fake:
    """A worker whose calls return at once, or never."""

    def __init__(self, busy: float | None = None) -> None:
        self.pulse, self.cancelled, self.abandoned = Pulse(), [], False
        self.busy = busy
        if busy is not None:
            self.pulse.busy = lambda: busy

    def submit(self, item, request, inputs):
        done = Future()
        if self.busy is None:
            done.set_result(("reply", "made"))
        return done

    def cancel(self, item):
        self.cancelled.append(item)

    def abandon(self):
        self.abandoned = True


def test_a_call_that_takes_too_long_loses_its_worker_and_the_next_gets_another():
    stuck = Fake(busy=2000.0)

    async def go():
        replica = LocalReplica("scorer-0", "scorer", 1, stuck, Fake, timeout=600.0)
        with pytest.raises(ReplicaDied, match=r"scorer-0 has hung for 600 s \(fleet.timeout_s\)"):
            await replica.run(CALL)
        await replica.restart()
        return await replica.run(CALL)

    assert asyncio.run(go()).ref == "made"
    assert stuck.abandoned and stuck.cancelled == [1]


def test_the_first_call_may_take_longer():
    seconds = Pulse()
    seconds.busy = lambda: 700.0
    assert seconds.left(600) == 600 * pulse.FIRST - 700
    seconds.beats = 1
    assert seconds.left(600) == -100


def test_a_worker_that_cannot_start_again_is_a_lost_replica():
    def fails():
        raise MemoryError("no room")

    replica = LocalReplica("scorer-0", "scorer", 1, Fake(busy=2000.0), fails, timeout=600.0)
    with pytest.raises(ReplicaDied, match="scorer-0 does not start: MemoryError: no room"):
        asyncio.run(replica.restart())


@pytest.mark.parametrize("where", ["reward", "dry run"])
def test_ctrl_c_ends_a_run_of_which_a_call_never_returns(tmp_path, where):
    (tmp_path / "sleepy.py").write_text(
        "import pathlib, time\n\n\n"
        "def sleep():\n"
        f"    pathlib.Path({str(tmp_path / 'asleep')!r}).touch()\n"
        "    time.sleep(3600)\n\n\n"
        "class Sleepy:\n"
        "    components, needs, calls = ('x',), 'latent', 0\n"
        "    def __call__(self, views):\n"
        "        self.calls += 1  # the first is the trial\n"
        "        return [[0.0] for v in views] if self.calls == 1 else sleep()\n\n\n"
        "async def search(ctx):\n"
        f"    if {where == 'dry run'}: sleep()\n"
        "    await ctx.score(ctx.noise())\n"
        "    return ctx.best\n"
    )
    run_dir = tmp_path / "run"
    arguments = ["rewards.search.name=sleepy:Sleepy", "policy.name=sleepy:search", f"run_dir={run_dir}", "resume=auto"]
    run = subprocess.Popen(
        [sys.executable, "-m", "raysearch", "run", "configs/mixture.yaml", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 600
    while run.poll() is None and time.monotonic() < deadline and not (tmp_path / "asleep").exists():
        time.sleep(0.05)  # a real process's file: there is nothing to wait on
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=600)  # the reward sleeps for an hour
    assert (run.returncode, err) == (130, "raysearch: interrupted\n")
    if where == "dry run":
        assert not run_dir.exists()
    else:
        statuses = pq.read_table(run_dir / "searches.parquet")["status"].to_pylist()
        assert set(statuses) == {"cancelled"}
