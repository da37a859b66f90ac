"""The curves of a sweep for its page, as curves.parquet and fits.parquet have them."""

from typing import Any

import numpy as np
import pyarrow as pa

from raysearch.page.comparisons import number
from raysearch.page.reading import Run
from raysearch.sweep.curves import FITS, Fit
from raysearch.sweep.report import LAWS

POINTS = 60  # of a law that is drawn
NEEDED = ("curve", "policy", "arm", "budget", "replica_seconds", "wall_seconds", "measure", "mean", "low", "high", "n")
GAINED = {"delta": "difference", "delta_low": "difference_low", "delta_high": "difference_high"}


def curves(run: Run) -> dict[str, list[dict[str, Any]]] | None:
    """By measure, the curves of a sweep; None of a run that is no sweep, or of which no curves are drawn yet."""
    table = run.tables.get("curves")
    if table is None or not {*NEEDED, *GAINED.values(), "pairs"} <= set(table.column_names):
        return None
    laws = _laws(run.tables.get("fits"))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for r in table.to_pylist():
        of = found.setdefault(r["measure"], {})
        curve = of.setdefault(r["curve"], {"series": r["curve"], "policy": r["policy"], "points": [], "law": None})
        cost = {"nfe": r["budget"], "seconds": r["replica_seconds"], "wall": r["wall_seconds"]}
        point = {k: _number(r[k]) for k in ("mean", "low", "high")} | {k: _number(r[c]) for k, c in GAINED.items()}
        counts = {"arm": r["arm"], "n": r["n"], "pairs": r["pairs"]}
        curve["points"].append(counts | point | {"cost": {k: _number(v) for k, v in cost.items()}})
    for measure, of in found.items():
        for name, curve in of.items():
            curve["points"].sort(key=lambda p: p["cost"]["nfe"] or 0.0)
            law = laws.get((name, measure))
            curve["law"] = _drawn(law, [p["cost"]["nfe"] for p in curve["points"]]) if law else None
    return {measure: list(of.values()) for measure, of in found.items()}


def _laws(table: pa.Table | None) -> dict[tuple[str, str], Fit]:
    """The chosen law of each curve and measure."""
    if table is None or table.column_names != FITS.names:
        return {}
    made: dict[tuple[str, str], Fit] = {}
    for r in table.to_pylist():
        if r["chosen"] and r["form"] in LAWS:
            of = (r["curve"], r["policy"], r["measure"], r["form"])
            blank = Fit(*of, {}, r["r2"], r["adjusted_r2"], r["points"], True)
            fit = made.setdefault((r["curve"], r["measure"]), blank)
            fit.parameters[r["parameter"]] = (r["value"], r["low"], r["high"])
    return made


def _drawn(law: Fit, nfe: list[float | None]) -> dict[str, Any] | None:
    there = [c for c in nfe if c is not None and c > 0]
    if not there:
        return None
    xs = np.geomspace(min(there), max(there), POINTS)
    said = ", ".join(f"{k} = {v:.3g} [{low:.3g}, {high:.3g}]" for k, (v, low, high) in law.parameters.items())
    text = f"{LAWS[law.form]}: {said}; R² {law.r2:.3f}"
    return {"text": text, "xs": xs.tolist(), "ys": [number(y) for y in law(xs)]}


def _number(value: float | None) -> float | None:
    return None if value is None else number(value)
