"""A run as a notebook shows it: how it goes, and its best winners as pictures or as a table. One piece of HTML.

Texts may come out of a file of anybody's, so all of them are escaped, and no link in a run's folder is followed.
"""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import counted, plain
from raysearch.files import own_content
from raysearch.session import display
from raysearch.session.directory import found
from raysearch.session.snapshot import Snapshot
from raysearch.session.tables import FINISHED

MOST = 12  # winners that are shown
LONGEST = 120  # characters of a caption
LARGEST = 200_000  # bytes of a poster
BY = ("reward_search", "reward_holdout", "reward_final")
REWARDS = {"reward_search": "reward", "reward_final": "final", "reward_holdout": "held out"}
COLUMNS = ("search_id", "arm", "prompt", "seed", "status", *REWARDS, "nfe")


def ranked(searches: pa.Table) -> pa.Table:
    """The rows of searches.parquet that have a winner, by its reward, the highest first.

    That is the search's own reward, or the judge's in a run whose searches have none.
    """
    won = searches.filter(pc.is_in(searches["status"], pa.array(sorted(FINISHED))))
    keys = [k for k in BY if k in won.column_names and won[k].null_count < len(won)]
    return won.take(pc.sort_indices(won, sort_keys=[(keys[0], "descending")])) if keys else won


def html(path: Path, searches: pa.Table, s: Snapshot | None) -> str:
    """The run in the folder `path`, with the rows of its table; without a snapshot the line about it is shorter."""
    known = _state(s) if s else f"{counted(len(searches), 'search')} ended"
    rows: list[dict[str, Any]] = ranked(searches).slice(0, MOST).to_pylist()
    posters = [_poster(path, str(r["search_id"])) for r in rows]
    shown = _pictures(rows, posters) if any(posters) else _table(rows)
    more = f"<p>and {len(searches) - len(rows)} more in <code>.searches</code></p>" if len(searches) > len(rows) else ""
    return f"<div><p><b>{_text(path.name)}</b> {_text(known)}</p>{shown}{more}</div>"


def _state(s: Snapshot) -> str:
    parts = [f"{s.state}: {s.done}/{counted(s.total, 'search')}"]
    parts += [f"{s.failed} failed"] if s.failed else []
    parts += [f"best reward {s.best:.3f}"] if s.best is not None else []
    parts += [f"{display.duration(s.left)} left"] if s.left is not None else []
    return ", ".join(parts)


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
