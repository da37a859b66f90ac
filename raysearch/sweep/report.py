"""A sweep's report: pictures of what its curves gain, and a summary in Markdown. Pure functions of curves and laws."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.bootstrap import shared
from raysearch.session.tables import FINISHED
from raysearch.sweep.curves import Curve, Fit, Means, at, budgets, compared, shown

COSTS = {"nfe": ("NFE", "{:.0f}"), "replica_seconds": ("replica-seconds", "{:.3g} s")}
LAWS = {"log": "r = a + b log(c)", "power": "r = r_inf - b c^-alpha"}
FEW_CAPTIONS = 10
PLAIN, SIGNED = ".3f", "+.3f"  # how means and differences are written
# Okabe and Ito's colours, which people tell apart however they see colours; without the yellow, which is too pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*X<>"
LINES = ("-", "--", ":", "-.")
APART = 0.03  # doublings of the cost by which the points of one curve stand beside those of the next


# -- pictures --------------------------------------------------------------------------------------------------------


def plots(found: Sequence[Curve], baseline: str) -> dict[str, bytes]:
    """PNGs by file name: curves.png, and success.png if a judge says what a success is or how rewards differ.

    curves.png has the gain of the judged reward over the baseline, success.png that of success, and the gap between the
    search reward and the judged reward; each against NFE and against replica-seconds as if an arm had run alone.
    """
    measures = shown(found)
    first, *others = [(m, f"gain in {title} over {baseline}", True) for m, title in compared(found).items()] or [
        ("", "no search has finished", True)
    ]
    if "gap" in measures:
        others.append(("gap", measures["gap"], False))
    return {"curves.png": _picture(found, [first])} | ({"success.png": _picture(found, others)} if others else {})


def _picture(found: Sequence[Curve], panels: Sequence[tuple[str, str, bool]]) -> bytes:
    """A PNG with a row for each panel, (measure, title, whether it is the gain that is drawn), and a column per cost.

    Error bars are 95% intervals. Points of different curves stand a little apart, so that no bar hides another. The
    legend lists the curves from the top down, by the last point of each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 0.6 + 4.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), len(COSTS), sharey="row", squeeze=False)
    for row, (measure, title, gained) in zip(grid, panels, strict=True):
        for axes, (cost, (cost_title, _)) in zip(row, COSTS.items(), strict=True):
            axes.axhline(0, color="0.6", linewidth=1)
            for i, c in enumerate(found):
                drawn = (c.gains if gained else c.means).get(measure)
                if drawn is not None:
                    _draw(axes, drawn, c.costs[cost], c.label, i, len(found))
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(f"{cost_title}, had each search run alone")
            axes.grid(alpha=0.25)
        row[0].set_ylabel(title)
    lines = {line.get_label(): line for row in reversed(grid) for line in row[0].get_legend_handles_labels()[0]}
    if lines:  # not every curve has every measure
        handles = sorted(lines.values(), key=lambda line: -line.get_ydata()[-1])
        figure.legend(handles=handles, loc="outside right upper", fontsize="small", title="bars: 95% intervals")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def _draw(axes: Any, means: Means, costs: np.ndarray, label: str, i: int, of: int) -> None:
    """The i-th of several curves: its points, joined, each with its interval."""
    there = np.isfinite(means.mean) & np.isfinite(costs) & (costs > 0)
    order = np.flatnonzero(there)[np.argsort(costs[there], kind="stable")]
    if not len(order):
        return
    y, low, high = np.array([means.cell(k) for k in order]).T
    x = costs[order] * 2 ** (min(APART, 0.4 / of) * (i - (of - 1) / 2))
    look = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % len(LINES)]}
    axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], label=label, markersize=4.5, linewidth=1.4, **look)
    axes.vlines(x, low, high, color=look["color"], linewidth=1, alpha=0.6)


# -- the summary -----------------------------------------------------------------------------------------------------


def summary(rows: pa.Table, found: Sequence[Curve], laws: Sequence[Fit], baseline: str) -> str:
    """The summary in Markdown: gains over the baseline at equal costs, every arm, the fitted laws."""
    measures = shown(found)
    captions, seeds = len(pc.unique(rows["prompt"])), len(pc.unique(rows["seed"]))
    apart = shared(rows["prompt"].to_pylist(), rows["seed"].to_pylist()) is None
    named = "1 caption" if captions == 1 else f"{captions} captions"
    noises = f"with {seeds} noises, each of one caption" if apart else f"x {seeds} {'seed' if seeds == 1 else 'seeds'}"
    alone, spent = (pc.sum(rows[k]).as_py() for k in ("nfe_alone", "nfe_spent"))
    lines = [
        "# Sweep",
        "",
        f"{rows.num_rows} searches: {len(set(rows['arm'].to_pylist()))} arms on {named} {noises}. "
        f"NFE: {alone} if each had run alone, {spent} spent, since arms share what they make.",
        "",
        f"A gain is over `{baseline}`, paired: the mean difference on the same caption and seed. Intervals are 95%, "
        f"by drawing captions {'' if apart else 'and seeds '}anew.",
    ]
    failed = rows.num_rows - sum(s in FINISHED for s in rows["status"].to_pylist())
    if failed:
        lines += [
            "",
            f"**{failed} searches failed or were cancelled and are in no mean; run the sweep again for them.**",
        ]
    if baseline not in {arm for c in found for arm in c.arms}:
        lines += ["", f"**No search of `{baseline}` has finished, so there are no gains.** Name another `baseline`."]
    if captions < FEW_CAPTIONS:
        lines += [
            "",
            f"With {named} (fewer than {FEW_CAPTIONS}) the intervals are too narrow: an impression only.",
        ]
    for measure, title in compared(found).items():
        for cost, (cost_title, form) in COSTS.items():
            levels = budgets(found, cost)
            body = []
            for c in found:
                cells = [at(c, measure, level, cost) if measure in c.gains else None for level in levels]
                if any(cells):
                    body.append([c.label, *("–" if cell is None else _cell(cell, SIGNED) for cell in cells)])
            lines += ["", f"## Gain in {title} at equal {cost_title}", ""]
            lines += _markdown(["curve", *(form.format(level) for level in levels)], body)
    lines += [
        "",
        "Gains between a curve's points are interpolated in the logarithm of the cost; – is outside its range.",
        "",
    ]
    lines += ["## Every arm", "", "Costs are means over searches. Gains are paired, the other measures are means.", ""]
    if "gap" in measures:
        lines += [f"{measures['gap']}: it grows if a search exploits the errors of its reward.", ""]
    body = [
        [
            arm,
            str(max((int(m.n[i]) for m in c.means.values()), default=0)),
            *(f"{c.costs[k][i]:.0f}" for k in ("nfe", "nfe_spent")),
            f"{c.costs['replica_seconds'][i]:.3g}",
            str(max((int(m.n[i]) for m in c.gains.values()), default=0)),
            *(_cells(c.gains, m, i, SIGNED) for m in compared(found)),
            *(_cells(c.means, m, i, PLAIN) for m in measures),
        ]
        for c in found
        for i, arm in enumerate(c.arms)
    ]
    gains = [f"gain in {title}" for title in compared(found).values()]
    lines += _markdown(["arm", "n", "NFE alone", "NFE spent", "replica-s", "pairs", *gains, *measures.values()], body)
    lines += ["", "## Scaling laws", "", "c is NFE; of the two forms the one with the higher adjusted R².", ""]
    body = [
        [c.label, title, *_law([f for f in laws if (f.curve, f.measure) == (c.label, measure)], c)]
        for c in found
        for measure, title in measures.items()
        if measure != "gap" and c.means[measure].n.any()
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


def _cells(of: dict[str, Means], measure: str, i: int, form: str) -> str:
    """The cell of arm i; a dash where it has no search, or no pair."""
    means = of.get(measure)
    return _cell(means.cell(i), form) if means and means.n[i] else "–"


def _cell(values: tuple[float, float, float], form: str) -> str:
    if values == (0, 0, 0):
        return "0"
    mean, low, high = (format(v, form) for v in values)
    return f"{mean} [{low}, {high}]" if np.isfinite(values[1]) else mean


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(row) + " |" for row in rows]
