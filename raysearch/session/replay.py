"""Resuming a run: the journal's answers are read back, so that no recorded reward is computed again.

The journal holds answers, not tensors: a policy that runs against recorded answers asks the same questions, and so
reaches the point where it was stopped. The latents that its next question needs are made again from recipes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysearch.engine.protocol import Outputs
from raysearch.recipe.digests import Digest
from raysearch.recipe.reward import Question, Reward, Score, score_key
from raysearch.search.context import Context
from raysearch.session import journal
from raysearch.session.plan import Plan, Search, allowing, arm_of, context, group_of
from raysearch.session.tables import FINISHED, search_records


@dataclass
class Past:
    """What the journal of an earlier run holds, empty for a new run. All but `scores` is keyed by search_id."""

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of searches.parquet
    scores: dict[Digest, Score] = field(default_factory=dict)  # recorded answers, by `score_key`
    walls: dict[str, list[float]] = field(default_factory=dict)  # the search's age in seconds at each question
    calls: Counter[str] = field(default_factory=Counter)  # the number of recorded questions
    spent: dict[str, int] = field(default_factory=dict)  # NFE that were really run
    lacking: dict[str, Outputs] = field(default_factory=dict)  # of finished searches: files that are not there

    @property
    def ended(self) -> set[str]:
        """The finished searches that lack no file."""
        return self.finished.keys() - self.lacking.keys()


def answer_record(
    s: Search, xs: Sequence[Question], reward: Reward, scores: Sequence[Score], *, wall: float, spent: int
) -> dict[str, Any]:
    """The journal's record of questions `xs`, which were asked `wall` seconds into the search, at `spent` NFE in all.

    Several rewards may have one key, such as the distances to obstacles, so their place in `ArmPlan.asks` is recorded.
    """
    return {
        "kind": "answer",
        "search": s.id,
        "reward": reward.key,
        "place": s.plan.asks.index(reward),
        "asked": [x.id for x in xs],
        "components": [list(a.components) for a in scores],
        "seconds": [[a.making, a.scoring, *a.earlier] for a in scores],
        **({"tokens": [a.tokens for a in scores]} if any(a.tokens for a in scores) else {}),
        "wall": wall,
        "spent": spent,
    }


def read(folder: Path, plan: Plan, lacking: Callable[[str], Outputs]) -> Past:
    """The finished searches of a journal's folder, and the recorded answers that a resumed run can ask for.

    Only searches of a prompt and seed of which some arm is unfinished or is `lacking` files can ask. If a question was
    answered twice, the first answer counts.
    """
    past = Past({r["search_id"]: _row(r) for r in search_records(folder) if r["status"] in FINISHED})
    wanted = {i: lacking(i) for i, row in past.finished.items() if row["winner"] is not None}
    past.lacking = {i: o for i, o in wanted.items() if o.asked}
    arms = Counter(group_of(i) for i in past.ended)
    rewards = {a.arm.name: a.asks for a in plan.arms}
    for r in journal.read(folder):
        if r["kind"] == "search" or arms[group_of(r["search"])] == len(plan.arms):
            continue
        search_id = r["search"]
        past.walls.setdefault(search_id, []).append(r["wall"])
        if r["kind"] == "exhausted":
            continue
        past.calls[search_id] += 1
        past.spent[search_id] = r["spent"]
        reward = rewards[arm_of(search_id)][r["place"]]
        tokens = r.get("tokens", [0] * len(r["asked"]))
        for asked, components, seconds, n in zip(r["asked"], r["components"], r["seconds"], tokens, strict=True):
            making, scoring, *earlier = seconds
            score = Score(tuple(components), making, scoring, tuple(earlier), n)
            past.scores.setdefault(score_key(bytes.fromhex(asked), reward), score)
    return past


def answered(s: Search, past: Past, clock: Callable[[], float], trials: int) -> Context:
    """The context of a search that made so many trials, which the journal answers; LookupError where it does not."""

    async def answer(xs: Sequence[Question], reward: Reward) -> list[Score]:
        return [past.scores[score_key(x.identity, reward)] for x in xs]

    gate = allowing(trials) if s.plan.arm.allocate else None
    return context(s, answer, clock, past.walls.get(s.id, ()), gate)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    if arm_of(record["search_id"]) != record["arm"]:
        raise ValueError(f"the search {record['search_id']} is not of the arm {record['arm']}")
    return {k: v for k, v in record.items() if k not in ("kind", "candidates")}
