"""How long a large report page takes to open, and its longest frames while it is scrolled, in Chromium.

    python tests/benchmarks/page.py --searches 10000 --candidates 100000

Opening is from the navigation to a file to the second frame after everything has been drawn once. While a list is
scrolled by `--step` pixels a frame, or a tree is zoomed, each frame's time is taken; the same is done for a page that
stands still, which says what the machine alone does. Each screen is opened `--rounds` times; printed are medians, and
of the longest frames the least of the rounds, since other work on the machine only ever lengthens them. The CPU time
of a frame is that of the page's main thread, which other work does not lengthen much.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import bench  # first: it says where the tests' own modules are
import browser
import page_data

FRAMES = 120
# Moves by `step` in each frame, and returns the times of the frames in milliseconds.
MOVE = """([selector, step, frames]) => new Promise((done) => {
  const found = document.querySelector(selector), box = found.tagName === "CANVAS" ? null : found, times = [];
  let last = performance.now();
  const look = () => {
    const now = performance.now();
    times.push(now - last);
    last = now;
    if (times.length > frames) return done(times.slice(1));
    if (box) box.scrollTop += step;
    else if (step) {
      const deltaY = times.length % 40 < 20 ? -60 : 60;
      const at = {clientX: 500, clientY: 500, deltaY, bubbles: true, cancelable: true};
      found.dispatchEvent(new WheelEvent("wheel", at));
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
SCREENS = {"overview": ".searches", "gallery": ".rows", "tree": "canvas"}
COLUMNS = {"open": 2, "longest": 0, "median": 1, "cpu": 1, "still": 0}  # and their digits
DRAWN = "performance.getEntriesByName('raysearch-drawn').map((e) => e.startTime)[0] ?? null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=400, help="pixels a frame")
    parser.add_argument("--rounds", type=int, default=3)
    bench.json_option(parser)
    args = parser.parse_args()
    lacking = browser.lacking()
    if lacking:
        print(f"nothing measured: this machine lacks {lacking}")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "large"
        page_data.write(folder, searches=args.searches, candidates=args.candidates)
        browser.written(folder)
        size = (folder / "report.html").stat().st_size / 1e6
        with browser.chromium() as there:
            rows = [measured(there, folder, s, args.step, args.rounds) for s in SCREENS]
    print(f"{args.searches} searches, {args.candidates} candidates, {size:.1f} MB")
    head = "screen | open, s | longest frame, ms | median frame, ms | CPU a frame, ms | standing still, ms"
    cells = [[r["screen"], *(f"{r[k]:.{digits}f}" for k, digits in COLUMNS.items())] for r in rows]
    bench.Report(args.json).table("page", head, cells)


def measured(there: Any, folder: Path, screen: str, step: int, rounds: int) -> dict[str, Any]:
    opened, longest, median, cpu, still = [], [], [], [], []
    for _ in range(rounds):
        window = browser.Window(there)
        page = window.page
        began = time.perf_counter()
        page.goto(f"{(folder / 'report.html').as_uri()}#{screen}", wait_until="commit")
        while page.evaluate(DRAWN) is None:
            time.sleep(0.01)
        opened.append(time.perf_counter() - began)
        page.locator(SCREENS[screen]).wait_for()
        still.append(max(page.evaluate(MOVE, [SCREENS[screen], 0, FRAMES])))
        session = window.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = busy(session)
        times = page.evaluate(MOVE, [SCREENS[screen], step, FRAMES])
        cpu.append((busy(session) - before) / FRAMES)
        longest.append(max(times))
        median.append(statistics.median(times))
        assert not window.errors, window.errors
        window.context.close()
    mid = statistics.median
    found = {"screen": screen, "open": mid(opened), "longest": min(longest), "median": mid(median)}
    return found | {"cpu": mid(cpu), "still": min(still)}


def busy(session: Any) -> float:
    """Milliseconds of CPU that the page's main thread has used since the session measures it."""
    found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return 1000 * float(found["TaskDuration"])


if __name__ == "__main__":
    main()
