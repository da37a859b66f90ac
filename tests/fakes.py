"""What several tests share: a small config and a session on fakes in virtual time."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raysearch.config import config as configuration
from raysearch.engine.protocol import Call
from raysearch.errors import InputLost, ReplicaDied
from raysearch.session.progress import Progress
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now


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
