"""The commands that search: `raysearch run`, `sweep` and `collect`."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from raysearch.api import facts, prepared
from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.errors import ConfigError, counted, single, told
from raysearch.planner import command as planner
from raysearch.remote.command import placed
from raysearch.remote.place import Place
from raysearch.session import dataset, display
from raysearch.session.ending import Command, described, unfinished
from raysearch.sweep import grid
from raysearch.threads import announced, ended_by_sigterm

T = TypeVar("T")
CHECKING = "the config, the model and the rewards are being checked"


def run_config(
    path: Path,
    overrides: Sequence[str],
    given: Command,
    as_json: bool,
    print_config: bool,
    ask: bool,
    timings: Path | None,
) -> int:
    """Run every prompt and seed under every arm of a config; results go to its run directory."""
    config = configuration.load(path, overrides)
    if print_config:
        from raysearch.config.schema import spelled_out

        print(configuration.resolved(spelled_out(config)), end="")
        return 0
    first = planner.first(path, timings, ask=ask, terminal=sys.stdin is not None and sys.stdin.isatty())
    with display.one_object(as_json) as tell, _placed(config, path) as place:
        return searched(config, place, given, tell, first)


def run_sweep(path: Path, overrides: Sequence[str], given: Command, as_json: bool) -> int:
    """Run every arm of a sweep's grid and draw its curves; run again, it finishes what is missing."""
    sweep = grid.load(path, overrides)
    with display.one_object(as_json) as tell, _placed(sweep.config, path) as place:
        try:
            code = searched(sweep.config, place, given, tell)
        except KeyboardInterrupt:
            if (place.path / "searches.parquet").exists():  # else no search had begun
                grid.write_report(sweep, place.path)  # of the searches that are done
            raise
        grid.write_report(sweep, place.path)
    return code


def run_collection(path: Path, overrides: Sequence[str], given: Command, as_json: bool) -> int:
    """Run every prompt and seed of a config and write their noisy latents, graded; run again, it finishes the rest."""
    config = dataset.load(path, overrides)
    with display.one_object(as_json) as tell, _placed(config, path) as place:
        code = searched(config, place, given, tell)
        print(dataset.collected(config, place.path, complete=code == 0))
    return code


def _placed(config: Config, path: Path) -> AbstractContextManager[Place]:
    return placed(config, path.stem, display.say(display.console()))


def searched(
    config: Config,
    place: Place,
    given: Command,
    tell: Callable[[dict[str, Any]], None],
    first: planner.First | None = None,
) -> int:
    """Run a config's searches, showing how they go, and return the exit code. Raises ConfigError, KeyboardInterrupt.

    `first` shows the run's plan before anything else, and may find that the user does not want the run. `tell` takes
    what became of the run, also where it was stopped or broke; of a mistake there is nothing to tell.
    """
    console = display.console(lasting=True)
    say = display.say(console)
    with announced(CHECKING, say):
        session, tracked = prepared(config, place, say)
    known = partial(facts, session.config, session.plan)
    if first is not None and not first.agreed(session.config, session.plan, known, say, input):
        session.discard()
        return 0
    for arm, cost in session.costs.items():
        say(f"{arm}: about {display.cost_text(cost)} a search")
    in_all = sum(c.nfe for c in session.costs.values()) * session.searches_per_arm
    kept, total = session.progress.kept, counted(session.progress.total, "search")
    done = f" ({kept} {'is' if kept == 1 else 'are'} done already)" if kept else ""
    say(f"{total}{done}, about {in_all} NFE before sharing; starting the fleet")

    def end(code: int, state: str, reason: str = "") -> int:
        s = session.progress.snapshot(time.monotonic(), time.time(), state, place.named(reason))
        display.summary(console, s, place.shown, given)
        again = given.again(place.shown) if unfinished(s) else None
        tell(described(s, place.shown) | {"again": again, "exit_code": code})
        return code

    try:
        with display.Display(console) as screen:
            asyncio.run(ended_by_sigterm(place.guarded(session.run([screen.sink, *tracked]))))
    except (asyncio.CancelledError, KeyboardInterrupt):
        end(130, "interrupted")
        raise KeyboardInterrupt from None
    except (Exception, BaseExceptionGroup) as raised:
        if not isinstance(single(raised), ConfigError):
            end(1, "broken", told(raised))
        raise
    return end(3 if session.progress.failed or session.progress.unmade.total else 0, "finished")
