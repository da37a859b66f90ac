"""The command line: the one place where engine, policies and actors meet.

Exit codes: 0 done; 1 our fault; 2 a mistake of the user's (one line); 3 some searches failed; 130 interrupted.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from actors.training import driver
from raysearch.config import binding as signature
from raysearch.config import config as configuration
from raysearch.config import prompts
from raysearch.config.config import Config
from raysearch.errors import ConfigError, RaysearchError, single
from raysearch.session import dataset, display
from raysearch.session import status as statuses
from raysearch.session.directory import chosen
from raysearch.sweep import grid as sweeps

T = TypeVar("T")
OURS = ("raysearch", "policies", "actors")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="raysearch", description="Distributed search for better videos.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="search for videos as a config says", description=run.__doc__)
    sweep_parser = commands.add_parser(
        "sweep", help="run a grid of arms and draw how quality grows with compute", description=sweep.__doc__
    )
    collect_parser = commands.add_parser(
        "collect", help="make a dataset of noisy latents and what became of them", description=collect.__doc__
    )
    train_parser = commands.add_parser(
        "train", help="train a latent reward on a collected dataset", description=train.__doc__
    )
    prfl_parser = commands.add_parser(
        "prfl", help="fine-tune a generator on a latent reward's scores", description=prfl.__doc__
    )
    for p, example in (
        (run_parser, "sampler.num_steps=20 run_dir=runs/mine"),
        (collect_parser, "seeds=[0,1,2,3] run_dir=runs/mine"),
        (train_parser, "steps=500 run_dir=runs/mine"),
        (prfl_parser, "steps=200 run_dir=runs/mine"),
        (sweep_parser, "seeds=[0,1] run_dir=runs/mine"),
    ):
        p.add_argument("config", type=Path, help="a YAML file; see configs/")
        p.add_argument("overrides", nargs="*", metavar="key=value", help=f"for example {example}")
    status_parser = commands.add_parser(
        "status", help="how a run is going, or how it ended", description=status.__doc__
    )
    status_parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run or a sweep")
    commands.add_parser("policies", help="the policies that ship, with their arguments", description=policies.__doc__)
    arguments = parser.parse_args(argv)
    try:
        check_packages()
        if arguments.command == "policies":
            return policies()
        if arguments.command == "status":
            return status(arguments.run_dir)
        command = {"run": run, "sweep": sweep, "collect": collect, "train": train, "prfl": prfl}[arguments.command]
        return command(arguments.config, arguments.overrides)
    except (RaysearchError, BaseExceptionGroup) as raised:
        error = single(raised)
        if not isinstance(error, RaysearchError):
            raise
        print(f"raysearch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("raysearch: interrupted", file=sys.stderr)
        return 130


def run(path: Path, overrides: Sequence[str] = ()) -> int:
    """Run every prompt and seed under every arm of a config; results go to its run directory."""
    config = configuration.load(path, overrides)
    return searched(config, chosen(config.run_dir, config.resume, path.stem))


def sweep(path: Path, overrides: Sequence[str] = ()) -> int:
    """Run every arm of a sweep's grid and draw its curves; run again, it finishes what is missing."""
    grid = sweeps.load(path, overrides)
    run_dir = chosen(grid.config.run_dir, grid.config.resume, path.stem)
    try:
        code = searched(grid.config, run_dir)
    except KeyboardInterrupt:
        if (run_dir / "searches.parquet").exists():  # else nothing had begun
            sweeps.write_report(grid, run_dir)  # of what there is
        raise
    sweeps.write_report(grid, run_dir)
    return code


def collect(path: Path, overrides: Sequence[str] = ()) -> int:
    """Run every prompt and seed of a config and write their noisy latents, graded; run again, it finishes the rest."""
    config = dataset.load(path, overrides)
    run_dir = chosen(config.run_dir, config.resume, path.stem)
    code = searched(config, run_dir)
    print(dataset.collected(config, run_dir, complete=code == 0))
    return code


def train(path: Path, overrides: Sequence[str] = ()) -> int:
    """Train a latent reward on a collected dataset; run again, a training that was stopped goes on."""
    return driver.train(path, overrides)


def prfl(path: Path, overrides: Sequence[str] = ()) -> int:
    """Fine-tune a generator on a latent reward's scores (PRFL); run again, a training that was stopped goes on."""
    return driver.prfl(path, overrides)


def searched(config: Config, run_dir: Path) -> int:
    """Run a config's session, showing how it goes."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    prompts.load(config)
    # torch and diffusers take seconds to import, and a mistake in the config should not wait for them.
    from actors.backend import Backend
    from raysearch.session.session import Session

    say = display.say(console)
    session = Session(config, Backend(), run_dir=run_dir, report=say)
    for arm, cost in session.costs.items():
        say(f"{arm}: about {display.cost_text(cost)} a search")
    in_all = sum(c.nfe for c in session.costs.values()) * session.searches_per_arm
    kept = f" ({session.progress.kept} are done already)" if session.progress.kept else ""
    say(f"{session.progress.total} searches{kept}, about {in_all} NFE before sharing; starting the fleet")
    try:
        with display.Display(console) as screen:
            asyncio.run(ended_by_sigterm(session.run([screen.sink])))
    except (asyncio.CancelledError, KeyboardInterrupt):
        say(f"to go on, give the same command again with run_dir={run_dir} resume=require")
        raise KeyboardInterrupt from None
    display.summary(console, session.progress.snapshot(time.monotonic(), time.time()), str(run_dir))
    return 3 if session.progress.failed else 0


async def ended_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """`ray job stop` ends a run as Ctrl-C does. Set here, since Ray takes the signal for itself when it starts."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def status(run_dir: Path) -> int:
    """How the run or sweep in a folder is going, or how it ended; from any terminal, while it runs or after."""
    snapshot = statuses.read(run_dir.expanduser())
    display.status(Console(width=None if sys.stdout.isatty() else 120), snapshot, time.time())
    return 0


def policies() -> int:
    """Each shipped policy with its signature and the first paragraph of its docstring."""
    for name in configuration.policy_names():
        search = configuration.find_policy(name)
        arguments = ", ".join(
            str(p).replace("collections.abc.", "").replace("raysearch.config.config.", "")
            for p in signature.keyword_parameters(search).values()
        )
        paragraph = " ".join((search.__doc__ or "").partition("\n\n")[0].split())
        print(f"{name}({arguments})\n    {paragraph}")
    return 0


def check_packages() -> None:
    """raysearch, policies and actors are plain top-level packages; say so when another one shadows ours."""
    root = Path(__file__).resolve().parent.parent
    for name in OURS:
        found = sys.modules.get(name) or __import__(name)
        where = Path(str(found.__file__)).resolve().parent.parent
        if where != root:
            raise ConfigError(f"the package {name!r} at {where} shadows that of raysearch at {root}; run from {root}")


if __name__ == "__main__":
    sys.exit(main())
