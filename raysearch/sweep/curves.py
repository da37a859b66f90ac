"""Rows of a sweep -> curves, what each arm gains over the baseline, and scaling laws. Pure functions of tables.

An arm's gain is the mean of paired differences: of each caption and seed that the arm and the baseline both have, the
arm's value minus the baseline's. So the difficulty of a caption, and the luck of its noise where both arms begin with
it, cancel. Every interval is a 95% interval of raysearch.bootstrap. A single search has no interval: its ends are NaN.

Shapes: K arms of a curve, D draws, N searches, P parameters of a law.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch import bootstrap
from raysearch.bootstrap import interval
from raysearch.session.plan import group_of
from raysearch.session.tables import FINISHED

COSTS = ("nfe", "replica_seconds", "wall_seconds")
ALPHAS = np.geomspace(0.05, 4, 200)  # the exponents of the power law that are tried
FORMS = {"log": ("a", "b"), "power": ("r_inf", "b", "alpha")}  # r = a + b log(c), and r = r_inf - b c^-alpha
SLACK = 1.1  # a budget at most this factor beyond a curve's end point is read off at that point


@dataclass(frozen=True)
class Means:
    """Means over searches, or over pairs of them, of each of K arms."""

    mean: np.ndarray  # (K,)
    draws: np.ndarray  # bootstrap means (D, K)
    n: np.ndarray  # of how many (K,)

    def cell(self, i: int) -> tuple[float, float, float]:
        """Mean, low and high of arm i."""
        return (float(self.mean[i]), *interval(self.draws[:, i]))


@dataclass(frozen=True)
class Curve:
    """The K arms of a curve, the cheapest first: their places on the axes, mean costs, and means of each measure."""

    label: str
    policy: str
    arms: tuple[str, ...]
    axes: tuple[dict[str, Any], ...]
    costs: dict[str, np.ndarray]  # name of COSTS, or nfe_spent -> means over searches (K,)
    means: dict[str, Means]  # by measure
    gains: dict[str, Means]  # by measure: paired differences to the baseline


@dataclass(frozen=True)
class Fit:
    """A law fitted to a curve's means as a function of c, its NFE; `parameters` are (value, low, high) by name."""

    curve: str
    policy: str
    measure: str
    form: str
    parameters: dict[str, tuple[float, float, float]]
    r2: float
    adjusted_r2: float
    points: int
    chosen: bool

    def __call__(self, c: np.ndarray) -> np.ndarray:
        """The law's value at each of NFE `c`, in the shape of `c`."""
        p = [v for v, _, _ in self.parameters.values()]
        found: np.ndarray = p[0] + p[1] * np.log(c) if self.form == "log" else p[0] - p[1] * c ** -p[2]
        return found


# -- curves ----------------------------------------------------------------------------------------------------------


def curves(rows: pa.Table, baseline: str, unlike: Collection[tuple[str, str]] = ()) -> list[Curve]:
    """The curves of a sweep's finished searches, in the order of their labels; gains are over the arm `baseline`.

    An arm has no gain in measures of an (arm, reward) of `unlike`: its reward is another one than the baseline's.
    """
    rows = rows.filter(pc.is_in(rows["status"], pa.array(FINISHED)))
    if not rows.num_rows:
        return []
    measures = measures_of(rows)
    caption, seed = (np.asarray(rows[k].to_pylist()) for k in ("prompt", "seed"))
    apart = bootstrap.shared(caption.tolist(), seed.tolist()) is None
    pair = np.asarray([group_of(s) for s in rows["search_id"].to_pylist()])
    arm = np.asarray(rows["arm"].to_pylist())
    label = np.asarray(rows["curve"].to_pylist())
    costs = {k: floats(rows, k) for k in (*COSTS, "nfe_spent")}
    policy = np.asarray(rows["policy"].to_pylist())
    axes = {k: rows[k].to_pylist() for k in rows.column_names if k.startswith("axis_")}
    judge = judged(measures) or "reward_final"
    over = {}
    for m, values in measures.items():
        of = {"search", judge.removeprefix("reward_")} if m == "gap" else {m.removeprefix("reward_").partition("_")[0]}
        other = np.isin(arm, [name for name, reward in unlike if reward in of])
        over[m] = np.where(other, np.nan, _minus(values, pair, arm == baseline))

    def means(values: np.ndarray, arms: Sequence[str]) -> Means:
        there = [np.isfinite(values) & (arm == a) for a in arms]
        mean = [values[i].mean() if i.any() else np.nan for i in there]
        drawn = [bootstrap.draws(values[i], caption[i], None if apart else seed[i]) for i in there]
        return Means(np.array(mean), np.column_stack(drawn), np.array([i.sum() for i in there]))

    found = []
    for name in np.unique(label):
        arms = list(np.unique(arm[label == name]))
        arms.sort(key=lambda a: float(costs["nfe"][arm == a].mean()))
        first = [int(np.argmax(arm == a)) for a in arms]
        found.append(
            Curve(
                str(name),
                str(policy[first[0]]),
                tuple(map(str, arms)),
                tuple({k: v[i] for k, v in axes.items()} for i in first),
                {k: np.array([v[arm == a].mean() for a in arms]) for k, v in costs.items()},
                {m: means(values, arms) for m, values in measures.items()},
                {m: means(values, arms) for m, values in over.items()},
            )
        )
    return found


def _minus(values: np.ndarray, pair: np.ndarray, of_baseline: np.ndarray) -> np.ndarray:
    """Each of N values minus the baseline's of the same pair (N,), NaN where the baseline has none."""
    base = dict(zip(pair[of_baseline], values[of_baseline], strict=True))
    found: np.ndarray = values - np.array([base.get(p, np.nan) for p in pair])
    return found


def floats(rows: pa.Table, column: str) -> np.ndarray:
    """A column of N rows as floats (N,), NaN where a row has no value."""
    values: np.ndarray = rows[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def measures_of(rows: pa.Table) -> dict[str, np.ndarray]:
    """Each reward and judged component as floats (N,), and `gap`: the search reward minus the judged reward."""
    found = {
        k: floats(rows, k)
        for k in rows.column_names
        if k.startswith(("reward_", "final_", "holdout_")) and k != "reward_calls"
    }
    found = {k: v for k, v in found.items() if np.isfinite(v).any()}
    judge = judged(found)
    if judge and "reward_search" in found:
        found["gap"] = found["reward_search"] - found[judge]
    return found


def judged(measures: Any) -> str | None:
    """The measure that is the judged reward: reward_holdout, else reward_final, else None."""
    return next((k for k in ("reward_holdout", "reward_final") if k in measures), None)


def shown(found: "Sequence[Curve]") -> dict[str, str]:
    """The titles of the measures that are drawn, fitted and tabled, by measure."""
    measures = {k for c in found for k in c.means}
    judge = judged(measures)
    success = next((k for k in ("holdout_success", "final_success") if k in measures), None)
    wanted = (
        ("reward_search", "search reward"),
        (judge, "held-out reward" if judge == "reward_holdout" else "final reward"),
        (success, "success"),
        ("gap", "search reward − judged reward"),
    )
    return {k: title for k, title in wanted if k is not None and k in measures}


def compared(found: "Sequence[Curve]") -> dict[str, str]:
    """Of the shown measures those in which arms are compared: the judged reward, else the search reward; success."""
    measures = shown(found)
    return {k: t for k, t in measures.items() if k not in ("gap", *(("reward_search",) if judged(measures) else ()))}


# -- scaling laws ----------------------------------------------------------------------------------------------------


def fits(found: Sequence[Curve]) -> list[Fit]:
    """The laws of every curve and shown measure but the gap; none where a curve has too few budgets.

    They are of means and not of gains: a gain is the mean less one constant, so its law has the same b and alpha, and
    r_inf is where the policy itself ends, whatever the baseline.
    """
    return [f for curve in found for measure in shown(found) if measure != "gap" for f in _fits(curve, measure)]


def _fits(curve: Curve, measure: str) -> list[Fit]:
    made = {}
    for form, (values, low, high, r2, adjusted, points) in fit(
        curve.costs["nfe"], curve.means[measure].mean, curve.means[measure].draws
    ).items():
        numbers = {k: (values[i], low[i], high[i]) for i, k in enumerate(FORMS[form])}
        made[form] = Fit(curve.label, curve.policy, measure, form, numbers, r2, adjusted, points, False)
    usable = [f for f in made.values() if np.isfinite(f.adjusted_r2) and not at_the_edge(f)]
    best = max(usable, key=lambda f: f.adjusted_r2, default=None)
    return [replace(f, chosen=f is best) for f in made.values()]


def at_the_edge(f: Fit) -> bool:
    """True if the exponent is an end of ALPHAS: then the data do not determine it."""
    return f.form == "power" and f.parameters["alpha"][0] in (ALPHAS[0], ALPHAS[-1])


Fitted = tuple[np.ndarray, np.ndarray, np.ndarray, float, float, int]


def fit(c: np.ndarray, y: np.ndarray, draws: np.ndarray) -> dict[str, Fitted]:
    """Least squares of each form with enough points: values, low and high (P,), R², adjusted R², points.

    `c` and `y` are (K,), `draws` (D, K). A form needs one point more than it has parameters. If all means are equal,
    R² is NaN.
    """
    there = np.isfinite(y) & (c > 0)
    c, y, draws = c[there], y[there], draws[:, there]
    draws = draws[np.isfinite(draws).all(1)]
    points = len(np.unique(c))
    made = {}
    for form, names in FORMS.items():
        if points <= len(names):
            continue
        (values,), (sse,) = _least_squares(form, c, y[None])
        spread = ((y - y.mean()) ** 2).sum()
        r2 = 1 - sse / spread if spread > 1e-12 * max(1.0, (y**2).sum()) else np.nan
        adjusted = 1 - (1 - r2) * (points - 1) / (points - len(names))
        if len(draws):
            low, high = np.quantile(_least_squares(form, c, draws)[0], [0.025, 0.975], axis=0)
        else:
            low = high = np.full(len(names), np.nan)
        made[form] = (values, low, high, float(r2), float(adjusted), points)
    return made


def _least_squares(form: str, c: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (B, P) and squared errors (B,) of a form fitted to each row of y (B, K) at c (K,)."""
    if form == "log":
        a, b, sse = _line(np.log(c), y)
        return np.column_stack([a, b]), sse
    unit = np.exp(np.log(c).mean())
    lines = [_line((c / unit) ** -alpha, y) for alpha in ALPHAS]
    best = np.argmin([sse for _, _, sse in lines], axis=0)
    a, b, sse = (np.array([line[i] for line in lines])[best, np.arange(len(y))] for i in range(3))
    return np.column_stack([a, -b * unit ** ALPHAS[best], ALPHAS[best]]), sse


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intercept, slope and squared error, each (B,), of the line through each row of y (B, K) at x (K,)."""
    centred = x - x.mean()
    b = y @ centred / (centred @ centred)
    a = y.mean(1) - b * x.mean()
    return a, b, ((y - a[:, None] - b[:, None] * x) ** 2).sum(1)


# -- at equal budgets ------------------------------------------------------------------------------------------------


def budgets(found: Sequence[Curve], cost: str = "replica_seconds") -> list[float]:
    """The cheapest arm's cost and its doublings, as far as SLACK times the dearest arm's cost."""
    every = np.concatenate([np.zeros(0), *(c.costs[cost] for c in found)])
    every = every[np.isfinite(every) & (every > 0)]
    if not len(every):
        return []
    return [float(every.min() * 2**k) for k in range(int(np.log2(every.max() * SLACK / every.min())) + 1)]


def at(curve: Curve, measure: str, budget: float, cost: str = "replica_seconds") -> tuple[float, float, float] | None:
    """Mean, low and high of a measure's gain at a budget, or None if the budget is out of the curve's range.

    Between points the gain is interpolated linearly in the logarithm of the cost.
    """
    gains = curve.gains[measure]
    there = np.isfinite(gains.mean) & (curve.costs[cost] > 0)
    order = np.flatnonzero(there)[np.argsort(curve.costs[cost][there], kind="stable")]
    if not len(order):
        return None
    x, y, draws = curve.costs[cost][order], gains.mean[order], gains.draws[:, order]
    if not x[0] / SLACK <= budget <= x[-1] * SLACK:
        return None
    place = float(np.interp(np.log(budget), np.log(x), np.arange(len(x))))
    i = min(int(place), len(x) - 1)
    j, w = min(i + 1, len(x) - 1), place - i
    return (float((1 - w) * y[i] + w * y[j]), *interval((1 - w) * draws[:, i] + w * draws[:, j]))


# -- tables ----------------------------------------------------------------------------------------------------------


def curve_table(found: Sequence[Curve]) -> pa.Table:
    """curves.parquet: a row per arm and measure. `budget` is the arm's mean NFE, as if each search ran alone.

    `difference` is the mean paired difference to the baseline, over `pairs` captions and seeds.
    """
    rows = []
    for c in found:
        for measure in c.means:
            for i, arm in enumerate(c.arms):
                mean, low, high = c.means[measure].cell(i)
                paired = zip(("difference", "difference_low", "difference_high"), c.gains[measure].cell(i), strict=True)
                costs = {"budget": c.costs["nfe"][i]} | {k: v[i] for k, v in c.costs.items() if k != "nfe"}
                rows.append(
                    {"curve": c.label, "policy": c.policy, "arm": arm, **c.axes[i], **costs, "measure": measure}
                    | {"mean": mean, "low": low, "high": high, "n": int(c.means[measure].n[i])}
                    | {**dict(paired), "pairs": int(c.gains[measure].n[i])}
                )
    return pa.Table.from_pylist(rows)


FITS = pa.schema(
    [(k, pa.string()) for k in ("curve", "policy", "measure", "form", "parameter")]
    + [(k, pa.float64()) for k in ("value", "low", "high", "r2", "adjusted_r2")]
    + [("points", pa.int64()), ("chosen", pa.bool_())]
)


def fit_table(laws: Sequence[Fit]) -> pa.Table:
    """fits.parquet: a row per fitted parameter; `chosen` marks the form with the higher adjusted R²."""
    rows = [
        {k: getattr(f, k) for k in ("curve", "policy", "measure", "form", "r2", "adjusted_r2", "points", "chosen")}
        | {"parameter": k, "value": v, "low": low, "high": high}
        for f in laws
        for k, (v, low, high) in f.parameters.items()
    ]
    return pa.Table.from_pylist(rows, schema=FITS)
