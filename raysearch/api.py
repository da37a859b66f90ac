"""Runs from Python: `raysearch.run("configs/quickstart.yaml", policy=my_search)`, and what is in a run's folder."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysearch.config import config as configuration
from raysearch.config.address import folder_or_url
from raysearch.config.config import Config
from raysearch.config.policies import find_policy
from raysearch.errors import ConfigError, check
from raysearch.export import trackers
from raysearch.parquet import run_table
from raysearch.remote.command import copied, placed
from raysearch.remote.place import Place
from raysearch.session import card, status
from raysearch.session.directory import goes_on
from raysearch.session.progress import Sink
from raysearch.threads import beside, in_its_own_loop

if TYPE_CHECKING:
    from raysearch.planner.facts import Facts
    from raysearch.session.plan import Plan
    from raysearch.session.session import Session


@dataclass(frozen=True)
class Result:
    """A run's directory and its rows (see configs/README.md). A notebook shows the best winners of it."""

    path: Path

    @property
    def searches(self) -> pa.Table:
        """A row for each search that has ended, with its winner's rewards and its cost. Raises ConfigError."""
        return run_table(self.path, "searches.parquet", (), more=True)

    @property
    def candidates(self) -> pa.Table:
        """A row for each candidate that a search scored. Raises ConfigError."""
        return run_table(self.path, "candidates.parquet", (), more=True)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best winner's search: by the search's reward, or by the judge's where there is none."""
        return next(iter(card.ranked(self.searches).slice(0, 1).to_pylist()), None)

    def _repr_html_(self) -> str:
        """How the run goes or ended, and the best winners: with posters, if the run has some, else as a table."""
        snapshot = None
        with suppress(ConfigError):  # it has not started its fleet, or is another version's
            snapshot = status.read(self.path)
        return card.html(self.path, self.searches, snapshot)


def open(run_dir: str | Path) -> Result:
    """What is in the folder of a run, which may go on meanwhile; of a URL what is in a copy. Raises ConfigError."""
    place = folder_or_url(str(run_dir))
    path = copied(place, print) if isinstance(place, str) else place.expanduser().absolute()
    status.check_folder(path)
    return Result(path)


def run(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    policy: Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> Result:
    """Run every prompt and seed of a config (a YAML file, or a mapping) and return where the results are.

    `policy`, a coroutine function `search(ctx, *, ...)` at the top level of its module, takes the place of the config's
    policy, and `arguments` are its own. Works inside a running event loop too, which it blocks; `arun` does not.
    Raises ConfigError.
    """
    loaded, name = _loaded(config, overrides, policy, arguments)
    with placed(loaded, name, report) as place:
        session, tracked = prepared(loaded, place, report)
        in_its_own_loop(place.guarded(session.run(tracked)))
        return Result(place.path)


async def arun(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    policy: Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> Result:
    """What `run` does, while the caller's event loop goes on: `result = await raysearch.arun(...)` in a notebook.

    A task that is cancelled ends the run as Ctrl-C ends the command: what is done is written, and with resume=auto the
    same call goes on. Raises ConfigError, and CancelledError when the run has ended.
    """
    loaded, name = _loaded(config, overrides, policy, arguments)

    async def work(report: Callable[[str], None]) -> Path:
        with placed(loaded, name, report) as place:
            session, tracked = prepared(loaded, place, report)  # takes seconds, so not in the caller's loop
            await place.guarded(session.run(tracked))
            return place.path

    return Result(await beside(work, report))


def prepared(config: Config, place: Place, report: Callable[[str], None]) -> tuple["Session", list[Sink]]:
    """A session of a config at its place, with real models and rewards, and its trackers. Raises ConfigError."""
    # The one other place, beside the command line, where the engine meets real models.
    from actors import shipped
    from actors.models.settled import settled

    config = settled(config, report)
    shipped.check_rewards(configuration.arms(config))
    goes_on(place.path, config, config.resume)
    tracked = trackers.sinks(config, place.path)
    # Its plan takes torch and diffusers, and a mistake in the config should not wait for them.
    from actors.backend import Backend
    from raysearch.session.session import Session

    session = Session(config, Backend(report), run_dir=place.path, report=report, elsewhere=place.elsewhere)
    return session, list(tracked)


def facts(config: Config, plan: "Plan") -> "Facts":
    """What a plan of a run needs to know of its model."""
    from actors import facts as known

    return known.facts(config, plan)


def _loaded(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str],
    policy: Callable[..., Any] | None,
    arguments: Mapping[str, Any] | None,
) -> tuple[Config, str]:
    """The checked config, and its name. Raises ConfigError."""
    check(not isinstance(overrides, str), "overrides", overrides, "a list, such as ['seeds=[0,1]']")
    check(not (overrides and isinstance(config, Mapping)), "overrides", overrides, "left out where config is a mapping")
    if isinstance(config, Mapping):
        name, loaded = "run", configuration.build(dict(config))
    else:
        name, loaded = Path(config).stem, configuration.load(Path(config), overrides)
    if policy is not None:
        check(loaded.arms is None, "policy", policy, "left out for a config with arms")
        where = f"{policy.__module__}:{policy.__qualname__}"
        if find_policy(where) is not policy:
            raise ConfigError(f"policy: {where} is another function than the one given; define it at the top level")
        loaded = replace(loaded, policy={"name": where, **(arguments or {})})
        configuration.arms(loaded)  # raises ConfigError where the arguments are not the policy's
    return loaded, name
