"""The Parquet tables of a run: their columns, their rows, and how they are made from the journal.

The journal holds the truth. When a search ends, its record holds its row of searches.parquet and, column by column, its
rows of candidates.parquet. A table is a copy of these that may be deleted: `Table` makes a missing one again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysearch.engine.engine import Finished
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest, canonical_json
from raysearch.search.context import Context
from raysearch.search.history import Asked, History
from raysearch.session import journal
from raysearch.session.plan import Search

FINISHED = ("done", "budget")  # of the statuses, those of searches that are not run again

SEARCHES: dict[str, pa.DataType] = {
    "search_id": pa.string(),
    "arm": pa.string(),
    "prompt": pa.string(),
    "seed": pa.int64(),
    "policy": pa.string(),
    "policy_args": pa.string(),
    "allocation": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "winner": pa.string(),
    "origin": pa.string(),
    "reward_search": pa.float64(),
    "reward_final": pa.float64(),
    "reward_holdout": pa.float64(),
    "nfe": pa.int64(),
    "decodes": pa.int64(),
    "reward_calls": pa.int64(),
    "trials": pa.int64(),
    "nfe_spent": pa.int64(),
    "tokens": pa.int64(),
    "winner_tokens": pa.int64(),
    "replica_seconds": pa.float64(),
    "wall_seconds": pa.float64(),
    "video": pa.string(),
}
CANDIDATES: dict[str, pa.DataType] = {
    "search_id": pa.string(),
    "candidate": pa.string(),
    "parent": pa.string(),
    "origin": pa.string(),
    "part": pa.int64(),
    "step": pa.int64(),
    "num_steps": pa.int64(),
    "sigma": pa.float64(),
    "trajectory": pa.string(),
    "by": pa.string(),
    "call": pa.int64(),
    "asked_s": pa.float64(),
    "reward": pa.float64(),
    "nfe": pa.int64(),
    "nfe_after": pa.int64(),
    "making_s": pa.float64(),
    "scoring_s": pa.float64(),
    "kept": pa.bool_(),
    "preview": pa.int64(),
}


def schema(columns: dict[str, pa.DataType], components: Iterable[str]) -> pa.Schema:
    """The schema of a table with a column of numbers for each component after `columns`."""
    return pa.schema([*columns.items(), *((c, pa.float64()) for c in components)])


# -- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a search ended: its status, the reason, and the winner and its judged video if the search came so far."""

    status: str
    reason: str = ""
    winner: Candidate | None = None
    finished: Finished | None = None
    previews: tuple[str, ...] = ()  # the candidates that the sprite shows, from top to bottom


def search_row(s: Search, ctx: Context, end: Outcome, *, nfe_spent: int, video: str | None) -> dict[str, Any]:
    """The row of a search in searches.parquet. `nfe_spent` is what was really run for it; `video` is a path."""
    arm, charged, winner = s.plan.arm, ctx.charged, end.winner
    row: dict[str, Any] = {
        "search_id": s.id,
        "arm": arm.name,
        "prompt": s.prompt.title,
        "seed": s.seed,
        "policy": arm.policy,
        "policy_args": canonical_json(arm.arguments),
        "allocation": canonical_json(arm.allocation) if arm.allocation else None,
        "status": end.status,
        "reason": end.reason,
        "winner": winner.id if winner else None,
        "origin": canonical_json(winner.origin.describe()) if winner else None,
        "reward_search": ctx.history.reward_of(winner) if winner else None,
        "nfe": charged.nfe,
        "decodes": charged.decodes,
        "reward_calls": charged.reward_calls,
        "trials": max(ctx.history.trials, 1),
        "nfe_spent": nfe_spent,
        "tokens": charged.tokens,
        "winner_tokens": end.finished.tokens if end.finished else 0,
        "replica_seconds": charged.replica_seconds,
        "wall_seconds": ctx.meter.wall_seconds,
        "video": video,
    }
    row |= s.prompt.tags
    if end.finished is None:
        return row
    for k, reward in s.plan.judges:
        components = end.finished.reward(reward.key)
        row[f"reward_{k}"] = reward.total(components)
        row |= {f"{k}_{c}": v for c, v in zip(reward.components, components, strict=True)}
        if len(end.finished.rewards) > 1:
            chunks = zip(reward.components, end.finished.by_chunk(reward.key), strict=True)
            row |= {f"{k}_{c}_chunks": list(v) for c, v in chunks}
    return row


def candidate_rows(s: Search, history: History, winner: Candidate | None) -> list[dict[str, Any]]:
    """The rows of a search in candidates.parquet, one for each score, in asking order.

    `kept` says that the candidate was scored again later, had a child that was scored, or led to the winner. Before the
    first row that goes back to a candidate without a score there is a row of that candidate, whose `by` is null, and
    the last row is the winner's if it has no score.
    """
    used: dict[Digest, int] = {}  # trajectory -> the latest step that something was made of
    origins = {row.origin for row in history.rows}
    for row in history.rows:
        used[row.trajectory] = max(used.get(row.trajectory, -1), row.step)
    if winner is not None:
        used[winner.trajectory] = winner.step
        origins.add(winner.origin)
    parents: dict[Digest, int] = {}
    for parent in {o.parent for o in origins if o.parent is not None}:
        for x in (parent, *parent.ancestors()):
            parents[x.trajectory] = max(parents.get(x.trajectory, -1), x.step)

    def of(x: Candidate | Asked) -> dict[str, Any]:
        parent = x.origin.parent
        return dict.fromkeys(CANDIDATES | dict.fromkeys(s.plan.components, pa.float64())) | {
            "search_id": s.id,
            "candidate": x.id,
            "parent": parent.id if parent else None,
            "origin": canonical_json(x.origin.describe()),
            "part": x.part,
            "step": x.step,
            "num_steps": x.sampler.num_steps,
            "sigma": x.sampler.sigmas[x.step],
            "trajectory": x.trajectory.hex()[:32],
            "kept": used.get(x.trajectory, -1) > x.step
            or parents.get(x.trajectory, -1) >= x.step
            or (winner is not None and winner.id == x.id),
            "nfe": x.sampler.nfe_of(long_video.evaluations(x.sampler, x.part, x.origin.step, x.step)),
        }

    def scored(row: Asked) -> dict[str, Any]:
        reward = s.plan.early if row.early else s.plan.reward
        assert reward is not None  # it answered
        values = of(row)
        values["nfe"] += (reward.needs_velocity and row.step < row.sampler.num_steps) * row.sampler.nfe_per_step
        return values | {
            "by": "early" if row.early else "search",
            "call": row.moment.call,
            "asked_s": row.moment.asked,
            "nfe_after": row.moment.nfe,
            "reward": row.reward,
            "making_s": row.score.making,
            "scoring_s": row.score.scoring,
            **dict(zip(reward.components, row.score.components, strict=True)),
        }

    there = {row.id for row in history.rows}
    rows: list[dict[str, Any]] = []
    known: list[Asked | Candidate] = [*history.rows, *([winner] if winner is not None else [])]
    for seen in known:
        lacking: list[Candidate] = []
        above = seen.origin.parent
        while above is not None and above.id not in there:
            there.add(above.id)
            lacking.append(above)
            above = above.origin.parent
        rows += map(of, reversed(lacking))
        if isinstance(seen, Asked):
            rows.append(scored(seen))
        elif seen.id not in there:
            rows.append(of(seen))
    return rows


# -- the journal's record of a search --------------------------------------------------------------------------------


def search_record(row: dict[str, Any], candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The journal's record of a search that ended, with its rows of both tables."""
    names = [k for k in candidates[0] if k != "search_id"] if candidates else []
    return {"kind": "search", **row, "candidates": {k: [c[k] for c in candidates] for k in names}}


def candidates_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of candidates.parquet that the record of a search holds."""
    columns, search_id = record["candidates"], record["search_id"]
    rows = zip(*columns.values(), strict=True)
    return [{"search_id": search_id, **dict(zip(columns, values, strict=True))} for values in rows]


def search_records(folder: Path) -> Iterator[dict[str, Any]]:
    """One record for each search in a journal's folder: the first one that is FINISHED, else the latest."""
    finished: set[str] = set()
    others: dict[str, dict[str, Any]] = {}
    for r in journal.read(folder):
        if r["kind"] != "search" or r["search_id"] in finished:
            continue
        if r["status"] in FINISHED:
            finished.add(r["search_id"])
            others.pop(r["search_id"], None)
            yield r
        else:
            others[r["search_id"]] = r
    yield from others.values()
