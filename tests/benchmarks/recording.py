"""What the record of a run's own course costs: rows, bytes a row, and the share of a tiny run's time.

    python tests/benchmarks/recording.py

The searches of configs/quickstart.yaml on a local fleet. The share is the time in which rows of timeline.parquet and
trace.parquet are made and written, over the time of the run; what a candidate's row has for pages is counted in
candidates.parquet's own compressed bytes.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from bench import ROOT, Report, json_option

from actors.backend import Backend
from raysearch.config import config as configuration
from raysearch.session import recording
from raysearch.session.session import Session

FOR_PAGES = ("num_steps", "call", "asked_s", "nfe_after")  # of candidates.parquet


def clocked(whole: type, name: str, spent: list[float]) -> None:
    """Add the seconds of each call of a method to `spent`."""
    method: Callable[..., Any] = getattr(whole, name)

    def timed(self: Any, *given: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(self, *given)
        finally:
            spent.append(time.perf_counter() - began)

    setattr(whole, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    json_option(parser)
    args = parser.parse_args()
    spent: dict[str, list[float]] = {"rows": [], "writes": []}
    clocked(recording.Recording, "ran", spent["rows"])
    clocked(recording.Recording, "snapshot", spent["rows"])
    clocked(recording.Log, "_append", spent["writes"])
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "run"
        config = configuration.load(args.config, ["fleet.backend=local", *args.overrides])
        session = Session(config, Backend(), run_dir=run_dir)
        began = time.perf_counter()
        asyncio.run(session.run([]))
        seconds = time.perf_counter() - began
        rows = []
        for name in (recording.TRACE, recording.TIMELINE, "candidates.parquet"):
            found = pq.ParquetFile(run_dir / name).metadata
            size = (run_dir / name).stat().st_size
            rows.append([name, str(found.num_rows), str(size), f"{size / found.num_rows:.0f}"])
        first = pq.ParquetFile(run_dir / "candidates.parquet").metadata.row_group(0)
        columns = [first.column(i) for i in range(first.num_columns)]
        size = sum(c.total_compressed_size for c in columns if c.path_in_schema in FOR_PAGES)
        rows.append(
            [f"of these: {', '.join(FOR_PAGES)}", str(found.num_rows), str(size), f"{size / found.num_rows:.0f}"]
        )
    report = Report(args.json)
    report.table("recording", "file | rows | bytes | bytes a row", rows)
    shares = [[what, f"{1000 * sum(times):.1f}", f"{sum(times) / seconds:.2%}"] for what, times in spent.items()]
    report.table("shares", f"what | ms of the run's {seconds:.0f} s | share", shares)


if __name__ == "__main__":
    main()
