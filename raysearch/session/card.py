"""A run as a notebook shows it: how it goes, and its best winners as pictures or as a table. One piece of HTML.

Texts may come out of a file of anybody's, so all of them are escaped, and no link in a run's folder is followed.
"""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysearch.errors import plain
from raysearch.files import own_content
from raysearch.session import display
from raysearch.session.directory import found
from raysearch.session.snapshot import Snapshot

MOST = 12  # winners that are shown
LONGEST = 120  # characters of a caption
LARGEST = 200_000  # bytes of a poster
REWARDS = {"reward_search": "reward", "reward_final": "final", "reward_holdout": "held out"}
COLUMNS = ("search_id", "arm", "prompt", "seed", "status", *REWARDS, "nfe")


def best(searches: pa.Table, most: int) -> list[dict[str, Any]]:
    """The rows of searches.parquet whose winners have the highest search rewards, the highest first."""
    rewards = searches["reward_search"].to_numpy().astype(float)
    order = np.argsort(-rewards, kind="stable")[: int(np.isfinite(rewards).sum())]  # NaN, a null, comes last
    rows: list[dict[str, Any]] = searches.take(order[:most]).to_pylist()
    return rows


def html(path: Path, searches: pa.Table, s: Snapshot | None) -> str:
    """The run in the folder `path`, with the rows of its table; without a snapshot the line about it is shorter."""
    known = s.state + ": " + ", ".join(display.facts(s)) if s else f"{len(searches)} searches have ended"
    rows = best(searches, MOST)
    posters = [_poster(path, str(r["search_id"])) for r in rows]
    shown = _pictures(rows, posters) if any(posters) else _table(rows)
    more = f"<p>and {len(searches) - len(rows)} more in <code>.searches</code></p>" if len(searches) > len(rows) else ""
    return f"<div><p><b>{_text(path.name)}</b> {_text(known)}</p>{shown}{more}</div>"


def _text(value: object) -> str:
    return escape(plain(value, LONGEST))


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else _text(value)


def _poster(path: Path, search_id: str) -> str:
    """The poster of a search as a data URI, empty without one."""
    if not search_id.partition("-")[0].isdecimal() or "/" in search_id:
        return ""
    file = found(path, "poster", search_id)
    content = own_content(file) if file and file.stat().st_size <= LARGEST else b""
    return f"data:image/webp;base64,{b64encode(content).decode()}" if content else ""


def _pictures(rows: Sequence[dict[str, Any]], posters: Sequence[str]) -> str:
    cells = []
    for r, poster in zip(rows, posters, strict=True):
        image = f'<img src="{poster}" style="width: 100%">' if poster else "<p>no picture</p>"
        rewards = ", ".join(f"{name} {_number(r[key])}" for key, name in REWARDS.items() if r.get(key) is not None)
        lines = "<br>".join((rewards, f"{_text(r['arm'])}, seed {_text(r['seed'])}", _text(r["prompt"])))
        cells.append(f'<figure style="width: 200px; margin: 4px">{image}<figcaption>{lines}</figcaption></figure>')
    return f'<div style="display: flex; flex-wrap: wrap">{"".join(cells)}</div>'


def _table(rows: Sequence[dict[str, Any]]) -> str:
    keys = [k for k in COLUMNS if any(r.get(k) is not None for r in rows)]
    head = "".join(f"<th>{REWARDS.get(k, k)}</th>" for k in keys)
    body = "".join("<tr>" + "".join(f"<td>{_number(r[k])}</td>" for k in keys) + "</tr>" for r in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
