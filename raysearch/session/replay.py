"""What the journal of an earlier run gives back, so that nothing recorded is asked of the world again.

The journal holds answers, not tensors: a policy that is run against its answers asks the same questions, and gets to
where it was. The latents that its next question needs are made again from recipes.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysearch.recipe.digests import Digest
from raysearch.recipe.reward import Score, score_key
from raysearch.session import journal
from raysearch.session.plan import Plan, arm_of, group_of
from raysearch.session.tables import FINISHED, ended


@dataclass
class Past:
    """An earlier run's record; that of a new run is empty. All but the scores are by a search's id."""

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of searches.parquet
    scores: dict[Digest, Score] = field(default_factory=dict)  # what was answered, by `score_key`
    walls: dict[str, list[float]] = field(default_factory=dict)  # the search's age in seconds at each question
    calls: Counter[str] = field(default_factory=Counter)  # how many questions were answered
    spent: dict[str, int] = field(default_factory=dict)  # the NFE that were really run


def read(folder: Path, plan: Plan) -> Past:
    """The record of a journal's folder: finished searches, and the answers that can be asked for again.

    Those are the answers of the prompts and seeds of which an arm is missing. The first answer to a question stands.
    """
    past = Past({r["search_id"]: _row(r) for r in ended(folder) if r["status"] in FINISHED})
    arms = Counter(map(group_of, past.finished))
    rewards = {a.arm.name: {r.key: r for r in a.asks} for a in plan.arms}
    for r in journal.read(folder):
        if r["kind"] == "search" or arms[group_of(r["search"])] == len(plan.arms):
            continue
        search_id = r["search"]
        past.walls.setdefault(search_id, []).append(r["wall"])
        if r["kind"] == "exhausted":
            continue
        past.calls[search_id] += 1
        past.spent[search_id] = r["spent"]
        reward = rewards[arm_of(search_id)][r["reward"]]
        for asked, components, seconds in zip(r["asked"], r["components"], r["seconds"], strict=True):
            making, scoring, *earlier = seconds
            score = Score(tuple(components), making, scoring, tuple(earlier))
            past.scores.setdefault(score_key(bytes.fromhex(asked), reward), score)
    return past


def _row(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in ("kind", "candidates")}
