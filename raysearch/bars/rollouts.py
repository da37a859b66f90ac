"""What became of a tuning run's noises: rewards and costs, read from the tables of the run.

In a tuning run (`sequential` with bars: null and enough: null) every noise was looked at at every look and finished.

Costs in replica-seconds are those of candidates.parquet: `making_s` at the end, and `scoring_s` of each score. A noise
that is given up at a look costs the share of its `making_s` that its `nfe` there is of all its `nfe`: solver steps, and
one evaluation more if the look reads the x0 prediction. What a search was charged beyond its candidates, which is
decoding its answer, is added. In NFE a noise costs its `nfe`.

Shapes: S searches, N noises of each, K looks.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import check
from raysearch.parquet import run_table

NUMBERS = ("reward", "nfe", "making_s", "scoring_s")
TABLES = {
    "searches.parquet": (
        *("search_id", "arm", "prompt", "seed", "policy", "policy_args", "status", "replica_seconds"),
    ),
    "candidates.parquet": ("search_id", "part", "trajectory", "step", "by", *NUMBERS),
}


@dataclass(frozen=True)
class Rollouts:
    """What became of the noises of S searches: rewards, and costs in one unit."""

    ids: list[str]
    captions: list[str]
    seeds: list[int]
    looks: tuple[int, ...]  # steps
    early: bool
    seen: np.ndarray  # (S, N, K): rewards at the looks
    reward: np.ndarray  # (S, N): of the finished videos
    until: np.ndarray  # (S, N, K): cost of making a noise as far as a look
    looking: np.ndarray  # (S, N, K): cost of the look's score
    made: np.ndarray  # (S, N): cost of making the finished video
    judging: np.ndarray  # (S, N): cost of its score
    closing: np.ndarray  # (S,): cost of the answer's video

    @property
    def noises(self) -> int:
        """N."""
        return int(self.reward.shape[1])


def read(run_dir: Path, arm: str | None, unit: str) -> tuple[str, Rollouts]:
    """The name of a tuning run's arm, by default its only one, and what became of the arm's noises.

    `unit` is "seconds" or "nfe". Raises ConfigError.
    """
    searches = run_table(run_dir, "searches.parquet", TABLES["searches.parquet"]).to_pylist()
    tuned = {r["arm"]: json.loads(r["policy_args"]) for r in searches if _tunes(r)}
    named = ", ".join(tuned)
    arms = ", ".join(dict.fromkeys(r["arm"] for r in searches))
    allowed = f"the folder of a run with an arm of `sequential` with bars: null and enough: null; its arms are {arms}"
    check(len(tuned) > 0, "RUN_DIR", str(run_dir), allowed)
    if arm is None:
        check(len(tuned) == 1, "--arm", arm, f"one of {named}: the run has several arms to choose bars from")
        (arm,) = tuned
    check(arm in tuned, "--arm", arm, f"one of {named}, the arms of `sequential` with bars: null and enough: null")
    done = [r for r in searches if r["arm"] == arm and r["status"] == "done"]
    table = run_table(run_dir, "candidates.parquet", TABLES["candidates.parquet"])
    table = table.filter(pc.is_in(table["search_id"], pa.array([r["search_id"] for r in done], pa.string())))
    table = table.filter(pc.is_valid(table["by"]))  # others were never scored
    return arm, _rollouts(done, table.to_pylist(), tuned[arm], unit, str(run_dir))


def _tunes(row: Mapping[str, Any]) -> bool:
    """Whether a search gave no noise up and did not end early."""
    if row["policy"] != "sequential":
        return False
    given = json.loads(row["policy_args"])
    return given["bars"] is None and given["enough"] is None


def _rollouts(
    done: Sequence[dict[str, Any]],
    candidates: Sequence[dict[str, Any]],
    given: Mapping[str, Any],
    unit: str,
    run_dir: str,
) -> Rollouts:
    """The noises of an arm's searches that are done, whose policy has the arguments `given`."""
    allowed = "a run of videos of one clip each: bars for long videos cannot be chosen from data"
    check(not any(r["part"] for r in candidates), "RUN_DIR", run_dir, allowed)
    rows: dict[str, dict[str, dict[tuple[int, str], dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for r in candidates:
        rows[r["search_id"]][r["trajectory"]][r["step"], r["by"]] = r
    done = [r for r in done if r["search_id"] in rows]  # while a run goes on, one table may be behind the other
    rows = {r["search_id"]: rows[r["search_id"]] for r in done}
    captions = len({r["prompt"] for r in done})
    allowed = f"a run of at least 2 captions, whose searches are done: it has {captions}, {len(done)} searches"
    check(captions > 1, "RUN_DIR", run_dir, allowed)
    looks, n = tuple(given["looks"]), given["n"]
    check(n > 1, "RUN_DIR", run_dir, f"a run with at least 2 noises a search: policy.n is {n}")
    last = max((step for noises in rows.values() for asked in noises.values() for step, _ in asked), default=0)
    points = [*((t, "early" if given["early"] else "search") for t in looks), (last, "search")]
    values = np.zeros((len(done), n, len(points), len(NUMBERS)))
    for at, (search_id, noises) in zip(values, rows.items(), strict=True):
        whole = len(noises) == n and all(p in asked for asked in noises.values() for p in points)
        allowed = f"a run whose noises were all looked at at steps {list(looks)} and finished: not so in {search_id}"
        check(whole, "RUN_DIR", run_dir, allowed)
        at[:] = [[[asked[p][k] for k in NUMBERS] for p in points] for asked in noises.values()]
        for k, column in zip(NUMBERS, at.reshape(-1, len(NUMBERS)).T, strict=True):
            odd = column[~np.isfinite(column)]
            allowed = f"a run of finite numbers: {k} in {search_id} is {', '.join(map(str, odd[:1]))}"
            check(len(odd) == 0, "RUN_DIR", run_dir, allowed)
    reward, nfe, making, scoring = np.moveaxis(values, 3, 0)  # (S, N, K + 1) each
    allowed = "a run where noises differ: the finished videos of every search have equal rewards"
    check((np.ptp(reward[:, :, -1], axis=1) > 0).any(), "RUN_DIR", run_dir, allowed)
    closing = np.array([r["replica_seconds"] for r in done]) - making[:, :, -1].sum(1) - scoring.sum((1, 2))
    making = nfe / nfe[:, :, -1:] * making[:, :, -1:]  # another arm's x0 prediction may be in that of a look
    if unit == "nfe":
        making, scoring, closing = nfe, np.zeros(scoring.shape), np.zeros(len(done))
    return Rollouts(
        [r["search_id"] for r in done],
        [r["prompt"] for r in done],
        [r["seed"] for r in done],
        looks,
        given["early"],
        reward[:, :, :-1],
        reward[:, :, -1],
        making[:, :, :-1],
        scoring[:, :, :-1],
        making[:, :, -1],
        scoring[:, :, -1],
        closing,
    )
