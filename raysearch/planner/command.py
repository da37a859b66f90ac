"""What `raysearch plan` and `raysearch calibrate` are told, and the line that a run prints first."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from raysearch.config import config as configuration
from raysearch.config import prompts
from raysearch.config.address import folder_or_url
from raysearch.config.config import Config
from raysearch.config.reading import read
from raysearch.errors import ConfigError, check
from raysearch.files import Folder
from raysearch.parquet import run_table
from raysearch.planner import against, report, rewards, timings, traced
from raysearch.planner.facts import Facts
from raysearch.planner.fleets import seconds, tried
from raysearch.planner.forecast import Forecast, Stage, sentences, without
from raysearch.planner.report import Bounds
from raysearch.planner.rewards import Draws, MadeUp, Recorded
from raysearch.planner.timings import HOW, Timings
from raysearch.remote.command import copied
from raysearch.session import dataset
from raysearch.session.directory import CONFIG
from raysearch.session.plan import Plan, searches
from raysearch.session.recording import TRACE
from raysearch.sweep import grid

Prepare: TypeAlias = Callable[[Config], tuple[Config, Plan, Facts]]
Say: TypeAlias = Callable[[str], None]
BESIDE = ".timings.json"  # after a config's name: its timings, where nothing else is said
DRAWS = 5
MOST_FIRST = 2_000  # searches of a run that begins with a line about its plan: more take longer to rehearse


class _Into(argparse.Action):
    """Keeps what an option says in `asked`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        asked: Asked = namespace.asked
        said: Any = True if self.nargs == 0 else (*asked.tries, values) if self.dest == "tries" else values
        namespace.asked = replace(asked, **{self.dest: said})


@dataclass(frozen=True)
class Asked:
    """What `raysearch plan` is asked for, by the names of its options."""

    tries: tuple[str, ...] = ()
    timings: Path | None = None
    step: float | None = None
    decode: float | None = None
    score: float | None = None
    rewards: Path | None = None
    against: Path | None = None
    price: float | None = None
    deadline: str | None = None
    budget: float | None = None
    draws: int = DRAWS
    arrival: str | None = None
    arms: bool = False
    json: bool = False


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch plan`."""
    parser.add_argument("path", nargs="?", metavar="config", help="a YAML file of a run, a sweep or a collection")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as sampler.num_steps=20")
    more: dict[str, dict[str, Any]] = {
        "--try": {"dest": "tries", "metavar": "KEY=N,N", "help": "fleets, such as scorers=1,2"},
        "--timings": {"type": Path, "metavar": "FILE", "help": "of `raysearch calibrate`, or the folder of a run"},
        "--step": {"type": float, "metavar": "SECONDS", "help": "of a denoising step of one candidate"},
        "--decode": {"type": float, "metavar": "SECONDS", "help": "of decoding a video"},
        "--score": {"type": float, "metavar": "SECONDS", "help": "of a reward, without decoding"},
        "--rewards": {"type": folder_or_url, "metavar": "RUN_DIR", "help": "a run whose rewards are drawn from"},
        "--against": {
            "type": folder_or_url,
            "metavar": "RUN_DIR",
            "help": "a run to compare with; no config",
        },
        "--price": {"type": float, "metavar": "MONEY", "help": "of a GPU-hour, or a replica-hour without GPUs"},
        "--deadline": {"metavar": "TIME", "help": "which fleets keep it, such as 1h or 90m"},
        "--budget": {"type": float, "metavar": "MONEY", "help": "which fleets keep it"},
        "--draws": {"type": int, "metavar": "N", "help": f"of rewards, for p10 to p90 (default {DRAWS})"},
        "--arrival": {"metavar": "TIME", "help": "until replicas beyond `min` join (default at once)"},
        "--arms": {"nargs": 0, "help": "what each arm adds to NFE, time and money"},
        "--json": {"nargs": 0, "help": "print the plan as JSON"},
    }
    for name, options in more.items():
        parser.add_argument(name, action=_Into, default=argparse.SUPPRESS, **options)
    parser.set_defaults(asked=Asked())


def calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch calibrate`."""
    parser.add_argument("path", type=Path, metavar="config", help="a YAML file of a run, a sweep or a collection")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as fleet.denoisers.slots=4")
    where = f"the file to add to (default beside the config, its name with {BESIDE})"
    parser.add_argument("--to", type=Path, metavar="FILE", help=where)


def loaded(path: Path, overrides: Sequence[str]) -> Config:
    """The config of a run, a sweep or a collection. Raises ConfigError."""
    values = read(path, overrides, Config)
    if values.get("sweep") is not None:
        return grid.load(path, overrides).config
    return dataset.load(path, overrides) if values.get("collect") is not None else configuration.load(path, overrides)


def beside(path: Path) -> Path:
    """The file of timings that belongs to a config."""
    return path.with_name(path.stem + BESIDE)


def plan(path: str | None, overrides: Sequence[str], asked: Asked, prepare: Prepare, say: Say) -> int:
    """Print a plan and return the exit code. Raises ConfigError."""
    asked = replace(asked, rewards=_here(asked.rewards), against=_here(asked.against))
    bounds = _checked(asked)
    if asked.against is not None:
        return _against(asked.against, [*([path] if path else []), *overrides], asked, prepare, say)
    check(path is not None, "config", None, "a YAML file, or left out with --against RUN_DIR")
    assert path is not None
    config = loaded(Path(path), overrides)
    fleets = tried(config, asked.tries)
    file = asked.timings or (beside(Path(path)) if beside(Path(path)).is_file() else None)
    check_known(file, asked.step)
    config, prepared, facts = prepare(config)
    stage = _stage(config, prepared, facts, file, asked, asked.rewards)
    forecasts = [stage.forecast(name, replace(c, sampler=config.sampler)) for name, c in fleets]
    _print(stage, config, forecasts, bounds, asked, say)
    return 0


def _here(run_dir: Path | str | None) -> Path | None:
    """The folder of a run, which is copied from its store if it has a URL. Raises ConfigError."""
    if isinstance(run_dir, str):
        return copied(run_dir, lambda line: print(line, file=sys.stderr))
    return run_dir


def check_known(file: Path | None, step: float | None) -> None:
    """Raises ConfigError where no timings are known, with a line that says how to get them."""
    if file is None and step is None:
        raise ConfigError(f"--timings: no timings are known; {HOW}")
    if file is not None:
        file = file.expanduser()
        check(file.exists(), "--timings", str(file), "an existing file, or the folder of a run")
        if file.is_dir():
            run_table(file, TRACE, traced.COLUMNS)
        else:
            timings.entries(file)


def _checked(asked: Asked) -> Bounds:
    for name in ("price", "budget"):
        value = getattr(asked, name)
        check(value is None or (value > 0 and isfinite(value)), f"--{name}", value, "a number above 0")
    check(asked.budget is None or asked.price is not None, "--budget", asked.budget, "given together with --price")
    check(1 <= asked.draws <= 100, "--draws", asked.draws, "in 1..100")
    timings.check_hand(asked.step, asked.decode, asked.score)
    deadline = None if asked.deadline is None else seconds("--deadline", asked.deadline)
    if asked.arrival is not None:
        seconds("--arrival", asked.arrival)
    if asked.against is not None:
        for name in ("rewards", "deadline", "budget", "price"):
            check(getattr(asked, name) is None, f"--{name}", str(getattr(asked, name)), "left out with --against")
        check(not asked.tries, "--try", " ".join(asked.tries), "left out with --against")
        check(not asked.arms, "--arms", True, "left out with --against")
    if asked.rewards is not None:
        rewards.check_run(asked.rewards)
    return Bounds(asked.price, deadline, asked.budget)


def known(file: Path | None, plan: Plan, facts: Facts, asked: Asked) -> Timings:
    """The timings of a file or of a run, those given by hand over them. Raises ConfigError."""
    file = file.expanduser() if file else None
    base = None
    if file is not None:
        base = traced.read(file, plan) if file.is_dir() else timings.read(file, facts.key, facts.device)
    return timings.by_hand(base, plan.arms[0].sampler.nfe_per_step, asked.step, asked.decode, asked.score)


def _stage(
    config: Config, plan: Plan, facts: Facts, file: Path | None, asked: Asked, run_dir: Path | None, exact: bool = False
) -> Stage:
    draws: Callable[[int], Draws] = lambda i: MadeUp(i, asked.draws)  # noqa: E731
    if run_dir is not None:
        first = rewards.recorded(run_dir.expanduser(), plan, 0, asked.draws)
        draws = lambda i: Recorded(first.answers, first.rollouts, MadeUp(i, asked.draws))  # noqa: E731
    arrival = 0.0 if asked.arrival is None else seconds("--arrival", asked.arrival)
    found = known(file, plan, facts, asked)
    most = 1 if exact and not found.spread else asked.draws
    return Stage(plan, facts, found, draws, most, arrival)


def _print(stage: Stage, config: Config, forecasts: list[Forecast], bounds: Bounds, asked: Asked, say: Say) -> None:
    said = sentences(stage, forecasts, asked.rewards is None)
    found = report.needs(forecasts[0], stage.plan, stage.facts, stage.timings, config)
    marginal = _marginal(stage, forecasts[0], bounds) if asked.arms else []
    if asked.json:
        more = {"timings": stage.timings.source, "marginal": marginal}
        say(json.dumps(report.as_json(forecasts, bounds, said, found, more), indent=1))
        return
    say(report.counts(forecasts[0]))
    for line in (*report.table(forecasts, bounds), *(f"! {s}" for s in said)):
        say(line)
    say("NFE per search: " + ", ".join(report.arm_lines(forecasts[0])))
    if marginal:
        heads = ["arm", "adds NFE", "adds time", f"adds {report.hours_unit(forecasts[0])}", ""]
        rows = [
            [m["arm"], f"{m['nfe']:,.0f}", report.duration(max(m["wall_s"], 0)), report.amount(m["hours"]),
             f"${m['money']:,.2f}" if m["money"] is not None else ""]
            for m in marginal
        ]  # fmt: skip
        for line in report.aligned([heads, *rows]):
            say(line)
    unknown = config.output.videos and not stage.plan.still and stage.timings.video is None
    say("; ".join(report.needed(found, unknown)))
    say(f"timings: {stage.timings.source}")
    for line in report.fitting(forecasts, bounds):
        say(line)


def _marginal(stage: Stage, f: Forecast, bounds: Bounds) -> list[dict[str, Any]]:
    """What each arm adds to a run that has the other arms, with which it shares candidates."""
    whole, found = f.runs[0], []
    for name in whole.arms:
        rest = without(stage, f.config, name) if len(whole.arms) > 1 else None
        nfe, wall, hours = whole.nfe, whole.total, whole.hours
        if rest:
            nfe, wall, hours = nfe - rest.nfe, wall - rest.total, hours - rest.hours
        money = None if bounds.price is None else hours * bounds.price
        found.append({"arm": name, "nfe": nfe, "wall_s": wall, "hours": hours, "money": money})
    return found


def _against(run_dir: Path, overrides: Sequence[str], asked: Asked, prepare: Prepare, say: Say) -> int:
    run_dir = run_dir.expanduser()
    check((run_dir / CONFIG).is_file(), "--against", str(run_dir), f"the folder of a run, with {CONFIG}")
    Folder(run_dir).check()
    config = configuration.build(read(run_dir / CONFIG, overrides, Config, resolve=False))
    done = against.actual(run_dir)
    file = asked.timings or (None if asked.step is not None else run_dir)
    check_known(file, asked.step)
    config, prepared, facts = prepare(config)
    stage = _stage(config, prepared, facts, file, asked, run_dir, exact=True)
    name, fleet = tried(config, ())[0]
    forecast = stage.forecast(name, fleet)
    found = against.rows(forecast, done)
    if asked.json:
        say(json.dumps({"fleet": forecast.name, "timings": stage.timings.source, "rows": found}, indent=1))
        return 0
    say(f"{run_dir.name} on {forecast.name}, timings: {stage.timings.source}")
    for line in against.table(found):
        say(line)
    return 0


# -- calibrations, and the line that a run begins with -----------------------------------------------------------------


def local(path: Path, overrides: Sequence[str]) -> Config:
    """The config whose workers a calibration starts in its own process. Raises ConfigError."""
    config = loaded(path, overrides)
    shards = config.fleet.denoisers.shards
    check(shards == 1, "fleet.denoisers.shards", shards, "1 to calibrate; --timings RUN_DIR reads a run of shards")
    return replace(config, fleet=replace(config.fleet, backend="local"))


def calibrated_to(path: Path, to: Path | None) -> Path:
    """The file that a calibration adds to. Raises ConfigError for one that cannot be added to."""
    file = (to or beside(path)).expanduser()
    check(file.parent.is_dir() and not file.is_dir(), "--to", str(file), "a file in a folder that is there")
    if file.exists():
        timings.entries(file, "--to")
    return file


def keep(file: Path, entry: dict[str, Any], say: Say) -> None:
    """Add a calibration's entry to its file, and show it in lines."""
    timings.merged(file, entry)
    s = entry["seconds"]
    steps = ", ".join(f"{float(v) * 1000:.4g} ms with {k}" for k, v in s["forward"].items())
    say(f"an evaluation takes {steps} in the slots; decoding {s['decode']:.3g} s, a video's files {s['finish']:.3g} s")
    say("; ".join(f"{key} {value:.3g} s" for key, value in s["rewards"].items()) or "no rewards")
    say(f"timings: {file}")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `raysearch run` that are about its plan."""
    parser.add_argument("--ask", action="store_true", help="show the run's plan and wait for a yes")
    known = f"of the plan that is shown first (default beside the config, its name with {BESIDE})"
    parser.add_argument("--timings", type=Path, metavar="FILE", help=known)


@dataclass(frozen=True)
class First:
    """What a run says before it begins, where timings are known; with `ask` it begins only after a yes."""

    file: Path | None
    ask: bool

    def agreed(
        self, config: Config, plan: Plan, facts: Callable[[], Facts], say: Say, answer: Callable[[], str]
    ) -> bool:
        """Say the plan's line, and return whether the run may begin; `answer` reads the user's. Raises ConfigError."""
        if self.file is None:
            return True
        n = sum(1 for _ in searches(plan, prompts.load(config), config.seeds))
        if n <= MOST_FIRST or self.ask:
            stage = _stage(config, plan, facts(), self.file, Asked(draws=3), None)
            ((name, fleet),) = tried(config, ())
            say(report.headline(stage.forecast(name, fleet)))
        if not self.ask:
            return True
        say("go on? [y/N]")
        return answer().strip().lower() in ("y", "yes")


def first(path: Path, file: Path | None, *, ask: bool, terminal: bool) -> First:
    """What a run of a config is to say first. Raises ConfigError where it is to ask and cannot."""
    found = file or (beside(path) if beside(path).is_file() else None)
    check(terminal or not ask, "--ask", True, "left out where no terminal is there to answer")
    if ask or found:
        check_known(found, None)
    return First(found, ask)
