"""A page's data, made from a run: the manifest, the block of columns and the shards. README.md is the contract."""

import shlex
import time
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch import __version__
from raysearch.errors import ConfigError
from raysearch.page import usage
from raysearch.page.block import Block, Table
from raysearch.page.candidates import Candidates
from raysearch.page.comparisons import comparisons, measures
from raysearch.page.failures import failures
from raysearch.page.media import media, most_interesting
from raysearch.page.reading import Run
from raysearch.page.scaling import curves
from raysearch.page.searches import ENDED, columns, gains, rewards, tags
from raysearch.recipe.digests import canonical_json
from raysearch.session.tables import SEARCHES

PAGE_VERSION = 1
MOST_INLINE = 250_000  # candidates that lie in the page itself
SHARD = 100_000  # candidates of a shard, and more if one search has more
FOLDER = "report"  # of shards


@dataclass(frozen=True)
class Page:
    """What fills a page: the manifest, the gzipped block, and files beside the page by their names."""

    manifest: dict[str, Any]
    columns: bytes
    shards: dict[str, bytes]


def made(run: Run, *, price: float | None = None, embed: int = 0, alone: bool = False, live: Any = False) -> Page:
    """The page of a run. `alone` makes one that needs nothing beside it. Raises ConfigError for unreadable tables."""
    try:
        return _made(run, price, embed, alone, live)
    except pa.ArrowException as error:  # columns of other types than a run's
        said = str(error).splitlines()[0]
        raise ConfigError.of("RUN_DIR", run.shown, f"a folder whose tables are those of a run ({said})") from error


def _made(run: Run, price: float | None, embed: int, alone: bool, live: Any) -> Page:
    searches = run.tables.get("searches")
    if searches is None:  # no search has begun
        kinds = {k: SEARCHES[k] for k in ("search_id", "arm", "prompt", "seed", "status", "winner")}
        searches = pa.schema(list(kinds.items())).empty_table()
    found = measures(searches)
    keys = [m["key"] for m in found]
    block, shards = Block(), {}
    own = columns(run, searches, alone=alone)
    if keys:
        own["gain"] = gains(run, searches, keys[0])
    tables: dict[str, Table | None] = {"candidates": None}
    listed: list[dict[str, Any]] = []
    components: list[str] = []
    if "candidates" in run.tables:
        of = Candidates.of(run.tables["candidates"], searches)
        parts = of.shards(SHARD) if len(of.search) > MOST_INLINE and not alone else [(0, searches.num_rows)]
        own |= _places(of, parts)
        components = of.components
        for n, (first, last) in enumerate(parts if len(parts) > 1 else []):
            name, content, table = _shard(of, n, first, last)
            shards[name] = content
            where = {"first_search": first, "searches": last - first, "first_candidate": int(of.first[first])}
            listed.append({"file": f"{FOLDER}/{name}", "table": table, **where})
        if not listed:
            tables["candidates"] = block.table(of.columns())
    tables["searches"] = block.table(own)
    rows, busy = usage.timeline(run), usage.utilisation(run)
    tables["timeline"] = block.table({k: rows[k] for k in rows.column_names}) if rows is not None else None
    tables["utilisation"] = block.table(busy) if busy else None
    tables["costs"] = block.table(usage.by_arm(run, searches, run.tables.get("candidates"))) if run.blocks else None
    shown = most_interesting(run, searches, keys[0] if keys else None, embed)
    manifest = {
        "page_version": PAGE_VERSION,
        "raysearch": __version__,
        "made_at": time.time(),
        "live": live,
        "run": _run(run, searches),
        "arms": _arms(run, searches),
        "measures": found,
        "components": components,
        "tags": tags(searches),
        "baseline": run.baseline,
        "price": price,
        "comparisons": comparisons(run, searches, keys),
        "curves": curves(run),
        "tables": tables,
        "failures": failures(searches),
        "media": media(run, shown, alone=alone),
        "shards": listed,
    }
    return Page(manifest, block.gzipped(), shards)


def _places(of: Candidates, parts: Iterable[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Where the candidates of each search lie; a winner's row counts in its shard."""
    winner = of.winner_row.copy()
    for first, last in parts:
        there = winner[first:last] >= 0
        winner[first:last][there] -= of.first[first]
    return {"first_candidate": of.first[:-1], "candidates": np.diff(of.first), "winner_row": winner}


def _shard(of: Candidates, n: int, first: int, last: int) -> tuple[str, bytes, Table]:
    """The name, the content and the table of the shard with the candidates of some searches."""
    block = Block()
    table = block.table(of.columns(first, last))
    packed = block.gzipped()
    name = f"shard-{n}-{blake2b(packed, digest_size=6).hexdigest()}.js"
    return name, b'window.raysearchShard(%d, "%s");\n' % (n, b64encode(packed)), table


def _run(run: Run, searches: pa.Table) -> dict[str, Any]:
    s, status = run.snapshot, searches["status"]
    ended = pc.sum(pc.is_in(status, pa.array(ENDED))).as_py() or 0
    failed = pc.sum(pc.equal(status, "failed")).as_py() or 0
    names = ("nfe", "nfe_spent", "replica_seconds")
    sums = {k: (pc.sum(searches[k]).as_py() or 0) if k in searches.column_names else None for k in names}
    over = not failed and (s.state == "finished" if s else searches.num_rows > 0)  # as far as the folder tells
    return {
        "name": s.run if s else run.path.resolve().name,
        "dir": run.shown,
        "state": s.state if s else None,
        "reason": s.reason if s else "",
        "started": s.started if s else None,
        "elapsed": s.elapsed if s else None,
        "left": s.left if s else None,
        "kind": _kind(run),
        "searches": max(s.total if s else 0, searches.num_rows),
        "done": max(s.done if s else 0, ended),
        "failed": failed,
        **sums,
        **usage.lost(run),
        "slots": usage.slots(run),
        "config": run.config_text,
        "again": "" if over or (s is not None and s.going) else again(run),
    }


def again(run: Run) -> str:
    """The command that goes on with a run."""
    command = "collect" if run.config.get("collect") is not None else "run"
    words = [command, f"{run.shown}/config.yaml", f"run_dir={run.shown}", "resume=require"]
    return "python -m raysearch " + " ".join(map(shlex.quote, words))


def _kind(run: Run) -> str:
    long = run.config.get("long")
    long = long if isinstance(long, dict) else {}
    chunks = long.get("chunks")
    if run.config.get("collect") is not None:
        return "collection"
    if "curves" in run.tables:
        return "sweep"
    if long.get("fifo") is not None:
        return "queue"
    if isinstance(chunks, int) and chunks > 1:
        return "long"
    return "image" if run.media["images"] and not run.media["videos"] else "run"


def _arms(run: Run, searches: pa.Table) -> list[dict[str, Any]]:
    """The arms in the config's order, as their searches say what they are, else as the config does."""
    said: dict[str, tuple[str, str]] = {}
    if {"policy", "policy_args"} <= set(searches.column_names):
        unique = searches.select(["arm", "policy", "policy_args"]).group_by(["arm", "policy", "policy_args"])
        said = {r["arm"]: (r["policy"] or "", r["policy_args"] or "{}") for r in unique.aggregate([]).to_pylist()}
    base, judges = run.config.get("policy"), rewards(run)
    made = []
    for name, block in run.blocks.items():
        own = block.get("policy")
        policy = dict(own if isinstance(own, dict) else base if isinstance(base, dict) else {})
        policy_name = str(policy.pop("name", ""))
        kind, arguments = said.get(name) or (policy_name, canonical_json(policy))
        made.append({"name": name, "policy": kind, "arguments": arguments, "rewards": judges[name]})
    return made
