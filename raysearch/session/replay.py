"""What the journal of an earlier run gives back, so that nothing recorded is asked of the world again.

The journal holds answers, not tensors: a policy that is run against its answers asks the same questions, and gets to
where it was. What its next question needs is made again from recipes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest
from raysearch.recipe.reward import Reward, Score, score_key
from raysearch.search.context import Context
from raysearch.session import journal
from raysearch.session.directory import FINISHED
from raysearch.session.plan import Plan, Search, arm_of, context, group_of, run_policy


@dataclass
class Past:
    """An earlier run's record; that of a new run is empty."""

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of finished searches, by id
    scores: dict[Digest, Score] = field(default_factory=dict)  # what was answered, by `score_key`
    walls: dict[str, list[float]] = field(default_factory=dict)  # of a search: its age in seconds at each question
    calls: dict[str, int] = field(default_factory=dict)  # of a search: how many questions were answered
    spent: dict[str, int] = field(default_factory=dict)  # of a search: the NFE that were really run for it


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of the finished searches of a journal, by id."""
    rows = (r for r in journal.read(folder) if r["kind"] == "search" and r["status"] in FINISHED)
    return {r["search_id"]: {k: v for k, v in r.items() if k != "kind"} for r in rows}


def read(folder: Path, plan: Plan, done: dict[str, dict[str, Any]], also: Callable[[str], bool]) -> Past:
    """The record of what is left to do: of the prompts and seeds of which an arm is missing, and of `also`'s searches.

    Other answers cannot be asked for again. The first answer to a question stands.
    """
    past = Past(done)
    arms: dict[str, int] = {}
    for search_id in done:
        arms[group_of(search_id)] = arms.get(group_of(search_id), 0) + 1
    rewards = {a.arm.name: {r.key: r for r in a.asks} for a in plan.arms}
    for r in journal.read(folder):
        if r["kind"] == "search":
            continue
        search_id = r["search"]
        if arms.get(group_of(search_id), 0) == len(plan.arms) and not also(search_id):
            continue
        past.walls.setdefault(search_id, []).append(r.get("wall", 0.0))
        if r["kind"] == "exhausted":
            continue
        past.calls[search_id] = past.calls.get(search_id, 0) + 1
        past.spent[search_id] = r.get("spent", 0)
        reward = rewards[arm_of(search_id)][r["reward"]]
        for asked, components, seconds in zip(r["asked"], r["components"], r["seconds"], strict=True):
            key = score_key(bytes.fromhex(asked), reward)
            making, scoring, *earlier = seconds
            past.scores.setdefault(key, Score(tuple(components), making, scoring, tuple(earlier)))
    return past


async def replayed(s: Search, past: Past) -> tuple[Context, Candidate]:
    """A finished search again, from its answers alone. Raises KeyError if one is missing."""

    async def answer(xs: Sequence[Candidate], reward: Reward) -> list[Score]:
        return [past.scores[score_key(x.identity, reward)] for x in xs]

    ctx = context(s, answer, lambda: 0.0, past.walls.get(s.id, ()))
    winner, _ = await run_policy(s, ctx)
    return ctx, winner
