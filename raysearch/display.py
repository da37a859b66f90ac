"""What a run shows while it goes on and when it ends: live on a terminal, plain lines when piped."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raysearch.ledger import Cost
from raysearch.plan import Plan
from raysearch.progress import Progress

LINE_EVERY = 10.0  # seconds between plain lines
DRAW_EVERY = 0.5


def cost_text(c: Cost) -> str:
    return f"{c.nfe} NFE, {c.decodes} decodes, {c.reward_calls} reward calls"


def duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"


def facts(p: Progress, now: float) -> list[str]:
    """Searches done, best reward, NFE/s, slots busy, time left."""
    elapsed = max(now - p.started, 1e-9)
    parts = [f"{p.done}/{p.total} searches"]
    if p.failed:
        parts.append(f"{p.failed} failed")
    if p.best is not None:
        parts.append(f"best reward {p.best:.3f}")
    if p.engine and p.dispatcher:
        parts.append(f"{p.engine.nfe / elapsed:.0f} NFE/s")
        busy, slots = p.dispatcher.tally.busy, p.dispatcher.tally.slots
        parts.append("busy " + ", ".join(f"{k} {busy[k]}/{slots[k]}" for k in sorted(slots)))
    if p.kept < p.done < p.total:
        parts.append(f"{duration(elapsed / (p.done - p.kept) * (p.total - p.done))} left")
    return parts


class Display:
    """Draws a run's progress until its work is done."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress

    async def follow(self, work: Any) -> Any:
        """Await `work`, drawing meanwhile."""
        task = asyncio.ensure_future(work)
        live = self._console.is_terminal
        with Live(self._drawing(), console=self._console, transient=True) if live else nullcontext() as screen:
            try:
                while not task.done():
                    await asyncio.wait([task], timeout=DRAW_EVERY if live else LINE_EVERY)
                    if live and screen is not None:
                        screen.update(self._drawing())
                    elif not task.done():
                        self._console.print(
                            "; ".join(facts(self._progress, time.monotonic())), highlight=False, soft_wrap=True
                        )
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                raise
        return task.result()

    def _drawing(self) -> Group:
        p = self._progress
        return Group(ProgressBar(total=max(p.total, 1), completed=p.done), Text("  ".join(facts(p, time.monotonic()))))


def summary(console: Console, plan: Plan, p: Progress, run_dir: str) -> None:
    """A table, a row per arm; quality is by the held-out judge where there is one.

    NFE and replica-seconds are charged per search, as if alone; "NFE run" is what the arm really added.
    """
    judges = {a.arm.name: a.holdout for a in plan.arms}
    names = sorted({j.key.rpartition("-")[0] for j in judges.values() if j})
    components = list(dict.fromkeys(c for j in judges.values() if j for c in j.components))
    title = f"winners judged by {', '.join(names)} (held out), mean ± 95% interval" if names else None
    table = Table(title=title, title_justify="left")
    for column in ("arm", "searches", *components, "NFE", "replica-s", "NFE run"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, t in p.arms.items():
        n = max(t.done, 1)
        judge = judges[name]
        judged = [f"{m:.3f}" for m in t.judged.mean]
        if t.judged.n > 1:
            judged = [f"{m} ± {h:.3f}" for m, h in zip(judged, t.judged.interval(), strict=True)]
        shown = dict(zip(judge.components, judged, strict=False)) if judge else {}
        notes = "".join(f", {k} {v}" for k, v in (("failed", t.failed), ("at budget", t.budget)) if v)
        cost = (f"{t.cost.nfe / n:.0f}", f"{t.cost.replica_seconds / n:.2f}", str(t.nfe_spent))
        table.add_row(name, f"{t.done}{notes}", *(shown.get(c, "-") for c in components), *cost)
    console.print(table)
    console.print(f"results: {run_dir}", highlight=False, soft_wrap=True)


def say(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False)
