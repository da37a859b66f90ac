"""What several tests share: a small config and a session on fakes in virtual time."""

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.config import config as configuration
from raysearch.engine.protocol import Call
from raysearch.errors import InputLost, ReplicaDied
from raysearch.session import journal
from raysearch.session.progress import Progress
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, FakeReplica, run_virtual, virtual_now


def config(**values: Any) -> configuration.Config:
    return configuration.build(
        {"model": {"path": "fake"}, "prompts": ["a", "b"], "sampler": {"num_steps": 10}} | values
    )


def session(path: Path, backend: FakeBackend | None = None, **values: Any) -> Session:
    return Session(config(**values), backend or FakeBackend(), run_dir=path, clock=virtual_now)


def run(path: Path, on: FakeFleet | None = None, **values: Any) -> tuple[list[dict[str, Any]], Progress]:
    """The rows of searches.parquet, and the progress."""
    progress = run_virtual(session(path, FakeBackend(on or FakeFleet()), **values).run())
    return pq.read_table(path / "searches.parquet").to_pylist(), progress


def candidates(path: Path) -> pa.Table:
    """A run's candidates.parquet, but for the seconds at which was asked: a run that was killed asks later."""
    return pq.read_table(path / "candidates.parquet").drop_columns(["asked_s"])


def unlucky(fleet: FakeFleet) -> FakeFleet:
    """One whose denoisers and scorers lose their inputs at every seventh call, and die at every eleventh."""
    calls = 0

    def fault(call: Call) -> Exception | None:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            return InputLost("gone")
        return ReplicaDied("gone") if calls % 11 == 0 else None

    for r in fleet.replicas:
        if r.kind != "encoder":
            r.fault = fault
    return fleet


ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "bon", "policy": {"name": "best_of_n", "n": 4}},
    {"name": "bon8", "policy": {"name": "best_of_n", "n": 8}},
    {"name": "rgrp", "policy": {"name": "rgrp", "schedule": [2, 5, 7]}},
]

GLIMPSES = [  # by rewards.early on the way, whose fake is ten times the other
    {"name": "sequential", "policy": {"name": "sequential", "n": 5, "batch": 2, "looks": [3, 6], "bars": [3, 5]}},
    {"name": "halving", "policy": {"name": "halving", "n": 5, "schedule": [3, 6]}},
    {"name": "survivors", "policy": {"name": "rgrp", "schedule": [2, 5]}},
]
GLIMPSES = [{**a, "policy": a["policy"] | {"early": True}, "rewards": {"early": {"name": "pavrm"}}} for a in GLIMPSES]


SAME = ("search_id", "winner", "reward_search", "reward_holdout", "nfe", "decodes", "reward_calls", "status", "origin")


def same(rows):
    return [{k: r[k] for k in SAME} for r in rows]


def unequal_fleet(denoisers: int, slots: int, seed: int) -> FakeFleet:
    """Replicas of different speeds, so that the order of completion differs."""
    rng = random.Random(seed)
    kinds = [("denoiser", denoisers, slots), ("scorer", 2, 2), ("encoder", 1, 1)]
    return FakeFleet(
        replicas=[
            FakeReplica(f"{kind}-{i}", kind, f"node-{i % 2}", n, rng.uniform(0.1, 3))
            for kind, count, n in kinds
            for i in range(count)
        ]
    )


def cut(whole: Path, path: Path, records: int, *, tables: bool = False) -> Path:
    """The run directory `whole` as a driver would have left it that was killed after so many records of its journal."""
    shutil.copytree(whole, path)
    file = path / "journal" / "answers.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:records]) + lines[-1][:9] * (records < len(lines)))
    if not tables:
        (path / "searches.parquet").unlink()
        (path / "candidates.parquet").unlink()
    return path


def answers(path: Path) -> list[tuple[str, str, str]]:
    return [
        (r["search"], r["reward"], asked)
        for r in journal.read(path / "journal")
        if r["kind"] == "answer"
        for asked in r["asked"]
    ]
