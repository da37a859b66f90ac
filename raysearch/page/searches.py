"""The table of a page's searches: what searches.parquet has, and what the page looks up by search."""

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


def gains(searches: pa.Table, measure: str, baseline: str) -> np.ndarray:
    """A measure (N,) minus the baseline's of the same prompt and seed; NaN without one, and for the baseline itself."""
    values, group = numbers(searches[measure]), groups(searches)
    of_baseline = np.array([a == baseline for a in searches["arm"].to_pylist()], bool)
    base = np.full(group.max(initial=-1) + 1, np.nan)
    base[group[of_baseline]] = values[of_baseline]
    gained: np.ndarray = np.where(of_baseline, np.nan, values - base[group]).astype(np.float32)
    return gained


def _url(path: str | None) -> str | None:
    return quote(path) if path is not None else None
