"""Real Ray on this machine: heads in processes of their own, and what is waited for there."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import ray

from actors.backend import Backend
from actors.cluster import fleet as ray_fleet
from actors.workers.pulse import Pulse
from raysearch.config import config as configuration
from raysearch.session.session import Session

ROOT = Path(__file__).parents[1]


@contextmanager
def here(*, num_cpus: int, num_gpus: int = 0):
    """A Ray in this process, whose workers can import the tests' modules."""
    ray.shutdown()  # another module's
    path = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
    ray.init(num_cpus=num_cpus, num_gpus=num_gpus, **quiet, runtime_env={"env_vars": path})
    yield
    ray.shutdown()


RAY = str(Path(sys.executable).with_name("ray"))


PATIENCE = 900  # seconds; three processes that import torch, on a machine that has other work


RESERVED = range(10002, 20000)  # Ray hands these to its workers


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "nothing happened for too long"
        time.sleep(0.1)  # another process's doing: there is nothing to wait on


def free_port() -> int:
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            if s.getsockname()[1] not in RESERVED:
                return s.getsockname()[1]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those of a head: all are given its folder, but for workers, whose parent is the raylet."""
    found = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    return list({q for p in found for q in (p, *children(p))})


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def rows(run_dir: Path) -> list[dict]:
    path = run_dir / "searches.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def undisturbed(run_dir: Path, overrides: list[str]) -> list[tuple]:
    """The winners of the same config in this process."""
    config = configuration.load(ROOT / "configs" / "mixture.yaml", overrides)
    asyncio.run(Session(config, Backend(), run_dir=run_dir).run())
    return [(r["search_id"], r["winner"], r["reward_search"]) for r in rows(run_dir)]


@contextmanager
def before_each_call(monkeypatch, act):
    """`await act(replica, call)` before each call of a replica."""
    plain = ray_fleet.RayReplica.run

    async def run(self, call):
        await act(self, call)
        return await plain(self, call)

    with monkeypatch.context() as patch:
        patch.setattr(ray_fleet.RayReplica, "run", run)
        yield


class Idle:
    """A worker with no model, whatever its device."""

    def __init__(self, kind, config, plan) -> None:
        self.pulse = Pulse()


class Exits:
    """A worker that ends its process as it loads."""

    def __init__(self, kind, config, plan) -> None:
        os._exit(7)
