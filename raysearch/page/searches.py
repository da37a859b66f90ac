"""The table of a page's searches: what searches.parquet has, and what the page looks up by search."""

import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from raysearch.page.block import digits, numbers, texts
from raysearch.page.reading import Run
from raysearch.session.plan import group_of

LEFT_OUT = ("policy", "policy_args", "allocation", "origin", "video", "winner")
ENDED = ("done", "budget", "failed")  # of the statuses, those of searches that are not run again by themselves
ID_BYTES = 6  # of a candidate's id: with a million candidates two begin alike once in five hundred runs
TAG = "tag_"
KINDS = ("search", "final", "holdout")  # of rewards; a measure is of one kind

Columns = dict[str, "pa.ChunkedArray | np.ndarray | None"]


def columns(run: Run, searches: pa.Table, *, alone: bool) -> Columns:
    """The columns of N searches but for those that depend on candidates. `alone` leaves out links to media."""
    found: Columns = {k: searches[k] for k in searches.column_names if k not in LEFT_OUT}
    ids = searches["search_id"].to_pylist()
    found["group"] = groups(searches)
    found["winner"] = digits(searches["winner"], width=ID_BYTES) if "winner" in searches.column_names else None
    shown = {} if alone else {"video": run.media["images"] | run.media["videos"]}
    shown |= {} if alone else {"poster": run.media["posters"], "preview": run.media["previews"]}
    return found | {k: texts([_url(files.get(i)) for i in ids]) for k, files in shown.items()}


def tags(searches: pa.Table) -> list[str]:
    """The columns of tags."""
    return [k for k in searches.column_names if k.startswith(TAG)]


def groups(searches: pa.Table) -> np.ndarray:
    """A number (N,) for each search, which the searches of one prompt and seed share."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(group_of(i), len(number)) for i in searches["search_id"].to_pylist()], int)


def rewards(run: Run) -> dict[str, dict[str, int]]:
    """By arm and by kind of reward, a number that arms share whose rewards of that kind are the same."""
    given = run.config.get("rewards")
    base = given if isinstance(given, dict) else {}
    number: dict[str, int] = {}
    found = {}
    for arm, block in run.blocks.items():
        own = block.get("rewards")
        of = base | (own if isinstance(own, dict) else {})
        found[arm] = {k: number.setdefault(f"{k} {_text(of.get(k))}", len(number)) for k in KINDS}
    return found


def comparable(judges: dict[str, dict[str, int]], arm: str, other: str, measure: str) -> bool:
    """Whether a measure is of the same reward for two arms, as `rewards` has them."""
    kind = measure.removeprefix("reward_").partition("_")[0]
    return judges[arm].get(kind) == judges[other].get(kind)


def gains(run: Run, searches: pa.Table, measure: str) -> np.ndarray:
    """A measure (N,) minus that of the run's baseline with the same prompt and seed.

    NaN without one, for the baseline itself, and for an arm whose measure is of another reward than the baseline's.
    """
    values, group, baseline, judges = numbers(searches[measure]), groups(searches), run.baseline, rewards(run)
    arms = searches["arm"].to_pylist()
    of_baseline = np.array([a == baseline for a in arms], bool)
    like = {a: a in judges and a != baseline and comparable(judges, a, baseline, measure) for a in set(arms)}
    base = np.full(group.max(initial=-1) + 1, np.nan)
    base[group[of_baseline]] = values[of_baseline]
    gained: np.ndarray = np.where([like[a] for a in arms], values - base[group], np.nan).astype(np.float32)
    return gained


def _text(reward: Any) -> str:
    return json.dumps(reward, sort_keys=True, default=str)


def _url(path: str | None) -> str | None:
    return quote(path) if path is not None else None
