"""The replicas of a run as Ray actors: the one file but metrics.py that knows Ray, and where its errors become ours.

Each actor pins one worker to its own share of a device. Latents stay in the object store: a call returns (metadata,
payload) as two objects and the driver awaits only the first. Ray's own task retries are off; recomputation is ours.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from actors.local import Worker, replica_ids
from actors.metrics import Metrics
from raysearch.config import Config
from raysearch.dispatcher import Answer, Call
from raysearch.errors import ConfigError, InputLost, ReplicaDied, check
from raysearch.plan import Plan
from raysearch.snapshot import Snapshot


class Actor:
    """A worker behind Ray. Asynchronous, so that calls queue and cancellations pass them."""

    def __init__(self, kind: str, config: Config, plan: Plan) -> None:
        self._worker = Worker(kind, config, plan)

    @ray.method(max_task_retries=-1)  # type: ignore[misc]
    async def ready(self) -> str:
        """The id of the node it is on, once the model is loaded; outlives restarts."""
        return str(ray.get_runtime_context().get_node_id())

    async def pid(self) -> int:
        return os.getpid()

    async def run(self, item: int, method: str, arguments: dict[str, Any], *inputs: Any) -> tuple[Any, Any]:
        meta, payload = await asyncio.wrap_future(self._worker.submit(item, method, arguments, inputs))
        return meta, payload

    async def cancel(self, item: int) -> None:
        self._worker.cancel(item)


@dataclass
class RayReplica:
    id: str
    kind: str
    slots: int
    actor: "ActorHandle[Actor]"
    node: str = ""
    _items: int = 0

    async def run(self, call: Call) -> Answer:
        self._items += 1
        item = self._items
        try:
            made = self.actor.run.options(num_returns=2).remote(item, call.method, call.arguments, *call.inputs)  # type: ignore[attr-defined]
            meta = await made[0]
        except asyncio.CancelledError:
            self.actor.cancel.remote(item)  # type: ignore[attr-defined]
            raise
        except RayError as error:
            raise mapped(error) from error
        return Answer(meta | {"place": self.id}, made[1])

    async def restart(self) -> None:
        try:
            self.node = await self.actor.ready.remote()  # type: ignore[attr-defined]
        except RayError as error:
            raise ReplicaDied(f"{self.id} does not start: {last_line(error)}") from error


@dataclass
class RayFleet:
    replicas: list[RayReplica]
    metrics: Metrics = field(default_factory=Metrics)

    async def fetch(self, ref: Any) -> dict[str, bytes]:
        try:
            return dict(await ref)
        except RayError as error:
            raise mapped(error) from error

    def publish(self, snapshot: Snapshot) -> None:
        self.metrics.publish(snapshot)


def mapped(error: RayError) -> Exception:
    """Ray's errors in our terms."""
    if isinstance(error, RayActorError):  # died, or cannot be reached just now
        return ReplicaDied(first_line(error))
    if isinstance(error, ObjectLostError):
        return InputLost(first_line(error))
    if isinstance(error, RayTaskError):
        cause = error.cause
        return mapped(cause) if isinstance(cause, RayError) else cause
    return error


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """Where Ray puts the error of an actor's constructor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def check_resources(config: Config, nodes: list[dict[str, float]]) -> None:
    """Raise ConfigError unless the nodes can hold every replica, dearest first. `nodes` holds their resources."""
    free = [(int(n.get("GPU", 0)) * [1.0], n.get("CPU", 0.0)) for n in nodes]
    cluster = ", ".join(f"{n.get('CPU', 0):g} CPU and {n.get('GPU', 0):g} GPU" for n in nodes) or "no nodes"
    for kind, _, pool in sorted(replica_ids(config), key=lambda r: (-r[2].num_gpus, -r[2].num_cpus)):
        whole = pool.num_gpus == int(pool.num_gpus)
        check(whole or pool.num_gpus < 1, f"fleet.{kind}s.num_gpus", pool.num_gpus, "a whole number, or below 1")
        for i, (gpus, cpus) in enumerate(free):
            left = _take(gpus, pool.num_gpus)
            if left is not None and cpus >= pool.num_cpus - 1e-9:
                free[i] = (left, cpus - pool.num_cpus)
                break
        else:
            raise ConfigError(
                f"fleet.{kind}s: {pool.replicas} replicas of {pool.num_gpus:g} GPU and {pool.num_cpus:g} CPU "
                f"do not fit beside the rest of the fleet; the cluster's nodes have {cluster}"
            )


def _take(gpus: list[float], amount: float) -> list[float] | None:
    """What is left of a node's GPUs, or None if they cannot give `amount`; a fraction must come from one of them."""
    if amount >= 1:
        idle = [g for g in gpus if g == 1]
        rest = [g for g in gpus if g < 1]
        return rest + idle[int(amount) :] if len(idle) >= amount else None
    for i, g in enumerate(gpus):
        if g >= amount - 1e-9:
            return [*gpus[:i], g - amount, *gpus[i + 1 :]]
    return None if amount else gpus


def connect(config: Config) -> None:
    """Connect to the configured cluster, or start one here, and check that it can hold the fleet."""
    if not ray.is_initialized():
        address = config.fleet.address or os.environ.get("RAY_ADDRESS")
        try:
            ray.init(
                address=address,
                include_dashboard=None if address else False,
                logging_level="ERROR",
                log_to_driver=False,
            )
        except ConnectionError as error:
            raise ConfigError(f"fleet.address: no Ray cluster answers at {address!r} ({first_line(error)})") from error
    check_resources(config, [n["Resources"] for n in ray.nodes() if n["Alive"]])


def start(config: Config, plan: Plan) -> list[RayReplica]:
    replicas = []
    for kind, name, pool in replica_ids(config):
        actor = ray.remote(Actor).options(
            num_gpus=pool.num_gpus,
            num_cpus=pool.num_cpus,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=1000,
        )
        replicas.append(RayReplica(name, kind, pool.slots, actor.remote(kind, config, _without_search(plan))))
    return replicas


def _without_search(plan: Plan) -> Plan:
    """Workers need no policies, and a policy of the user's may not be importable there."""
    return Plan((), plan.details)


@asynccontextmanager
async def ray_fleet(config: Config, plan: Plan) -> AsyncIterator[RayFleet]:
    replicas: list[RayReplica] = []
    try:
        replicas = start(config, plan)
        for r in replicas:
            await r.restart()
        yield RayFleet(replicas)
    finally:
        for r in replicas:
            ray.kill(r.actor)
