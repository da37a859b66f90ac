"""The media of a page: how large the videos are, and those that lie in the page itself as data URLs."""

from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from raysearch.page.block import numbers
from raysearch.page.reading import Run, content, opened
from raysearch.page.searches import gains
from raysearch.session.plan import group_of

TYPES = {"mp4": "video/mp4", "png": "image/png", "webp": "image/webp"}
KINDS = {"videos": ("videos", "images"), "posters": ("posters",), "previews": ("previews",)}  # folders of each kind


def media(run: Run, embedded: Iterable[str], *, alone: bool) -> dict[str, Any]:
    """What the manifest says of media. `embedded` are searches whose media are in the page."""
    of: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for search_id in embedded:
        for kind, folders in KINDS.items():
            for folder in folders:
                path = run.media[folder].get(search_id)
                found = content(run.path, path, run.shown) if path else None
                if path and found is not None:
                    data = b64encode(found).decode()
                    of[kind][search_id] = f"data:{TYPES[path.rpartition('.')[2]]};base64,{data}"
    return {**_size(run), "alone": alone, "embedded": of}


def _size(run: Run) -> dict[str, float | int | None]:
    """Frames a second, frames, width and height of the first video that can be read."""
    none: dict[str, float | int | None] = dict.fromkeys(("fps", "frames", "width", "height"))
    for path in list(run.media["videos"].values())[:3]:
        try:
            import av

            with opened(run.path, path) as file, av.open(file) as video:
                s = video.streams.video[0]
                rate = float(s.average_rate) if s.average_rate else None
                return {"fps": rate, "frames": s.frames or None, "width": s.width, "height": s.height}
        except Exception:  # of a video that is no video, whatever its library says then
            continue
    return none


def most_interesting(run: Run, searches: pa.Table, measure: str | None, most: int) -> list[str]:
    """The ids of at most `most` searches with videos: those that gain most over the baseline, best first.

    After each comes the baseline's search of the same prompt and seed. Where nothing is gained, as by a run of one arm,
    the searches of the highest reward are taken.
    """
    ids = searches["search_id"].to_pylist()
    if not measure or not most:
        return []
    gained = gains(run, searches, measure).astype(float)
    arms, there = searches["arm"].to_pylist(), run.media["videos"].keys() | run.media["images"].keys()
    base = {group_of(i): i for i, a in zip(ids, arms, strict=True) if a == run.baseline}
    ranked = gained if np.isfinite(gained).any() else numbers(searches[measure])
    order = [i for i in np.argsort(-np.nan_to_num(ranked, nan=-np.inf), kind="stable") if np.isfinite(ranked[i])]
    found: dict[str, None] = {}
    for i in order:
        for search_id in (ids[i], base.get(group_of(ids[i]), "")):
            if search_id in there and len(found) < most:
                found[search_id] = None
    return list(found)
