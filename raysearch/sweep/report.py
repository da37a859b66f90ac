"""A sweep's report: its curves as a picture, and a summary in Markdown. Pure functions of curves and laws."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.bootstrap import interval
from raysearch.session.tables import FINISHED
from raysearch.sweep.curves import Curve, Fit, at, budgets, shown

COST_TITLES = {
    "nfe": "NFE (alone)",
    "replica_seconds": "replica-seconds (alone)",
    "wall_seconds": "wall seconds (as run)",
}
LAWS = {"log": "r = a + b log(c)", "power": "r = r_inf - b c^-alpha"}
FEW_CAPTIONS = 10


def plot(found: Sequence[Curve], laws: Sequence[Fit]) -> bytes:
    """A PNG with a row per shown measure and a column per cost; bands are 95% intervals, dashes the chosen laws."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = shown(found)
    figure = Figure(figsize=(13, 1.2 + 3.2 * max(len(measures), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(len(measures), 1), len(COST_TITLES), sharey="row", squeeze=False)
    colours = matplotlib.colormaps["tab10" if len(found) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for row, (measure, title) in zip(grid, measures.items(), strict=False):
        for axes, (cost, cost_title) in zip(row, COST_TITLES.items(), strict=True):
            for i, c in enumerate(found):
                marker = "os^Dv"[i // len(colours) % 5]  # another marker when colours repeat
                _draw(axes, c, measure, cost, colours[i % len(colours)], marker)
                for f in laws:
                    if f.chosen and (f.curve, f.measure, cost) == (c.label, measure, "nfe"):
                        x = np.geomspace(c.costs[cost].min(), c.costs[cost].max(), 50)
                        axes.plot(x, f(x), "--", color=colours[i % len(colours)], linewidth=1)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(cost_title)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(title)
    named = {t: h for row in grid for h, t in zip(*row[0].get_legend_handles_labels(), strict=True)}
    if named:  # not every curve has every measure
        figure.legend(
            named.values(), named.keys(), loc="outside upper center", ncols=min(len(named), 6), fontsize="small"
        )
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def _draw(axes: Any, c: Curve, measure: str, cost: str, colour: Any, marker: str) -> None:
    there = np.isfinite(c.means[measure]) & np.isfinite(c.costs[cost]) & (c.costs[cost] > 0)
    order = np.flatnonzero(there)[np.argsort(c.costs[cost][there], kind="stable")]
    if not len(order):
        return
    x, y = c.costs[cost][order], c.means[measure][order]
    low, high = np.array([interval(c.draws[measure][:, i]) for i in order]).T
    axes.plot(x, y, f"{marker}-", color=colour, label=c.label, markersize=4)
    if len(x) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    elif np.isfinite(low).all():
        axes.vlines(x, low, high, color=colour, alpha=0.5)


# -- the summary -----------------------------------------------------------------------------------------------------


def summary(rows: pa.Table, found: Sequence[Curve], laws: Sequence[Fit]) -> str:
    """The summary in Markdown: curves at equal replica-seconds, every arm's means, the fitted laws."""
    measures = shown(found)
    captions, seeds = len(pc.unique(rows["prompt"])), len(pc.unique(rows["seed"]))
    alone, spent = (pc.sum(rows[k]).as_py() for k in ("nfe_alone", "nfe_spent"))
    lines = [
        "# Sweep",
        "",
        f"{rows.num_rows} searches: {len(set(rows['arm'].to_pylist()))} arms on {captions} captions x {seeds} seeds. "
        f"NFE: {alone} if each had run alone, {spent} spent, since arms share what they make. "
        "Intervals are 95%, by drawing captions and seeds anew.",
    ]
    failed = rows.num_rows - sum(s in FINISHED for s in rows["status"].to_pylist())
    if failed:
        lines += [
            "",
            f"**{failed} searches failed or were cancelled and are in no mean; run the sweep again for them.**",
        ]
    if captions < FEW_CAPTIONS:
        lines += [
            "",
            f"With {captions} captions (fewer than {FEW_CAPTIONS}) the intervals are too narrow: an impression only.",
        ]
    levels = budgets(found)
    for measure, title in measures.items():
        lines += ["", f"## {title} at equal replica-seconds", ""]
        if measure == "gap":
            lines += [
                "Both rewards are of the same winners; the gap grows if a search exploits its reward's errors.",
                "",
            ]
        body = []
        for c in found:
            cells = [at(c, measure, level) for level in levels]
            if any(cells):
                body.append([c.label, *("–" if cell is None else _cell(*cell) for cell in cells)])
        lines += _markdown(["curve", *(f"{level:.3g} s" for level in levels)], body)
    lines += [
        "",
        "Means between a curve's points are interpolated in the logarithm of replica-seconds; – is outside its range.",
        "",
    ]
    lines += ["## Every arm", ""]
    body = [
        [
            arm,
            str(max((int(n[i]) for n in c.n.values()), default=0)),
            f"{c.costs['nfe'][i]:.0f}",
            f"{c.costs['nfe_spent'][i]:.0f}",
            f"{c.costs['replica_seconds'][i]:.3g}",
            *(_cell(c.means[m][i], *interval(c.draws[m][:, i])) if c.n[m][i] else "–" for m in measures),
        ]
        for c in found
        for i, arm in enumerate(c.arms)
    ]
    lines += _markdown(["arm", "n", "NFE alone", "NFE spent", "replica-s", *measures.values()], body)
    lines += ["", "## Scaling laws", "", "c is NFE; of the two forms the one with the higher adjusted R².", ""]
    body = [
        [c.label, title, *_law([f for f in laws if (f.curve, f.measure) == (c.label, measure)], c)]
        for c in found
        for measure, title in measures.items()
        if measure != "gap" and c.n[measure].any()
    ]
    lines += _markdown(["curve", "measure", "law", "parameters", "R²", "points"], body)
    return "\n".join(lines) + "\n"


def _law(made: Sequence[Fit], c: Curve) -> list[str]:
    points = str(len(c.arms))
    if not made:
        return ["none: a fit needs at least 3 budgets", "", "", points]
    f = next((f for f in made if f.chosen), None)
    if f is None:
        return ["none: the means are all equal", "", "", points]
    numbers = ", ".join(f"{k} = {v:.3g} [{low:.3g}, {high:.3g}]" for k, (v, low, high) in f.parameters.items())
    return [LAWS[f.form], numbers, f"{f.r2:.3f}", str(f.points)]


def _cell(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(low) else f"{mean:.3f}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(row) + " |" for row in rows]
