"""Which candidates' previews a search's sprite shows. Scorers make both, and nothing here knows of pixels."""

from collections.abc import Iterable, Mapping
from typing import Any

from raysearch.recipe.digests import Digest

ROWS = 100  # of a sprite: a WebP is at most 16,383 pixels high, and a row at most 160


def chosen(rows: Iterable[Mapping[str, Any]], strips: Mapping[Digest, bytes], which: str) -> dict[str, bytes]:
    """The strips of a sprite from top to bottom, by the ids of their candidates, in the order of the table's rows.

    `which` is "kept" or "all". Where there are more than ROWS, those of kept candidates go first, and the latest.
    """
    kept = {r["candidate"]: r["kept"] for r in rows if r["kept"] or which == "all"}
    found = {i: strip for i in kept if (strip := strips.get(bytes.fromhex(i)))}
    first = [i for wanted in (True, False) for i in reversed(found) if kept[i] is wanted][:ROWS]
    return {i: strip for i, strip in found.items() if i in set(first)}
