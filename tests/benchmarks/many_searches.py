"""How a run of many searches loads its driver, on fakes in virtual time: memory, files in a folder, `status`.

    python tests/benchmarks/many_searches.py

Each prompt is searched once, by best of 4, and its winner has a video. Printed are the driver's memory and its CPU
seconds for each search after each number of `--searches`, which are to be the same within 10% from 1,000 on; then the
most files that one folder of the run holds, which is to be 10,000 at most, and the CPU seconds of `raysearch status` on
that folder, which are to be at most 1.
"""

import argparse
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from bench import ROOT, Report, json_option

from raysearch.config import config as configuration
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now


def memory() -> float:
    """The megabytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def searched(searches: list[int], folder: Path) -> list[tuple[int, float, float]]:
    """After each number of searches: that number, megabytes, and CPU seconds for each search so far."""
    config = configuration.build(
        {
            "model": {"path": "fake"},
            "sampler": {"num_steps": 10},
            "policy": {"name": "best_of_n", "n": 4},
            "prompts": [f"prompt {i}" for i in range(max(searches))],
        }
    )
    fleet = FakeFleet(8, 4, 8)
    for replica in fleet.replicas:
        replica.calls = deque(maxlen=0)
    backend = FakeBackend(fleet)
    backend.published = deque(maxlen=0)
    session = Session(config, backend, run_dir=folder, clock=virtual_now)
    seen: list[tuple[int, float, float]] = []
    add, began = session.progress.add, time.process_time()

    def watched(row: dict[str, Any]) -> None:
        add(row)
        if (done := session.progress.done) in searches:
            gc.collect()
            seen.append((done, memory(), (time.process_time() - began) / done))

    session.progress.add = watched  # type: ignore[method-assign]
    run_virtual(session.run([]))
    return seen


def fullest(folder: Path) -> int:
    """The most entries that a folder in `folder` has."""
    return max(len(names) + len(files) for _, names, files in os.walk(folder))


def status_seconds(folder: Path) -> float:
    """CPU seconds of a process that says how the run in a folder went."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "raysearch", "status", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, nargs="+", default=[1000, 10_000, 100_000])
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    with tempfile.TemporaryDirectory() as scratch:
        seen = searched(args.searches, Path(scratch) / "run")
        _, mb, each = seen[0]
        rows = [
            [f"{n:,}", f"{m:.0f}", f"{m / mb - 1:+.0%}", f"{1000 * s:.2f}", f"{s / each - 1:+.0%}"] for n, m, s in seen
        ]
        head = "searches | driver's memory, MB | more than at first | CPU, ms a search | more than at first"
        report.table("memory", head, rows)
        files, seconds = fullest(Path(scratch) / "run"), status_seconds(Path(scratch) / "run")
    head = "searches | most files in a folder | at most | CPU seconds of status | at most"
    report.table("folder", head, [[f"{max(args.searches):,}", f"{files:,}", "10,000", f"{seconds:.2f}", "1"]])


if __name__ == "__main__":
    main()
