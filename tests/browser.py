"""Chromium for tests of the report page, and folders of runs to look at, some with videos, posters and previews."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pages
from benchmarks import page_data
from PIL import Image
from sweeps import BEST, grid

from actors.workers.video import Mp4
from raysearch.page.command import report
from raysearch.session.session import Session
from raysearch.sweep.grid import write_report
from raysearch.testing import FakeBackend, run_virtual, virtual_now

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">"
PROMPTS = [HOSTILE, "a red circle moving left", "a blue square moving up", "a green triangle moving down"]
ARMS = ("single", "best-of-4", "rgrp")
CONFIG = "arms: [{name: single}, {name: best-of-4}, {name: rgrp}]\nbaseline: single\nseeds_apart: false\n"
SIZE, FRAMES, FPS = (96, 160), 48, 16
STEPS = 12


def lacking() -> str:
    """What this machine lacks to show a page, or an empty text."""
    there = {"chromium": shutil.which("chromium"), "the package playwright": find_spec("playwright")}
    return ", ".join(name for name, found in there.items() if not found)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright, Debian's chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # which root cannot have
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        yield browser
        browser.close()


class Window:
    """A page of a browser that remembers what it asked for and what went wrong in it."""

    def __init__(self, browser: Any, **context: Any) -> None:
        shape = {"viewport": {"width": 1440, "height": 900}} | context
        self.context = browser.new_context(**shape)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.errors.append(m.text))

    def open(self, run: Path | str, screen: str = "overview", **view: str) -> Any:
        """Open a screen of a run's page, and return Playwright's page once it is drawn."""
        where = (run / "report.html").as_uri() if isinstance(run, Path) else run
        self.page.goto("about:blank")
        self.page.goto(f"{where}#{screen}" + (f"?{urlencode(view)}" if view else ""))
        self.page.locator("main").wait_for()
        return self.page

    def outside(self) -> list[str]:
        """What it asked for beyond files and data of its own."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]


# -- runs ------------------------------------------------------------------------------------------------------------


def written(path: Path, *more: Any) -> Path:
    """The folder of a run, with its page."""
    assert report(path, 0, None, None, lambda line: None) == 0
    return path


def candidates(search: str, seed: int, *, parts: int = 1, n: int = 6, kind: str = "extend") -> list[dict[str, Any]]:
    """Rows of a search that scores n trajectories thrice in each part; some are perturbed, renoised or branched."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    above: dict[str, Any] | None = None
    for part in range(parts):
        best: dict[str, Any] | None = None
        for t in range(n):
            how, parent, first = "noise", None, 0
            if above is not None:
                how, parent = kind, above["candidate"]
            elif t >= n // 2 and rows:
                how, before = ("perturb", "renoise", "branch")[t % 3], rows[-2 if t % 2 else -1]
                parent, first = before["candidate"], before["step"] - (2 if how == "renoise" else 0)
            for step in (4, 8, STEPS):
                if step <= first:
                    continue
                asked = 1.0 + len(rows)
                row = {
                    "search_id": search,
                    "candidate": rng.bytes(16).hex(),
                    "parent": parent,
                    "origin": json.dumps({"kind": how, "parent": parent, "ordinal": t}),
                    "part": part,
                    "step": step,
                    "num_steps": STEPS,
                    "sigma": 1 - step / STEPS,
                    "trajectory": f"{part:02d}{t:030d}",
                    "by": None if t == 1 and step == 4 else "search",
                    "reward": None if t == 1 and step == 4 else float(rng.normal() + step / STEPS),
                    "nfe": step * 2,
                    "nfe_after": len(rows) * 8 + 8,
                    "asked_s": asked,
                    "making_s": 0.5,
                    "scoring_s": 0.1,
                    "kept": t % 3 == 0,
                    "call": len(rows),
                    "VQ": float(rng.normal()),
                    "preview": len(rows),
                }
                rows.append(row)
                if step == STEPS and (best is None or row["reward"] > best["reward"]):
                    best = row
        assert best is not None
        best["kept"] = True
        above = best
    return rows


def winner(rows: Sequence[dict[str, Any]]) -> str:
    last = [r for r in rows if r["part"] == rows[-1]["part"] and r["step"] == STEPS]
    return str(max(last, key=lambda r: r["reward"])["candidate"])


def clip(seed: int) -> np.ndarray:
    """Frames (FRAMES, H, W, 3) of a disc that moves."""
    rng = np.random.default_rng(seed)
    (height, width), frames = SIZE, np.empty((FRAMES, *SIZE, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    colour, back, speed = rng.integers(90, 255, 3), rng.integers(10, 60, 3), rng.uniform(-2, 2, 2)
    for f, frame in enumerate(frames):
        at = (height / 2 + speed[0] * f) % height, (width / 2 + speed[1] * f) % width
        frame[:] = back
        frame[(y - at[0]) ** 2 + (x - at[1]) ** 2 < 20**2] = colour
    return frames


@cache
def mp4(seed: int) -> bytes:
    film = Mp4(fps=Fraction(FPS))
    film.add(clip(seed))
    return film.close()


def films(path: Path, searches: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Videos, posters and sprites of the searches that ended well."""
    for name in ("videos", "posters", "previews"):
        (path / name).mkdir()
    clips = [clip(i) for i in range(5)]
    for i, s in enumerate(searches):
        if s["status"] != "done":
            continue
        frames = clips[i % 5]
        (path / s["video"]).write_bytes(mp4(i % 5))
        Image.fromarray(frames[FRAMES // 2]).save(path / "posters" / f"{s['search_id']}.webp")
        n = sum(r["search_id"] == s["search_id"] for r in rows)
        cells = [np.concatenate([np.roll(frames[f], 9 * k, 1) for f in (0, 24, 47)], axis=1) for k in range(n)]
        Image.fromarray(np.concatenate(cells)).save(path / "previews" / f"{s['search_id']}.webp", quality=50)


def with_media(path: Path, prompts: Sequence[str] = PROMPTS, arms: Sequence[str] = ARMS, seeds: int = 2) -> Path:
    """A run of prompts, seeds and arms with videos; its last search failed, and one winner was hacked."""
    rng = np.random.default_rng(1)
    searches, rows = [], []
    for p, prompt in enumerate(prompts):
        for seed in range(seeds):
            for a, arm in enumerate(arms):
                name = f"{p:06d}-s{seed}-{arm}"
                own = candidates(name, len(searches))
                judged = float(0.3 * a + rng.normal(scale=0.4))
                s = pages.search(p, seed, arm, judged, winner=winner(own), tag_kind=("easy", "hard")[p % 2])
                s |= {
                    "prompt": prompt,
                    "reward_search": judged + 0.2 * a + 0.1,
                    "video": f"videos/{name}.mp4",
                    "nfe": 24 * (1 + a * 3),
                }
                searches.append(s)
                rows += own
    searches[2] |= {"reward_search": 3.0, "reward_holdout": -2.0}  # its search's reward misled it
    searches[-1] |= {"status": "failed", "reason": "CUDA error: out of memory", "reward_search": None}
    searches[-1] |= {"reward_holdout": None, "video": None, "winner": None}
    pages.folder(path, CONFIG, searches=searches, candidates=rows)
    films(path, searches, rows)
    return written(path)


def swept(path: Path) -> None:
    s = grid({"policy": {"name": "single"}}, BEST, rewards={"search": {"name": "fake"}, "holdout": {"name": "fake"}})
    run_virtual(Session(s.config, FakeBackend(), run_dir=path, clock=virtual_now).run([]))
    write_report(s, path)


def one(path: Path) -> None:
    rows = candidates("000000-s0-single", 0)
    pages.folder(path, searches=[pages.search(0, 0, "single", 1.0, winner=winner(rows))], candidates=rows)


def failed(path: Path) -> None:
    reasons = ("CUDA error: out of memory", "RewardError: frame 3 is not finite")
    rows = [pages.search(p, 0, arm, None, reason=reasons[p % 2]) for p in range(3) for arm in ("single", "best")]
    pages.folder(path, searches=rows)


def in_parts(long: str, kind: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        rows = candidates("000000-s0-best", 0, parts=3, kind=kind)
        searches = [pages.search(0, 0, "best", 2.0, winner=winner(rows)), pages.search(0, 0, "single", 1.0)]
        pages.folder(path, pages.CONFIG + f"long: {long}\n", searches=searches, candidates=rows)

    return make


CASES: dict[str, Callable[[Path], object]] = {
    "empty": pages.stopped,
    "one": one,
    "running": lambda path: page_data.write(path, searches=20, candidates=200, state="running"),
    "failed": failed,
    "long": in_parts("{chunks: 3}", "extend"),
    "queue": in_parts("{fifo: {}}", "slide"),
    "sweep": swept,
}


def all_cases(base: Path) -> None:
    """The folders of all cases with their pages, and some more that single tests look at."""
    for name, make in CASES.items():
        make(base / name)
        written(base / name)
    with_media(base / "media")
    with_media(base / "many", prompts=["one row"], arms=[f"arm{i:02d}" for i in range(18)], seeds=1)
    rows = candidates("000000-s0-single", 0, n=1600)
    pages.folder(base / "folded", searches=[pages.search(0, 0, "single", 1.0)], candidates=rows)
    written(base / "folded")
