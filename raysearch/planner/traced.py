"""Timings out of a run's trace: means by what was done and by how many slots shared a replica, and their quantiles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.errors import check
from raysearch.parquet import run_table
from raysearch.planner.facts import alone
from raysearch.planner.timings import Timings
from raysearch.session.plan import Plan
from raysearch.session.recording import TRACE

COLUMNS = (
    "session", "start", "end", "waited", "kind", "what", "replica", "slots", "nfe", "evaluations", "decodes", "seconds",
    "nbytes", "ended",
)  # fmt: skip
ENOUGH = 20  # items of a kind whose quantiles are drawn from
QUANTILES = 21


def read(run_dir: Path, plan: Plan) -> Timings:
    """The timings of a run that recorded a trace. Raises ConfigError.

    What a trace cannot tell apart stays together: a decoded look's seconds count as decoding, its reward as nothing.
    """
    table = {k: np.array(v) for k, v in run_table(run_dir, TRACE, COLUMNS).to_pydict().items()}
    done = table["ended"] == "done"
    rows = {k: v[done] for k, v in table.items()}
    made = (rows["what"] == "denoise") & (rows["nfe"].astype(float) > 0)
    check(bool(made.any()), "--timings", str(run_dir), f"a run whose {TRACE} has legs that were denoised")
    seconds, nfe = rows["seconds"].astype(float), rows["nfe"].astype(float)
    together = np.clip(shared(rows), 1.0, max(float(rows["slots"][made].max()), 1.0))
    forward: dict[int, float] = {}
    for n in sorted({round(float(k)) for k in together[made]}):
        those = made & (np.round(together) == n)
        forward[n] = float((seconds[those] * together[those]).sum() / nfe[those].sum())
    each = np.where(made, seconds * together / np.maximum(nfe, 1), np.nan)
    usual = np.array([forward.get(round(float(k)), np.nan) for k in together])
    spread = {"denoise": each[made] / usual[made]}
    looks = rows["what"] == "look"
    decoded, bare = looks & (rows["decodes"] > 0), looks & (rows["decodes"] == 0)
    decode, reward = mean(seconds[decoded]), mean(seconds[bare])
    took = rows["end"].astype(float) - rows["start"].astype(float)
    finishes, compares = rows["what"] == "finish", rows["what"] == "compare"
    finish = max(mean(took[finishes]) - decode * max(mean(rows["decodes"][finishes]), 1.0), 0.0)
    for what, durations in (("look", seconds[looks]), ("finish", took[finishes]), ("compare", seconds[compares])):
        if len(durations):
            spread[what] = durations / max(mean(durations), 1e-9)
    return Timings(
        forward,
        encode=mean(took[rows["what"] == "encode"]),
        decode=decode,
        rewards={m.key: 0.0 if m.decodes else reward for m in alone(plan)},
        compare=max(mean(seconds[compares]) - 2 * decode, 0.0),
        finish=finish,
        spread={k: quantiles(v) for k, v in spread.items() if len(v) >= ENOUGH},
        source=f"the trace of {run_dir.name}",
    )


def shared(rows: dict[str, Any]) -> np.ndarray:
    """How many items were at the replica of each item, on average over the item's time."""
    found = np.ones(len(rows["start"]))
    for session in np.unique(rows["session"]):
        for replica in np.unique(rows["replica"][rows["session"] == session]):
            own = np.flatnonzero((rows["replica"] == replica) & (rows["session"] == session))
            start, end = rows["start"][own].astype(float), rows["end"][own].astype(float)
            whole = Overlap(start, end)
            length = np.maximum(end - start, 1e-9)
            found[own] = (whole.until(end) - whole.until(start)) / length
    return found


class Overlap:
    """The integral over time of how many intervals there are."""

    def __init__(self, start: np.ndarray, end: np.ndarray) -> None:
        times = np.concatenate([start, end])
        order = np.argsort(times, kind="stable")
        self.times = times[order]
        counts = np.cumsum(np.concatenate([np.ones(len(start)), -np.ones(len(end))])[order])
        self.sums = np.concatenate([[0.0], np.cumsum(np.diff(self.times) * counts[:-1])])
        self.busy = np.concatenate([[0.0], np.cumsum(np.diff(self.times) * (counts[:-1] > 0))])

    def until(self, t: np.ndarray) -> np.ndarray:
        """The integral up to times between the first and the last."""
        return np.asarray(np.interp(t, self.times, self.sums))


def busy_seconds(rows: dict[str, Any], kind: str) -> tuple[float, int]:
    """Seconds in which replicas of a kind ran something, summed over replicas, and the number of these replicas."""
    total, replicas = 0.0, 0
    for session in np.unique(rows["session"]):
        those = (rows["kind"] == kind) & (rows["session"] == session)
        names = np.unique(rows["replica"][those])
        replicas = max(replicas, len(names))
        for replica in names:
            own = those & (rows["replica"] == replica)
            total += float(Overlap(rows["start"][own].astype(float), rows["end"][own].astype(float)).busy[-1])
    return total, replicas


def mean(values: np.ndarray) -> float:
    """The mean; 0 of nothing."""
    return float(values.astype(float).mean()) if len(values) else 0.0


def quantiles(values: np.ndarray) -> Sequence[float]:
    """Evenly spaced quantiles, from the least to the greatest, whose mean is 1."""
    found = np.quantile(values, np.linspace(0, 1, QUANTILES))
    middle = float((found[1:] + found[:-1]).mean() / 2)
    return [float(v) / middle for v in found]
