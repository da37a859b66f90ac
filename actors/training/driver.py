"""The driver of `raysearch train` and `raysearch prfl`: claims the run directory, joins Ray, shows how a training goes.

torch and Ray take seconds to import, so they are imported only once a config is known to be right.
"""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from threading import Event, Thread
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from actors.training import config as training_config
from actors.training import prfl_config
from actors.training.config import CHECKPOINTS, METRICS, PROGRESS, Settings, resolved
from raysearch.errors import ConfigError
from raysearch.files import Folder
from raysearch.recipe.digests import canonical_json
from raysearch.session.directory import CONTENT, check_content, chosen, claimed
from raysearch.session.display import DRAW_EVERY, LINE_EVERY, duration, say
from raysearch.session.display import console as display_console
from raysearch.session.journal import held

S = TypeVar("S", bound=Settings)


def train(path: Path, overrides: Sequence[str]) -> int:
    """Train the latent reward of a config with its overrides; returns the exit code. Raises ConfigError."""
    config = training_config.load(path, overrides)
    with extra_needed("train"):
        from actors.training import latent_rewards
    return run(config, path.stem, training_config.REWARD, latent_rewards.check_reward, latent_rewards.fit)


def prfl(path: Path, overrides: Sequence[str]) -> int:
    """Fine-tune the generator of a config with its overrides; returns the exit code. Raises ConfigError."""
    config = prfl_config.load(path, overrides)
    with extra_needed("train"):
        from actors.training import prfl as generators
    return run(config, path.stem, prfl_config.MODEL, generators.check_parts, generators.fit)


def run(
    config: S, name: str, result: str, check_parts: Callable[[S], dict[str, bytes]], fit: Callable[[S], None]
) -> int:
    """Train until `result`, a folder in the run directory, is there; returns exit code 0.

    `name` names the run directory where the config does not. `check_parts` raises ConfigError where the files that the
    config names do not fit together, and returns their digests; `fit` runs the workers. Raises what `fit` raises, and
    KeyboardInterrupt.
    """
    run_dir = chosen(config.run_dir, config.resume, name)
    from actors.cluster.fleet import cluster_nodes
    from actors.cluster.head import joined
    from actors.cluster.placement import check_workers

    with claimed(run_dir, config, config.resume):
        content = canonical_json({k: v.hex() for k, v in check_parts(config).items()}).encode()
        check_content(run_dir, content)
    folder = Folder(run_dir)
    folder.write("config.yaml", resolved(config).encode())
    console = display_console(lasting=True)
    print_line = say(console)
    with held(run_dir / "journal"), claim_withdrawn_on_mistake(run_dir):
        folder.write(CONTENT, content)
        if (run_dir / result).exists():
            print_line(f"this training is done already: {run_dir / result}")
            return 0
        print_line(f"{config.steps} steps to {run_dir / result}")
        try:
            interrupt_on_sigterm()
            joined(config.address, report=print_line)
            interrupt_on_sigterm()  # Ray has set a handler that aborts a process which takes three seconds to end
            if not config.workers.wait:
                check_workers(config.workers, cluster_nodes())
            with progress_shown(console, run_dir / PROGRESS):
                in_thread(lambda: fit(replace(config, run_dir=str(run_dir))))
        except KeyboardInterrupt:
            print_line(f"to go on, give the same command again with run_dir={run_dir}")
            raise
    print_line(f"trained: {run_dir / result}; curves: {run_dir / 'curves.png'}")
    return 0


@contextmanager
def extra_needed(name: str) -> Iterator[None]:
    """Raise ConfigError, with the command that installs the extra, where an import within it fails."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{error.name or error} is missing: pip install -e '.[{name}]'") from error


@contextmanager
def claim_withdrawn_on_mistake(run_dir: Path) -> Iterator[None]:
    """Empty a training's run directory again if a ConfigError ends the training before its first checkpoint."""
    try:
        yield
    except ConfigError:
        if not (run_dir / METRICS).exists():
            for folder in (CONTENT.parent, CHECKPOINTS):
                rmtree(run_dir / folder, ignore_errors=True)
            for file in (PROGRESS, "config.yaml"):
                (run_dir / file).unlink(missing_ok=True)
            with suppress(OSError):
                run_dir.rmdir()
        raise


def interrupt_on_sigterm() -> None:
    """Have SIGTERM, which `ray job stop` sends, raise KeyboardInterrupt as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread, where Ray Train sets no signal handlers, and wait; raises what `work` raises.

    With Ray Train's handlers a training that is interrupted would end with exit code 0.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            work()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    outcome.result()


@contextmanager
def progress_shown(console: Console, path: Path) -> Iterator[None]:
    """While it lasts, show the progress that a training writes to `path`: live on a terminal, else in plain lines."""
    path.unlink(missing_ok=True)
    over, print_line = Event(), say(console)

    def watch() -> None:
        seen, live = "", Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        while not over.wait(DRAW_EVERY if live else LINE_EVERY):
            line = _progress_line(path)
            if live and line:
                live.start()
                live.update(Text(line), refresh=True)
            elif line and line != seen:
                print_line(line)
            seen = line
        if live:
            live.stop()

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _progress_line(path: Path) -> str:
    """A line of the step, the means of losses since the last checkpoint, and the time left; "" without the file."""
    if not path.exists():
        return ""
    p = json.loads(path.read_text())
    step, steps = p.pop("step"), p.pop("steps")
    left = p.pop("seconds") / step * (steps - step)
    return "; ".join([f"step {step}/{steps}", *(f"{k} {v:.4f}" for k, v in p.items()), f"{duration(left)} left"])
