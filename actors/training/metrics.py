"""The metrics of a training in its run directory: metrics.parquet, and curves.png drawn from it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from actors.training.config import METRICS
from raysearch.files import Folder
from raysearch.parquet import write_table

COLUMNS = pa.schema([("step", pa.int64()), ("metric", pa.string()), ("value", pa.float64())])


@dataclass(frozen=True)
class Panel:
    """One panel of the picture of curves: its title, the label of its y axis, and the metrics drawn in it.

    A metric belongs to a panel that names it, or that names the words with which its own name begins.
    """

    title: str
    label: str
    metrics: tuple[str, ...]


def record(run_dir: Path, rows: Sequence[dict[str, Any]], panels: Sequence[Panel]) -> None:
    """Write the rows, each a step, a metric and its value, to metrics.parquet; and their curves to curves.png."""
    write_table(Folder(run_dir), METRICS, pa.Table.from_pylist(list(rows), schema=COLUMNS))
    Folder(run_dir).write("curves.png", curves(rows, panels))


def recorded(run_dir: Path, *, until: int) -> list[dict[str, Any]]:
    """The rows of metrics.parquet up to a step; none where there is no such file."""
    path = run_dir / METRICS
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    return [r for r in rows if r["step"] <= until]


def curves(rows: Sequence[dict[str, Any]], panels: Sequence[Panel]) -> bytes:
    """A PNG with a curve over steps of each metric, in its panel."""
    matplotlib.use("agg")
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        axis.set(xlabel="step", ylabel=panel.label, title=panel.title)
        for name in dict.fromkeys(r["metric"] for r in rows):
            group = next((m for m in panel.metrics if name == m or name.startswith(m + " ")), None)
            if group is not None:
                points = [(r["step"], r["value"]) for r in rows if r["metric"] == name]
                axis.plot(*zip(*points, strict=True), label=name.removeprefix(group + " "))
        if axis.lines:
            axis.legend(fontsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
