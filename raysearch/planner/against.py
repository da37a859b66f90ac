"""What a plan foretold beside what a run did: `raysearch plan --against RUN_DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raysearch.errors import ConfigError
from raysearch.parquet import run_table
from raysearch.planner.forecast import Forecast
from raysearch.planner.report import aligned, duration
from raysearch.planner.traced import COLUMNS, busy_seconds
from raysearch.session import status
from raysearch.session.recording import KINDS, TIMELINE, TRACE


@dataclass(frozen=True)
class Actual:
    """What a run did: seconds with its fleet up, NFE alone and run, and the busy share of each kind of replica."""

    wall: float
    charged: int
    nfe: int
    busy: dict[str, float]


def actual(run_dir: Path) -> Actual:
    """Read from status.json, timeline.parquet and trace.parquet. Raises ConfigError for a run that has not finished."""
    s = status.read(run_dir)
    if s.state != "finished" or s.fleet is None:
        raise ConfigError.of("--against", str(run_dir), f"the folder of a run that has finished: this one is {s.state}")
    wall, nfe = s.elapsed, s.fleet.nfe
    timeline = run_dir / TIMELINE
    if timeline.is_file():
        rows = pq.read_table(timeline, columns=["session", "elapsed", "nfe_run"]).to_pydict()
        last: dict[int, tuple[float, int]] = {}
        for session, elapsed, run in zip(rows["session"], rows["elapsed"], rows["nfe_run"], strict=True):
            last[session] = max(last.get(session, (0.0, 0)), (elapsed or 0.0, run or 0))
        wall, nfe = sum(e for e, _ in last.values()) or wall, sum(n for _, n in last.values()) or nfe
    busy: dict[str, float] = {}
    if (run_dir / TRACE).is_file():
        table = {k: np.array(v) for k, v in run_table(run_dir, TRACE, COLUMNS).to_pydict().items()}
        for kind in KINDS:
            seconds, replicas = busy_seconds(table, kind)
            if replicas:
                busy[kind] = seconds / (wall * replicas)
    return Actual(wall, sum(a.nfe for a in s.arms.values()), nfe, busy)


def rows(f: Forecast, a: Actual) -> list[dict[str, Any]]:
    """Each quantity as the plan and the run have it, and the plan's over the run's less 1."""
    pairs: list[tuple[str, float, float | None, str]] = [
        ("wall", f.mid(lambda r: r.wall), a.wall, "s"),
        ("NFE alone", f.mid(lambda r: r.charged), a.charged, ""),
        ("NFE shared", f.mid(lambda r: r.nfe), a.nfe, ""),
        *((f"{k}s busy", f.busy(k), a.busy.get(k), "%") for k in KINDS if k in f.runs[0].use),
    ]
    return [{"what": w, "plan": p, "run": r, "unit": u, "off": p / r - 1 if r else None} for w, p, r, u in pairs]


def table(found: list[dict[str, Any]]) -> list[str]:
    """The rows in words."""

    def text(value: float | None, unit: str) -> str:
        if value is None:
            return "-"
        return {"s": duration(value), "%": f"{value:.0%}", "": f"{value:,.0f}"}[unit]

    lines = [["", "plan", "run", "off", ""]]
    for r in found:
        off = "-" if r["off"] is None else "exact" if r["off"] == 0 else f"{r['off']:+.1%}"
        if r["unit"] == "%" and r["run"] is not None:
            off = f"{100 * (r['plan'] - r['run']):+.0f} points"
        lines.append([r["what"], text(r["plan"], r["unit"]), text(r["run"], r["unit"]), off, ""])
    return aligned(lines)
