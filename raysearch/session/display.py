"""What a run prints while it goes on and when it ends: drawn live on a terminal, plain lines in a pipe."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import TextIOWrapper
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raysearch.errors import counted, plain
from raysearch.search.budget import Cost
from raysearch.session.ending import Command, unfinished
from raysearch.session.snapshot import ArmStatus, FleetStatus, Snapshot

LINE_EVERY = 10.0  # seconds between plain lines
DRAW_EVERY = 0.5
GAIN = "gain"  # the column of it
MOST_REASONS = 5  # lines about failed searches
MOST_FOLDS = 4  # lines of an arm's name in a table


def cost_text(c: Cost) -> str:
    """A cost as words, such as `480 NFE, 8 decodes, 8 reward calls`."""
    return f"{c.nfe} NFE, {counted(c.decodes, 'decode')}, {counted(c.reward_calls, 'reward call')}"


def duration(seconds: float) -> str:
    """Seconds as words, such as `2 h 05 min`, `3 min 07 s` or `9 s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"


def facts(s: Snapshot) -> list[str]:
    """Phrases for one line: searches done, best reward, NFE per second, busy slots, time left."""
    parts = [f"{s.done}/{counted(s.total, 'search')}"]
    if s.state == "starting":
        parts.append("the fleet is starting")
    if s.failed:
        parts.append(f"{s.failed} failed")
    if s.best is not None:
        parts.append(f"best reward {s.best:.3f}")
    if s.fleet:
        parts += [f"{s.fleet.nfe_per_second:.0f} NFE/s", f"busy {_busy(s.fleet)}"]
    if s.left is not None:
        parts.append(f"{duration(s.left)} left")
    return parts


class Display:
    """Shows a run's snapshots while it goes on: `with Display(console) as screen: ... screen.sink ...`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self.sink = (DRAW_EVERY, self._draw) if self._live else (LINE_EVERY, self._line)

    def __enter__(self) -> "Display":
        with suppress(Exception):  # a screen that is gone
            if self._live:
                self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            if self._live:
                self._live.stop()

    def _draw(self, s: Snapshot) -> None:
        assert self._live
        bar = ProgressBar(total=max(s.total, 1), completed=s.done)
        drawing = Table.grid(expand=True)  # a grid, as a bar alone does not end its line
        drawing.add_row(bar)
        drawing.add_row(Text("  ".join(facts(s))))
        self._live.update(drawing, refresh=True)

    def _line(self, s: Snapshot) -> None:
        if s.going and s.elapsed >= LINE_EVERY / 2:  # start and end are printed elsewhere
            say(self._console)("; ".join(facts(s)))


def summary(console: Console, s: Snapshot, run_dir: str, command: Command) -> None:
    """Print how a run ended: its arms, the best winner, what failed, how to go on, and where the results are.

    A run that was stopped has no table of arms.
    """
    print_line = say(console)
    if s.state == "finished":
        _print_arms(console, s)
    else:
        print_line(f"{s.state}: {s.done} of {counted(s.total, 'search')} done")
    if s.best is not None:
        print_line(f"best reward: {s.best:.3f}, of {s.best_search}")
    if s.fleet and s.fleet.wasted:
        print_line(f"NFE wasted: {s.fleet.wasted}, run ahead of searches that did not ask for them")
    for line in _failures(s):
        print_line(line)
    if unfinished(s):
        print_line(f"to go on: {command.again(run_dir)}")
    print_line(f"results: {run_dir}")
    print_line(f"as a page: {command.report(run_dir)}")


def status(console: Console, s: Snapshot, now: float) -> None:
    """Print how a run goes, `now` in seconds since the epoch: tables on a terminal, else plain lines."""
    details, print_line = _details(s, now), say(console)
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2))
        for name, text in details:
            grid.add_row(name, _text(text))
        console.print(grid, "")
        _print_arms(console, s)
        for line in _failures(s):
            print_line(line)
        return
    for name, text in details:
        print_line(f"{name}: {text}")
    for line in (*_lines(s), *_failures(s)):
        print_line(line)


@contextmanager
def one_object(wanted: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes an object, which at the end is all that is on standard output, as JSON, if it is `wanted`.

    What else is printed meanwhile then goes to standard error. Nothing is written if the function was not called.
    """
    told: list[dict[str, Any]] = []
    if not wanted:
        yield told.append
        return
    output = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield told.append
    finally:
        if told:
            print(json.dumps(told[-1]), file=output, flush=True)


class Lasting:
    """A stream that takes whatever it is given: once the stream below fails, all goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if anything can be written."""
        with self._kept():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        with self._kept():
            self._stream.flush()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a full disk, a pipe that nobody reads, a terminal that is gone
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(stream: TextIO) -> None:
    """Let a stream lead nowhere; Python flushes it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def console(*, lasting: bool = False) -> Console:
    """A console on standard output: as wide as a terminal, else 120 columns.

    What a `lasting` one cannot write goes nowhere, since no run depends on who reads what it says.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal may lack the letters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    file: Any = Lasting(sys.stdout) if lasting and sys.stdout is not None else None
    return Console(file=file, width=None if sys.stdout is not None and sys.stdout.isatty() else 120)


def say(console: Console) -> Callable[[str], None]:
    """A function that prints a line, made `plain`: no markup, no colours, no wrapping."""
    return lambda line: console.print(plain(line), highlight=False, soft_wrap=True, markup=False)


def _text(text: str) -> Text:
    """A text that may come out of a file, as it is shown on a terminal."""
    return Text(plain(text))


# -- parts -----------------------------------------------------------------------------------------------------------


def _details(s: Snapshot, now: float) -> list[tuple[str, str]]:
    """Named facts of a run besides its arms; queues, busy slots and the like only while it goes on."""
    parts = [("run", s.run), ("state", s.state + (f": {s.reason}" if s.reason else ""))]
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(s.started))
    parts.append(("searching since", f"{clock}, for {duration(s.elapsed)}{' so far' if s.going else ''}"))
    if s.going:
        parts.append(("seen", f"{duration(max(now - s.at, 0))} ago"))
    notes = "".join(f", {n} {what}" for what, n in (("failed", s.failed), ("done before", s.kept)) if n)
    parts.append(("searches", f"{s.done}/{s.total}{notes}"))
    if unfinished(s):
        parts.append(("to go on", "give its command again with its run_dir and resume=require"))
    if s.left is not None:
        parts.append(("left", f"about {duration(s.left)}"))
    if s.best is not None:
        parts.append(("best reward", f"{s.best:.3f}, of {s.best_search}"))
    if s.fleet is None:
        return parts
    f = s.fleet
    rates = [f" ({r:.1f}/s)" if s.going else "" for r in (f.nfe_per_second, f.decodes_per_second, f.rewards_per_second)]
    parts.append(("made", f"{f.nfe} NFE{rates[0]}, {f.decodes} decodes{rates[1]}, {f.rewards} rewards{rates[2]}"))
    if f.wasted:
        parts.append(("NFE wasted", f"{f.wasted}, run ahead of searches that did not ask for them"))
    paces = [(f.seconds_per_step, "step"), (f.seconds_per_score, "score")]
    parts.append(("seconds", ", ".join(f"{each:.3g} a {what}" for each, what in paces if each is not None) or "-"))
    if s.going:
        parts.append(("slots busy", _busy(f)))
        parts.append(("queue", ", ".join(f"{k} {f.waiting[k]}" for k in sorted(f.waiting))))
        parts.append(("store", f"{f.store_latents} latents, {f.store_bytes / 1e6:.1f} MB"))
    lost = f"{f.restarts} replicas died, {f.recomputed} items done again, {f.evicted} latents evicted"
    return [*parts, ("faults", lost)]


def _failures(s: Snapshot) -> Iterator[str]:
    """A line for each of the most frequent reasons why searches failed or have no files, and one for the others."""
    for found, what in ((s.failures, "failed"), (s.unmade, "finished, but files could not be made")):
        for f in found[:MOST_REASONS]:
            yield f"{counted(f.n, 'search')} {what}: {f.reason} ({'first ' * (f.n > 1)}{f.first})"
        others = found[MOST_REASONS:]
        if others:
            n, reasons = sum(f.n for f in others), counted(len(others), "other reason")
            yield f"{counted(n, 'search')} {what} for {reasons} ({'first ' * (n > 1)}{others[0].first})"


def _busy(f: FleetStatus) -> str:
    return ", ".join(f"{k} {f.busy[k]}/{f.slots[k]}" for k in sorted(f.slots))


def _searches(a: ArmStatus) -> str:
    notes = "".join(f", {k} {v}" for k, v in (("failed", a.failed), ("at budget", a.budget)) if v)
    return (str(a.done) if a.done == a.total else f"{a.done}/{a.total}") + notes


def _judged(a: ArmStatus) -> dict[str, str]:
    """The winners' mean of each component, with half the width of its interval."""
    cells = [f"{m:.3f}" for m in a.means]
    if a.intervals:
        cells = [f"{m} ± {h:.3f}" for m, h in zip(cells, a.intervals, strict=True)]
    return dict(zip(a.components, cells, strict=False))


def _gain(a: ArmStatus) -> str:
    """What an arm gains over the baseline, with half the width of its interval; a dash if it is the baseline."""
    if a.gain is None:
        return "-"
    return f"{a.gain:+.3f}" + (f" ± {a.gain_interval:.3f}" if a.gain_interval is not None else "")


def _print_arms(console: Console, s: Snapshot) -> None:
    """Print the table of a run's arms: without lines on a narrow terminal, and as text where even that does not fit."""

    def needed(table: Table) -> int:
        return console.measure(table, options=console.options.update(max_width=10_000)).maximum

    lined, narrow = _table(s), _table(s, narrow=True)
    longest = max(map(len, ("arm", *s.arms)))
    folded = max(len("arm"), -(-longest // MOST_FOLDS))  # the least width of the column of names
    if needed(lined) <= console.width:
        console.print(lined)
    elif needed(narrow) - longest + folded <= console.width:
        console.print(narrow)
    else:
        console.print(*(part for part in (lined.title, *map(_text, _lines(s))) if part is not None), sep="\n")


def _lines(s: Snapshot) -> Iterator[str]:
    """A line for each arm, with what the table has of it."""
    for name, a in s.arms.items():
        quality = "".join(f", {c} {cell}" for c, cell in _judged(a).items())
        if a.gain is not None:
            quality += f", gain over {s.baseline} {_gain(a)} of {a.pairs} pairs"
        n = max(a.done, 1)
        costs = f"{a.nfe / n:.0f} NFE and {a.replica_seconds / n:.2f} replica-s a search, {a.nfe_spent} NFE run"
        yield f"arm {name}: {_searches(a)}{quality}, {costs}"


def _table(s: Snapshot, narrow: bool = False) -> Table:
    """A row per arm, with the means of the held-out judge if there is one; `narrow` has intervals below the means.

    The gain is that of the judged reward over the baseline's, of the pairs of caption and seed that both have. NFE and
    replica-seconds are means over searches, each charged as if it ran alone; "NFE run" is the arm's real total.
    """
    names = sorted({a.judge for a in s.arms.values() if a.judge})
    components = list(dict.fromkeys(c for a in s.arms.values() for c in a.components))
    compared = [GAIN] if any(a.gain is not None for a in s.arms.values()) else []
    lines = [f"winners judged by {', '.join(names)} (held out), mean ± 95% interval"] if names else []
    lines += [f"{GAIN}: in the judged reward over {s.baseline}, paired by caption and seed"] if compared else []
    title = Text("\n").join(map(_text, lines)) if lines else None
    table = Table(title=title, title_justify="left")
    if narrow:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    costs = ("NFE", "replica\n-s", "NFE\nrun") if narrow else ("NFE", "replica-s", "NFE run")
    for head in map(Text, ("searches", *map(plain, [*components, *compared]), *costs)):
        table.add_column(head, justify="right", no_wrap=True)
    for name, a in s.arms.items():
        n = max(a.done, 1)
        cells = [_searches(a), *(_judged(a).get(c, "-") for c in components), *([_gain(a)] if compared else [])]
        if narrow:
            cells = [cell.replace(" ± ", "\n±").replace(", ", "\n") for cell in cells]
        table.add_row(_text(name), *cells, f"{a.nfe / n:.0f}", f"{a.replica_seconds / n:.2f}", str(a.nfe_spent))
    return table
