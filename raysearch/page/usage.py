"""What a run cost and how busy its fleet was: tables out of timeline.parquet, trace.parquet and the searches.

Shapes: N items of a trace, B bins.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.page.block import numbers, texts
from raysearch.page.reading import Run
from raysearch.page.searches import ENDED, Columns
from raysearch.session.recording import KINDS

BINS = 300
WORK = ("denoise", "look", "compare", "finish", "encode")  # what an item may be
CHARGED = ("nfe", "nfe_spent", "decodes", "reward_calls", "replica_seconds")
TRACED = ("session", "start", "end", "waited", "kind", "what", "search", "nfe", "seconds", "ended")
LOST = ("restarts", "evicted", "recomputed", "wasted")


def timeline(run: Run) -> pa.Table | None:
    """The rows of timeline.parquet in their order; None without any."""
    table = run.tables.get("timeline")
    if table is None or not table.num_rows or not {"at", "elapsed", "session"} <= set(table.column_names):
        return None
    return table.sort_by([("session", "ascending"), ("at", "ascending")])


def trace(run: Run) -> pa.Table | None:
    """trace.parquet; None without any row."""
    table = run.tables.get("trace")
    whole = table is not None and table.num_rows > 0 and set(TRACED) <= set(table.column_names)
    return table if whole else None


def lost(run: Run) -> dict[str, int | None]:
    """How many replicas died, latents were evicted, items done again and NFE wasted, in all sessions of the run."""
    fleet, table = run.snapshot.fleet if run.snapshot else None, timeline(run)
    found = {k: getattr(fleet, k) if fleet else None for k in LOST}
    if table is None:
        return found
    session = numbers(table["session"])
    last = np.append(session[1:] != session[:-1], True)
    return found | {k: int(np.nansum(numbers(table[k])[last])) for k in LOST if k in table.column_names}


# -- how busy the fleet was ------------------------------------------------------------------------------------------


def utilisation(run: Run) -> Columns | None:
    """About BINS bins over the sessions of a run, with the mean slots busy of each kind; None if nothing tells."""
    spans, table, items = _spans(run), timeline(run), trace(run)
    if not spans:
        return None
    in_all = sum(end - start for start, end in spans.values())
    if in_all <= 0:
        return None
    made: dict[str, list[np.ndarray]] = {}
    before = 0.0
    for session, (start, end) in spans.items():
        n = max(1, round(BINS * (end - start) / in_all))
        edges = np.linspace(start, end, n + 1)
        bins = {"at": edges[:-1], "elapsed": before + edges[:-1] - start, "width_s": np.diff(edges)}
        bins["session"] = np.full(n, session)
        for kind in KINDS:
            bins |= {f"{k}_{kind}": v for k, v in _of_kind(kind, session, edges, table, items).items()}
        for k, v in bins.items():
            made.setdefault(k, []).append(v)
        before += end - start
    found = {k: np.concatenate(v) for k, v in made.items()}
    return {k: v for k, v in found.items() if not np.isnan(v).all()}


def _spans(run: Run) -> dict[int, tuple[float, float]]:
    """When each session's fleet was up, and when it was last seen. Before it was up a row has no `elapsed`."""
    starts: dict[int, list[float]] = {}
    table, items = timeline(run), trace(run)
    if table is not None:
        session, at, elapsed = (numbers(table[k]) for k in ("session", "at", "elapsed"))
        for s in np.unique(session[np.isfinite(session)]):
            starts.setdefault(int(s), []).extend(
                [*(at - elapsed)[(session == s) & np.isfinite(elapsed)], at[session == s].max()]
            )
    if items is not None:
        session, start, end = (numbers(items[k]) for k in ("session", "start", "end"))
        for s in np.unique(session[np.isfinite(session)]):
            starts.setdefault(int(s), []).extend([start[session == s].min(), end[session == s].max()])
    found = {s: (min(times), max(times)) for s, times in sorted(starts.items())}
    return {s: ends for s, ends in found.items() if np.isfinite(ends).all()}


def _of_kind(
    kind: str, session: int, edges: np.ndarray, table: pa.Table | None, items: pa.Table | None
) -> dict[str, np.ndarray]:
    """`busy`, `slots` and `waiting` in each of B bins with `edges` (B + 1,), as far as they are known."""
    found = {k: np.full(len(edges) - 1, np.nan) for k in ("busy", "slots", "waiting")}
    if table is not None:
        own = numbers(table["session"]) == session
        at = numbers(table["at"])[own]
        seen = np.clip(np.searchsorted(at, (edges[:-1] + edges[1:]) / 2, side="right") - 1, 0, None)
        for k in found:
            if own.any() and f"{k}_{kind}" in table.column_names:
                found[k] = numbers(table[f"{k}_{kind}"])[own][seen]
    if items is not None:
        mine = (numbers(items["session"]) == session) & _is(items["kind"], kind)
        start, end = (numbers(items[k])[mine] for k in ("start", "end"))
        if mine.any() or np.isfinite(found["slots"]).any():
            found["busy"] = np.diff(_worked(edges, start, edges[0]) - _worked(edges, end, edges[0])) / np.diff(edges)
            found["busy"] = np.fmin(found["busy"], found["slots"])  # an item handed ahead waits at its replica
    return found


def _worked(until: np.ndarray, since: np.ndarray, zero: float) -> np.ndarray:
    """The sum over items of the seconds from each one's `since` (N,) to `until` (B,), where that is past."""
    since = np.sort(since[np.isfinite(since)] - zero)
    n = np.searchsorted(since, until - zero)
    found: np.ndarray = n * (until - zero) - np.concatenate([[0.0], np.cumsum(since)])[n]
    return found


# -- what each arm cost ------------------------------------------------------------------------------------------------


def by_arm(run: Run, searches: pa.Table, candidates: pa.Table | None) -> Columns:
    """The table of costs: a row for each arm, with sums as charged and, where there is a trace, as run."""
    arms = list(run.blocks)
    place = {a: i for i, a in enumerate(arms)}
    of = np.array([place.get(a, -1) for a in searches["arm"].to_pylist()], int)
    ended = pc.is_in(searches["status"], pa.array(ENDED)).to_numpy() & (of >= 0)
    made: Columns = {"arm": texts(arms), "searches": _sums(of[ended], np.ones(ended.sum()), len(arms))}
    made["failed"] = _sums(of[ended], _is(searches["status"], "failed")[ended], len(arms))
    for k in CHARGED:
        if k in searches.column_names:
            made[k] = _sums(of[ended], numbers(searches[k])[ended], len(arms))
    if candidates is not None:
        made |= _shares(of, searches, candidates, len(arms))
    items = trace(run)
    return made | (_run(items, len(arms)) if items is not None and arms else {})


def _shares(of: np.ndarray, searches: pa.Table, candidates: pa.Table, arms: int) -> Columns:
    """`making_s` and `scoring_s`: of each trajectory what its last score had cost until then, and of each score."""
    if not {"trajectory", "making_s", "scoring_s"} <= set(candidates.column_names):
        return {}
    row = pc.index_in(candidates["search_id"], value_set=searches["search_id"].combine_chunks())
    row = row.fill_null(-1).to_numpy()
    arm = np.append(of, -1)[row]
    code = candidates["trajectory"].combine_chunks().dictionary_encode().indices.fill_null(0).to_numpy()
    making, scoring = (np.nan_to_num(numbers(candidates[k])) for k in ("making_s", "scoring_s"))
    keys, at = np.unique(row.astype(np.int64) * (int(code.max(initial=0)) + 1) + code, return_inverse=True)
    longest = np.zeros(len(keys))
    np.maximum.at(longest, at, making)
    whose = np.full(len(keys), -1)
    whose[at] = arm
    return {
        "making_s": _sums(whose[whose >= 0], longest[whose >= 0], arms),
        "scoring_s": _sums(arm[arm >= 0], scoring[arm >= 0], arms),
    }


def _run(items: pa.Table, arms: int) -> Columns:
    """Sums over a trace's items by the arm that asked first: a search's age tells its arm, as arms take turns."""
    age = numbers(items["search"])
    own = np.isfinite(age) & (age >= 0)
    arm = age[own].astype(np.int64) % arms
    seconds, waited, nfe = (np.nan_to_num(numbers(items[k])[own]) for k in ("seconds", "waited", "nfe"))
    made: Columns = {}
    for w in WORK:
        of = _is(items["what"], w)[own]
        made[f"{w}_s"] = _sums(arm[of], seconds[of], arms)
    made |= {"waited_s": _sums(arm, waited, arms), "nfe_run": _sums(arm, nfe, arms)}
    made["items"] = _sums(arm, np.ones(len(arm)), arms)
    return made | {"lost_items": _sums(arm, ~_is(items["ended"], "done")[own], arms)}


def _is(texts: pa.ChunkedArray, text: str) -> np.ndarray:
    """Which of N texts are this one (N,)."""
    found: np.ndarray = pc.fill_null(pc.equal(texts, text), False).to_numpy()
    return found


def _sums(of: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    found: np.ndarray = np.bincount(of, weights=np.nan_to_num(values), minlength=n)
    return found


def slots(run: Run) -> dict[str, int] | None:
    """The slots of each kind when the run was last seen."""
    fleet = run.snapshot.fleet if run.snapshot else None
    return dict(fleet.slots) if fleet else None
