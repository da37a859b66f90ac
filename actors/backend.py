"""The real backend: checks what a run asks of models and rewards before anything is loaded, and starts the replicas.

The command line hands `Backend` to the engine. `prepare` checks and plans; `fleet` starts replicas in this process
(fleet.backend: local) or on Ray.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from raysearch.config.config import Arm, Config
from raysearch.engine.protocol import Fleet
from raysearch.session.plan import Plan
from raysearch.session.snapshot import Snapshot


class Backend:
    """Real models and rewards; `raysearch.testing.FakeBackend` has made-up ones. `report` takes lines for the user."""

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self._report = report
        self._publish: Callable[[Snapshot], None] | None = None

    def prepare(self, config: Config, arms: Sequence[Arm], begun: Config | None = None) -> Plan:
        """The plan of a run with these arms. Loads no weights; connects to Ray or starts it if the fleet runs on Ray.

        `begun` is the config that a resumed run began with, whose numerics the candidates' identities keep.
        Raises ConfigError for what the model, the rewards or the cluster cannot do.
        """
        from actors import plan  # torch and diffusers take seconds to import

        made = plan.planned(config, arms, begun)
        if config.fleet.backend == "ray":
            from actors.cluster.fleet import connect

            connect(config, self._report)
        else:
            plan.check_devices(config)
        plan.warn_of_memory(config, made.details["source"], made.details["rewards"], self._report)
        for name, given in ((name, p.given) for name, p in config.parts.items() if p.given):
            self._report(f"parts.{name}: {', '.join(k if v is True else f'{k} {v}' for k, v in given.items())}")
        return made

    def fleet(
        self, config: Config, plan: Plan, report: Callable[[str], None]
    ) -> AbstractAsyncContextManager[Fleet, bool | None]:
        """A context with the fleet of replicas, all with their models loaded; `report` takes lines for the user."""
        if config.fleet.backend == "local":
            from actors.workers.local import local_fleet

            return local_fleet(config, plan)
        from actors.cluster.fleet import ray_fleet

        if config.fleet.metrics:
            from actors.cluster.metrics import Metrics

            self._publish = Metrics().publish
        return ray_fleet(config, plan, report)

    def publish(self, snapshot: Snapshot) -> None:
        """Export a run's numbers as metrics of Ray, where fleet.metrics asks for them; a local fleet exports none."""
        if self._publish is not None:
            self._publish(snapshot)
