"""The driver's process of `chaos.py`: a run on real Ray with a seeded hand inside, which strikes actors at a call.

It kills the actor, or stops its process (SIGSTOP): for some seconds, or until the fleet finds that it hangs. In some
runs the driver dies in the middle of a write to its journal, and in some its disk is full from some moment on.
"""

import asyncio
import json
import os
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors.backend import Backend
from actors.cluster import fleet as ray_fleet
from raysearch.config import config as configuration
from raysearch.engine.protocol import Answer, Call, Fleet
from raysearch.errors import FolderError, RaysearchError, single
from raysearch.session.plan import Plan
from raysearch.session.session import Session

DOING = {"denoise": "denoiser", "look": "scorer", "finish": "scorer that decoded a winner", "encode": "encoder"}
FULL, TORN = "disk that was full", "driver in the middle of a write to the journal"


def written(run_dir: Path) -> int:
    """Bytes of the answers in a run's journal."""
    return sum(p.stat().st_size for p in (run_dir / "journal").glob("answers*"))


def struck(notes: Path) -> int:
    """Strikes of a round so far, by either hand."""
    return notes.read_text().count("\n")


class Haunted(Backend):
    """A backend whose actors are killed while they are at a call."""

    def __init__(
        self, rng: random.Random, every: float, run_dir: Path, more: Callable[[], bool], note: Callable[[str], None]
    ) -> None:
        """Calls are struck while `more` is true."""
        super().__init__()
        self._rng, self._every, self._run_dir, self._more, self._note = rng, every, run_dir, more, note

    @asynccontextmanager
    async def fleet(
        self, config: configuration.Config, plan: Plan, report: Callable[[str], None]
    ) -> AsyncIterator[Fleet]:
        doing: dict[str, tuple[ray_fleet.RayReplica, Counter[str]]] = {}
        plain = ray_fleet.RayReplica.run

        async def run(replica: ray_fleet.RayReplica, call: Call) -> Answer:
            calls = doing.setdefault(replica.id, (replica, Counter()))[1]
            calls[call.name] += 1
            try:
                return await plain(replica, call)
            finally:
                calls[call.name] -= 1

        ray_fleet.RayReplica.run = run  # type: ignore[method-assign,assignment]
        async with super().fleet(config, plan, report) as made:
            hand = asyncio.create_task(self._kill(doing))
            try:
                yield made
            finally:
                hand.cancel()

    async def _kill(self, doing: dict[str, tuple[ray_fleet.RayReplica, Counter[str]]]) -> None:
        recorded = -1
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._every))
            if not self._more() or written(self._run_dir) <= recorded:
                continue
            wanted = self._rng.choice(list(DOING))
            busy = [(r, wanted) for r, calls in doing.values() if calls[wanted] > 0]
            if not busy:
                continue
            replica, method = self._rng.choice(busy)
            how = self._rng.choices(["killed", "stopped for a while", "stopped for good"], [6, 2, 1])[0]
            try:
                async with asyncio.timeout(5):
                    pid = await replica.actor.pid.remote()
                if doing[replica.id][1][method] > 0:  # still at it
                    os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
                    recorded = written(self._run_dir)
                    self._note(f"{DOING[method]} at work, {how}")
                    if how == "stopped for a while":
                        await asyncio.sleep(self._rng.uniform(1, 5))
                        os.kill(pid, signal.SIGCONT)
            except Exception:
                continue


def tear(session: Session, fatal: int, rng: random.Random, note: Callable[[str], None]) -> None:
    """Let the driver die in the middle of the write of the record number `fatal`."""
    add, count = session.journal.add, [0]

    def torn(record: dict[str, Any]) -> None:
        count[0] += 1
        if count[0] == fatal:
            text = json.dumps(record).encode()
            session.journal._file.write(b"0a0b0c0d " + text[: rng.randrange(len(text))])
            session.journal._file.flush()
            note(TORN)
            os._exit(9)
        add(record)

    session.journal.add = torn  # type: ignore[method-assign]


def drive(config: str, run_dir: Path, seed: int, every: float, most: int, notes: Path) -> int:
    """A run that goes on with what is there, until it ends or something stops it; returns its exit code."""
    rng = random.Random(seed)

    def note(what: str) -> None:
        with notes.open("a") as lines:  # a line at a time, by either process
            lines.write(f"{what}\n")

    built = configuration.build(json.loads(config) | {"resume": "auto", "run_dir": str(run_dir)})
    haunted = Haunted(rng, every, run_dir, lambda: struck(notes) < most, note)
    session = Session(built, haunted, run_dir=run_dir, report=lambda line: None)
    fate, full = rng.random() if struck(notes) < most else 1.0, None
    if fate < 0.3:
        tear(session, rng.randrange(1, 30), rng, note)
    elif fate < 0.6:  # no file may be longer: the journal is the longest
        full = written(run_dir) + rng.randrange(1, 20_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    try:
        asyncio.run(session.run())
    except (RaysearchError, BaseExceptionGroup) as raised:
        error = single(raised)
        if not isinstance(error, RaysearchError):
            raise
        if full is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if isinstance(error, FolderError):
                note(FULL)
        print(f"raysearch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    _, config, run, seed, every, most, noted = sys.argv
    sys.exit(drive(config, Path(run), int(seed), float(every), int(most), Path(noted)))
