"""Arms of a run against each other: means, and differences paired by prompt and seed, by raysearch/bootstrap.py.

Shapes: G prompts and seeds, A arms, M measures, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raysearch import bootstrap
from raysearch.page.block import numbers
from raysearch.page.reading import Run
from raysearch.page.searches import ENDED, comparable, groups, rewards
from raysearch.session.tables import FINISHED
from raysearch.sweep.curves import judged

REWARDS = {
    "reward_search": "search reward",
    "reward_final": "final reward",
    "reward_holdout": "held-out reward",
}
JUDGES = ("holdout", "final")
SUCCESS = "success"
MOST_ROWS = 20_000  # of comparisons over every arm; else they are over the baseline alone

Row = dict[str, Any]


def measures(searches: pa.Table) -> list[Row]:
    """The measures of a page: the judged reward first, then success, the judge's components, and the other rewards."""
    found = {}
    for key in searches.column_names:
        kind, _, component = key.partition("_")
        numeric = pa.types.is_floating(searches[key].type) or pa.types.is_integer(searches[key].type)
        if numeric and (key in REWARDS or (kind in JUDGES and component)):
            values = numbers(searches[key])
            if np.isfinite(values).any():
                found[key] = REWARDS.get(key) or (component if kind == "holdout" else f"{component} (final)")
    first = judged(found) or "reward_search"

    def rank(key: str) -> tuple[bool, bool, bool, bool]:
        return key != first, not key.endswith(f"_{SUCCESS}"), key in REWARDS, not key.startswith("holdout")

    judge = {k: k.partition("_")[0] in JUDGES or k in ("reward_holdout", "reward_final") for k in found}
    return [{"key": k, "label": found[k], "judge": judge[k]} for k in sorted(found, key=rank)]


@dataclass(frozen=True)
class Values:
    """The measures (G, A, M) of the winners of a run, NaN where there is none, and what was drawn for each pair."""

    arms: tuple[str, ...]
    measures: tuple[str, ...]
    values: np.ndarray
    captions: list[str]  # (G,)
    seeds: list[int] | None  # (G,), None where no two captions share a noise

    @classmethod
    def of(cls, run: Run, searches: pa.Table, keys: Sequence[str]) -> "Values":
        """Those of the searches that finished."""
        arms, group, rows = tuple(run.blocks), groups(searches), searches.num_rows
        captions = [""] * (int(group.max(initial=-1)) + 1)
        seeds = [0] * len(captions)
        for g, caption, seed in zip(group, searches["prompt"].to_pylist(), searches["seed"].to_pylist(), strict=True):
            captions[g], seeds[g] = caption, seed
        values = np.full((len(captions), len(arms), len(keys)), np.nan)
        place = {a: i for i, a in enumerate(arms)}
        arm = np.array([place.get(a, -1) for a in searches["arm"].to_pylist()], int)
        ended = np.array([s in FINISHED for s in searches["status"].to_pylist()], bool) & (arm >= 0)
        measured = np.column_stack([np.zeros((rows, 0)), *(numbers(searches[k]) for k in keys)])
        values[group[ended], arm[ended]] = measured[ended]
        return cls(arms, tuple(keys), values, captions, None if _apart(run, captions, seeds) else seeds)

    def compared(self, baselines: Sequence[str], judges: dict[str, dict[str, int]]) -> dict[str, dict[str, list[Row]]]:
        """By baseline and measure, a row for each arm, with its mean and its mean difference to the baseline.

        `judges` are the `rewards` of each arm: one with another reward than the baseline has no difference in it.
        """
        rows = [[self._mean(i, j, x) for i, x in enumerate(of)] for j, of in enumerate(self._summed(self.values))]
        made = {}
        for b in baselines:
            base = self.arms.index(b)
            difference = self.values - self.values[:, [base]]
            for i, a in enumerate(self.arms):
                for j, m in enumerate(self.measures):
                    if i == base or not comparable(judges, a, b, m):
                        difference[:, i, j] = np.nan
            drawn = self._summed(difference)
            made[b] = {
                m: [rows[j][i] | _paired(difference[:, i, j], drawn[j][i]) for i in range(len(self.arms))]
                for j, m in enumerate(self.measures)
            }
        return made

    def _summed(self, values: np.ndarray) -> list[list[tuple[float, float]]]:
        """The intervals of values (G, A, M), by measure and arm."""
        low, high = bootstrap.interval(bootstrap.draws(values, self.captions, self.seeds))
        shape = range(len(self.measures)), range(len(self.arms))
        return [[(low[i, j], high[i, j]) for i in shape[1]] for j in shape[0]]

    def _mean(self, arm: int, measure: int, ends: tuple[float, float]) -> Row:
        found = self.values[:, arm, measure]
        found = found[~np.isnan(found)]
        mean = found.mean() if len(found) else np.nan
        return {"arm": self.arms[arm], "n": len(found), "mean": number(mean)} | _ends("low", "high", ends)


def _paired(difference: np.ndarray, ends: tuple[float, float]) -> Row:
    found = difference[~np.isnan(difference)]
    mean, win = (found.mean(), ((found > 0) + 0.5 * (found == 0)).mean()) if len(found) else (np.nan, np.nan)
    row = {"pairs": len(found), "delta": number(mean), "win": number(win)}
    return row | _ends("delta_low", "delta_high", ends)


def _ends(low: str, high: str, ends: tuple[float, float]) -> Row:
    return {low: number(ends[0]), high: number(ends[1])}


def number(value: float) -> float | None:
    """A number of JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def _apart(run: Run, captions: Sequence[str], seeds: Sequence[int]) -> bool:
    """True if no two captions share a noise: as the run's config says, else as its searches are."""
    if "seeds_apart" not in run.config:
        return bootstrap.shared(captions, seeds) is None
    apart = bool(run.config["seeds_apart"]) or run.config.get("collect") is not None
    return apart and len(set(captions)) > 1


def costs(arms: Sequence[str], searches: pa.Table) -> dict[str, Row]:
    """By arm, the means over its searches of what they cost, and how many failed."""
    arm, status = (np.array([str(v) for v in searches[k].to_pylist()]) for k in ("arm", "status"))
    ended = np.isin(status, ENDED)
    of = {"nfe": "nfe", "seconds": "replica_seconds", "wall": "wall_seconds"}
    values = {k: numbers(searches[c]) for k, c in of.items() if c in searches.column_names}
    made = {}
    for a in arms:
        own = ended & (arm == a)
        made[a] = {k: number(values[k][own].mean()) if k in values and own.any() else None for k in of}
        made[a]["failed"] = int((own & (status == "failed")).sum())
    return made


def comparisons(run: Run, searches: pa.Table, keys: Sequence[str]) -> dict[str, dict[str, list[Row]]]:
    """By baseline and measure, a row for each arm: over every arm, or over the run's baseline where arms are many."""
    arms = tuple(run.blocks)
    if not arms:
        return {}
    every = len(arms) ** 2 * len(keys) <= MOST_ROWS
    found = Values.of(run, searches, keys).compared(arms if every else [run.baseline], rewards(run))
    cost = costs(arms, searches)
    return {b: {m: [row | cost[row["arm"]] for row in rows] for m, rows in of.items()} for b, of in found.items()}
