"""Runs from Python: `raysearch.run("configs/quickstart.yaml", policy=my_search)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.config import config as configuration
from raysearch.config.policies import find_policy
from raysearch.errors import ConfigError, check
from raysearch.export import trackers
from raysearch.remote.command import placed
from raysearch.threads import in_its_own_loop


@dataclass(frozen=True)
class Result:
    """A finished run: its directory, and its rows (see configs/README.md)."""

    path: Path

    @property
    def searches(self) -> pa.Table:
        """A row for each search, with its winner's rewards and its cost."""
        return pq.read_table(self.path / "searches.parquet")

    @property
    def candidates(self) -> pa.Table:
        """A row for each candidate that a search scored."""
        return pq.read_table(self.path / "candidates.parquet")


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
    policy, and `arguments` are its own. Works inside a running event loop too (a notebook). Raises ConfigError.
    """
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
    # The one other place, beside the command line, where the engine meets real models.
    from actors.backend import Backend
    from actors.models.settled import settled
    from raysearch.session.session import Session

    with placed(loaded, name, report) as place:
        tracked, backend = trackers.sinks(loaded, place.path), Backend(report)
        session = Session(
            settled(loaded, report), backend, run_dir=place.path, report=report, elsewhere=place.elsewhere
        )
        in_its_own_loop(place.guarded(session.run(tracked)))
        return Result(place.path)
