"""Why searches failed: their reasons without ids and numbers, so that alike ones are counted together."""

import re
from typing import Any

import pyarrow as pa

from raysearch.errors import plain

# What differs between reasons that are alike: ids of searches, of candidates and of replicas, addresses, numbers.
SEARCH = r"\b\d{6}-s\d+-[\w.+-]*[\w+-]"
ID = r"\b(?=[a-z]*\d)[0-9a-f]{8,}\b"
NUMBER = r"\b\d+(?:\.\d+)*(?:e[+-]?\d+)?(?![a-z])"
VARIABLE = re.compile(f"{SEARCH}|{ID}|{NUMBER}")
PLACE = "…"
MOST_GROUPS = 200


def alike(reason: str) -> str:
    """A reason without what differs between reasons of one cause."""
    return VARIABLE.sub(PLACE, plain(reason))


def failures(searches: pa.Table) -> list[dict[str, Any]]:
    """The reasons of failed searches, the most frequent first, each with how many searches, by arm, and the first."""
    if "reason" not in searches.column_names:
        return []
    rows = searches.select(["search_id", "arm", "status", "reason"]).to_pylist()
    found: dict[str, dict[str, Any]] = {}
    for r in rows:  # sorted by search_id
        if r["status"] != "failed":
            continue
        said = r["reason"] or ""
        of = found.setdefault(alike(said), {"n": 0, "arms": {}, "first": r["search_id"], "what": plain(said)})
        of["n"] += 1
        of["arms"][r["arm"]] = of["arms"].get(r["arm"], 0) + 1
    groups = [{"reason": reason, **of} for reason, of in found.items()]
    return sorted(groups, key=lambda g: -g["n"])[:MOST_GROUPS]
