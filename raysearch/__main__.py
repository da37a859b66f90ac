"""The command line: the one place where engine, policies and actors meet.

Exit codes: 0 done; 1 our fault, or the output cannot be written, on which a run does not depend; 2 a mistake of the
user's (one line); 3 some searches failed, or files of finished ones could not be made again; 130 interrupted.
"""

import argparse
import asyncio
import inspect
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from actors import shipped
from actors.models.settled import check_request, settled
from actors.training import driver
from raysearch import __version__
from raysearch.bars import report as bars
from raysearch.config import config as configuration
from raysearch.config.address import folder_or_url
from raysearch.config.config import Config
from raysearch.config.policies import find_policy, policy_names
from raysearch.errors import ConfigError, RaysearchError, plain, single
from raysearch.export import command as exports
from raysearch.export import render
from raysearch.page import command as pages
from raysearch.planner import command as planner
from raysearch.planner.facts import Facts
from raysearch.remote import command as remote
from raysearch.running import CHECKING, run_collection, run_config, run_sweep
from raysearch.session import display, status
from raysearch.session.ending import Command, described
from raysearch.session.plan import Plan
from raysearch.threads import announced, ended_by_sigterm

MEASURING = "# the pipeline is loaded and measured: whole, in legs, in a batch, and by its own call"  # as COMPARING
CONVERTING = "the weights are being converted"
COMPARING = "# rules are being compared"  # a comment of what is printed then, which is YAML
OURS = ("raysearch", "policies", "actors")


def script() -> int:
    """The installed command. Like `python -m raysearch` it finds a user's modules in the folder where it is started."""
    with suppress(FileNotFoundError):  # a folder that was removed
        sys.path.insert(0, str(Path.cwd()))
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. When nobody reads the output any longer, it ends without a word."""
    try:
        try:
            return obey(argv)
        finally:
            if sys.stdout is not None:  # a daemon's may be closed
                sys.stdout.flush()
    except OSError as error:
        if writable(sys.stdout):
            raise
        display.silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            complain(f"the output cannot be written: {error.strerror}")
        return 1


def obey(argv: Sequence[str] | None) -> int:
    """Run the command that the arguments name; a mistake of the user's is one line on stderr."""
    try:
        arguments, more = parser().parse_known_args(argv)
        if any(m.startswith("-") for m in more) or (more and "overrides" not in arguments):
            arguments.parser.error(f"unrecognized arguments: {' '.join(more)}")
        if more:
            arguments.overrides += more  # argparse itself takes no overrides after an option
        if "given" in arguments:
            arguments.given = Command.given(argv)
        check_packages()
        command: Callable[..., int] = arguments.command
        values = {k: v for k, v in vars(arguments).items() if k not in ("command", "parser")}
        if command is not show_status and isinstance(values.get("run_dir"), str):
            values["run_dir"] = remote.copied(values["run_dir"], print)
        return command(**values)
    except (RaysearchError, BaseExceptionGroup) as raised:
        error = single(raised)
        if not isinstance(error, RaysearchError):
            raise error from None
        complain(plain(error))
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def complain(line: str) -> None:
    """Show a line on stderr, if anything can be written there: the exit code says the same."""
    try:
        print(f"raysearch: {line}", file=sys.stderr, flush=True)
    except OSError:
        display.silence(sys.stderr)


def writable(stream: TextIO | None) -> bool:
    """Whether a stream takes an empty line; a full disk does not, nor does a pipe that nobody reads any longer."""
    try:
        print(file=stream, flush=True)
    except OSError:
        return False
    return True


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the usage of the command."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        usage = " ".join(self.format_usage().split())
        raise ConfigError(f"{re.sub('^argument {.*?}: ', '', message)}; {usage}")


def parser() -> argparse.ArgumentParser:
    """The commands; `command` is the function that each one calls with its arguments."""
    whole = Parser(prog="raysearch", description="Distributed search for better videos.")
    whole.add_argument("--version", action="version", version=f"raysearch {__version__}")
    commands = whole.add_subparsers(required=True)

    def add(name: str, command: Callable[..., int], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=command.__doc__)
        added.set_defaults(command=command, parser=added)
        return added

    of_configs = [
        (add("run", run_config, "search for videos as a config says"), "sampler.num_steps=20 run_dir=runs/mine"),
        (add("sweep", run_sweep, "run a grid of arms and draw how quality grows with compute"), "seeds=[0,1]"),
        (add("collect", run_collection, "make a dataset of noisy latents and what became of them"), "seeds=[0,1,2,3]"),
        (add("train", train_reward, "train a latent reward on a collected dataset"), "steps=500 run_dir=runs/mine"),
        (add("prfl", tune_generator, "fine-tune a generator on a latent reward's scores"), "steps=200"),
    ]
    for added, example in of_configs:
        added.add_argument("path", type=Path, metavar="config", help="a YAML file; see configs/")
        added.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=f"for example {example}")
    shown = "print the config as YAML, overrides and defaults included, and run nothing"
    instead = of_configs[0][0].add_mutually_exclusive_group()
    instead.add_argument("--print-config", action="store_true", help=shown)
    for adding in (instead, *(added for added, _ in of_configs[1:3])):
        ended = "print how it ended as one JSON object, and all other lines on stderr"
        adding.add_argument("--json", action="store_true", dest="as_json", help=ended)
    for added, _ in of_configs[:3]:
        added.set_defaults(given=None)
    planner.run_arguments(of_configs[0][0])
    folder = add("status", show_status, "how a run is going, or how it ended")
    folder.add_argument("run_dir", type=folder_or_url, metavar="RUN_DIR", help="the folder or URL of a run or a sweep")
    folder.add_argument("--json", action="store_true", dest="as_json", help="print a JSON object")
    tuned = add("bars", choose_bars, "choose looks, bars and enough of `sequential` from a tuning run")
    tuned.add_argument(
        "run_dir", type=folder_or_url, metavar="RUN_DIR", help="a run of `sequential`, bars and enough null"
    )
    share = "the mean cost of a search, as a share of best-of-4's"
    tuned.add_argument("--cost", type=float, required=True, metavar="SHARE", help=share)
    tuned.add_argument("--arm", metavar="NAME", help="which arm of the run, if several can be read")
    tuned.add_argument("--against", type=int, default=4, metavar="N", help="compare with best-of-N (default 4)")
    tuned.add_argument("--batch", type=int, default=1, metavar="N", help="noises at a time (default 1)")
    tuned.add_argument("--unit", choices=("seconds", "nfe"), default="seconds", help="of costs (default seconds)")
    tuned.add_argument("--json", type=Path, metavar="FILE", help="write what is printed to FILE, too")
    checked = add("check", check_model, "whether a pipeline of diffusers can be searched, measured on its folder")
    checked.add_argument("model", metavar="MODEL", help="a folder in diffusers' layout, or a hub id")
    checked.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    checked.add_argument("--dtype", choices=configuration.DTYPES, default="float32")
    for side, least in (("height", 64), ("width", 64), ("steps", 6)):
        checked.add_argument(f"--{side}", type=int, default=least, metavar="N", help=f"(default {least})")
    checked.add_argument("--num-frames", type=int, metavar="N", help="(default 9, or 1 of a pipeline of images)")
    more = "more arguments of the pipeline's call, a JSON object"
    checked.add_argument("--call", type=mapping, default={}, metavar="JSON", help=more)
    converted = add("reward", convert_reward, "convert the published weights of a reward")
    converted.add_argument("action", choices=("convert",), help="what to do")
    converted.add_argument("name", metavar="NAME", help="the reward's name in configs")
    converted.add_argument("source", type=Path, metavar="SOURCE", help="what upstream publishes: a file or a folder")
    converted.add_argument("out", type=Path, metavar="OUT", help="the folder to write, which must not exist")
    upstream = "the folder of the model that upstream started from, where the reward's guide asks for it"
    converted.add_argument("--base", type=Path, metavar="FOLDER", help=upstream)
    exports.export_arguments(add("export", export_run, "bring a run's videos to a benchmark suite or a training"))
    exports.render_arguments(add("render", render_candidates, "make any candidate of a run again, as a video"))
    pages.report_arguments(add("report", write_report, "write report.html, a page to see a run in the browser"))
    pages.view_arguments(add("view", view_run, "serve the same page on this machine, live while the run goes on"))
    planner.plan_arguments(add("plan", plan_run, "how long a run would take and what it would cost, on which fleet"))
    planner.calibrate_arguments(add("calibrate", calibrate, "measure on this device what a plan needs to know"))
    add("policies", list_policies, "the policies that ship, with their arguments")
    add("schema", print_schema, "the JSON schema of a config, with which an editor completes and checks its keys")
    return whole


def train_reward(path: Path, overrides: Sequence[str]) -> int:
    """Train a latent reward on a collected dataset; run again, a training that was stopped goes on."""
    return driver.train(path, overrides)


def tune_generator(path: Path, overrides: Sequence[str]) -> int:
    """Fine-tune a generator on a latent reward's scores (PRFL); run again, a training that was stopped goes on."""
    return driver.prfl(path, overrides)


def show_status(run_dir: Path | str, as_json: bool) -> int:
    """How the run or sweep in a folder is going, or how it ended; from any terminal, while it runs or after."""
    snapshot = remote.status(run_dir) if isinstance(run_dir, str) else status.read(run_dir)
    if as_json:
        shown = run_dir if isinstance(run_dir, str) else str(run_dir.expanduser().absolute())
        print(json.dumps(described(snapshot, shown)))
        return 0
    display.status(display.console(), snapshot, time.time())
    return 0


def choose_bars(
    run_dir: Path, cost: float, arm: str | None, against: int, batch: int, unit: str, json: Path | None
) -> int:
    """Print the block `policy` of `sequential` with the highest expected gain at a mean cost, as YAML.

    It reads a tuning run: one of `sequential` with bars: null and enough: null.
    """
    with announced(COMPARING, print):
        print(bars.report(run_dir, cost=cost, arm=arm, against=against, batch=batch, unit=unit, file=json), end="")
    return 0


def mapping(text: str) -> dict[str, Any]:
    """The object of a JSON text. Raises ArgumentTypeError, whose message argparse shows."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{plain(text, 60)} is no JSON object, such as '{{\"frame_rate\": 25}}'")
    return found


def check_model(
    model: str,
    device: str,
    dtype: str,
    height: int,
    width: int,
    num_frames: int | None,
    steps: int,
    call: dict[str, Any],
) -> int:
    """Measure on a small video whether a pipeline of diffusers can be searched, and print a config to start from."""
    size = {"height": height, "width": width}
    check_request(model, size, steps)
    with announced(MEASURING, print):
        from actors.models.pipelines.report import report

        asked: dict[str, Any] = {"size": size, "num_frames": num_frames, "num_steps": steps, "call": call}
        text, holds = report(model, device=device, dtype=dtype, **asked)
    print(text, end="")
    return 0 if holds else 1


def convert_reward(action: str, name: str, source: Path, out: Path, base: Path | None) -> int:
    """Write a reward's published weights as the folder that the reward loads; actors/rewards/README.md has the rest."""
    with announced(CONVERTING, print):
        from actors.rewards.convert import convert

        line = convert(name, source, out, base)
    print(line)
    return 0


def export_run(run_dir: Path, asked: exports.Asked, overrides: Sequence[str]) -> int:
    """Bring what a run has made to where others read it: benchmark suites, trainings on preferences, trackers."""
    return exports.export(run_dir, asked, overrides, rendered, print)


def render_candidates(
    run_dir: Path,
    candidate: str | None,
    top: int | None,
    arm: str | None,
    by: str,
    to: Path | None,
    latents: bool,
    overrides: Sequence[str],
) -> int:
    """Make candidates of a run again from their recipes, denoise them to the end, and write their videos."""
    picks = exports.picked(run_dir, candidate, top, arm, by)
    return rendered(run_dir, picks, to or run_dir / render.FOLDER, overrides, latents=latents)


def rendered(
    run_dir: Path, picks: Sequence[render.Pick], where: Path, overrides: Sequence[str], *, latents: bool
) -> int:
    """Write candidates' videos to a folder and return the exit code. Raises ConfigError, KeyboardInterrupt."""
    render.config_of(run_dir, overrides)  # a mistake in overrides should not wait for torch
    with announced(CHECKING, print):
        from actors.backend import Backend

        backend = Backend(print)
        recipes = render.recipes(run_dir, picks, backend, overrides)
    failed = asyncio.run(ended_by_sigterm(render.render(recipes, backend, where, latents=latents)))
    return 3 if failed or len(recipes.found) < len({p.candidate for p in picks}) else 0


def write_report(run_dir: Path, embed: int, price: float | None, to: Path | None) -> int:
    """Write report.html into the folder of a run: a page with its arms, videos, searches and costs."""
    return pages.report(run_dir, embed, price, to, display.say(display.console()))


def view_run(run_dir: Path, port: int, price: float | None) -> int:
    """Serve the page of a run on 127.0.0.1 until Ctrl-C; it follows a run that goes on, and changes nothing."""
    return pages.view(run_dir, port, price, display.say(display.console()))


def plan_run(path: str | None, overrides: Sequence[str], asked: planner.Asked) -> int:
    """Foretell a run in virtual time, with timings that were measured or given: how long, which fleet, what cost."""

    def prepare(config: Config) -> tuple[Config, Plan, Facts]:
        with announced(CHECKING, lambda line: print(line, file=sys.stderr)):
            config = settled(config, lambda line: None)
            shipped.check_rewards(configuration.arms(config))
            from actors.facts import prepared

            return config, *prepared(config)

    return planner.plan(path, overrides, asked, prepare, print)


def calibrate(path: Path, overrides: Sequence[str], to: Path | None) -> int:
    """Measure on this device how long a config's model and rewards take, and add it to a file for `raysearch plan`."""
    file, config = planner.calibrated_to(path, to), settled(planner.local(path, overrides), lambda line: None)
    shipped.check_rewards(configuration.arms(config))
    with announced(CHECKING, print):
        from actors.calibration import measured

        planner.keep(file, measured(config, print), print)
    return 0


def list_policies() -> int:
    """Print each shipped policy with its signature and the first paragraph of its docstring."""
    for name in policy_names():
        search = find_policy(name)
        _, *parameters = inspect.signature(search).parameters.values()
        arguments = re.sub(r"[a-z_.]+\.(?=[A-Z])", "", ", ".join(map(str, parameters)))  # types without their modules
        paragraph = " ".join((search.__doc__ or "").partition("\n\n")[0].split())
        print(f"{name}({arguments})\n    {paragraph}")
    return 0


def print_schema() -> int:
    """Print the JSON schema of what run, sweep and collect read; takes the seconds in which torch is imported."""
    from raysearch.config.schema import json_schema

    print(json.dumps(json_schema({name: shipped.find(name) for name in shipped.REWARDS}), indent=2))
    return 0


def check_packages() -> None:
    """Raises ConfigError where another package shadows raysearch, policies or actors, which are top-level packages."""
    root = Path(__file__).resolve().parent.parent
    for name in OURS:
        found = sys.modules.get(name) or __import__(name)
        where = Path(str(found.__file__)).resolve().parent.parent
        if where != root:
            raise ConfigError(f"the package {name!r} at {where} shadows that of raysearch at {root}; run from {root}")


if __name__ == "__main__":
    sys.exit(main())
