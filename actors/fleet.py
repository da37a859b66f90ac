"""The replicas of a run as Ray actors: the one file that knows Ray, and where its errors are mapped to ours.

Each actor pins one worker to its own share of a device. Latents stay in the object store: a call returns (metadata,
payload) as two objects and the driver awaits only the first. Ray's own task retries are off; recomputation is ours.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from actors import gang
from actors.local import Worker, replica_ids, shard
from raysearch.config import Config, PoolConfig
from raysearch.dispatcher import Answer, Call
from raysearch.engine import gather
from raysearch.errors import ConfigError, InputLost, ReplicaDied, check
from raysearch.plan import Plan


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


class Shard(Actor):
    """One rank of a gang; rank 0 is the one that runs items. It loads when it is told where the others are."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._config, self._plan = config, plan
        self._store: Any = None

    async def listen(self, on_one_node: bool) -> tuple[str, int]:
        """Where the others find this rank: on loopback if all are on one node, else at the node's own address."""
        host = gang.LOOPBACK if on_one_node else self._address()
        self._store, port = gang.listen(host)
        return host, port

    async def lead(self, place: gang.Place) -> None:
        """Be rank 0; returns when all ranks are ready."""

        def load() -> Worker:
            return Worker("denoiser", self._config, self._plan, shard(self._config, self._plan, place, self._store))

        self._worker = await asyncio.to_thread(load)

    async def follow(self, place: gang.Place) -> None:
        """Be another rank; returns when told to stop."""
        if place.host != gang.LOOPBACK:
            place = replace(place, here=self._address())
        await asyncio.to_thread(lambda: shard(self._config, self._plan, place).follow())

    async def watch(self, followers: list[Any]) -> None:
        """End this process when a follower ends: a gang lives and dies as a whole, and one that waits cannot notice."""
        await asyncio.wait([asyncio.wrap_future(f.future()) for f in followers], return_when=asyncio.FIRST_COMPLETED)
        os._exit(1)

    def _address(self) -> str:
        return str(ray.util.get_node_ip_address())


@dataclass
class RayReplica:
    id: str
    kind: str
    slots: int
    launch: "Callable[[], list[ActorHandle[Any]]]"
    actors: "list[ActorHandle[Any]]" = field(default_factory=list)  # the first runs the items
    node: str = ""
    _items: int = 0

    @property
    def actor(self) -> "ActorHandle[Any]":
        return self.actors[0]

    async def run(self, call: Call) -> Answer:
        self._items += 1
        item, actor = self._items, self.actor
        try:
            made = actor.run.options(num_returns=2).remote(item, call.method, call.arguments, *call.inputs)
            meta = await made[0]
        except asyncio.CancelledError:
            actor.cancel.remote(item)
            raise
        except RayError as error:
            raise mapped(error) from error
        return Answer(meta | {"place": self.id}, made[1])

    async def restart(self) -> None:
        try:
            self.node = await self.actor.ready.remote()
        except RayError as error:
            raise ReplicaDied(f"{self.id} does not start: {last_line(error)}") from error

    def close(self) -> None:
        for actor in reversed(self.actors):
            ray.kill(actor)
        self.actors = []


@dataclass
class RayGang(RayReplica):
    """A replica of several actors, its ranks: when one is lost, all are, and all start anew."""

    _following: list[Any] = field(default_factory=list)  # the followers' ends

    async def restart(self) -> None:
        await self._end()
        self.actors = self.launch()
        leader, *others = self.actors
        try:
            nodes = await gather(self._node(a) for a in self.actors)
            host, port = await leader.listen.remote(len(set(nodes)) == 1)
            places = [gang.Place(rank, host, port, host, gang.PATIENCE) for rank in range(len(self.actors))]
            self._following = [a.follow.remote(p) for a, p in zip(others, places[1:], strict=True)]
            leader.watch.remote(self._following)
            await leader.lead.remote(places[0])
        except RayError as error:
            reason = next((e for e in await self._end() if isinstance(e, RayTaskError)), error)  # not just: it is gone
            raise ReplicaDied(f"{self.id} does not start: {last_line(reason)}") from error
        self.node = nodes[0]

    async def _end(self) -> list[Any]:
        """Kill all ranks; how the followers ended."""
        self.close()
        ends, self._following = self._following, []
        return await asyncio.gather(*ends, return_exceptions=True)

    async def _node(self, actor: "ActorHandle[Any]") -> str:
        return str(await actor.ready.remote())


@dataclass
class RayFleet:
    replicas: list[RayReplica]

    async def fetch(self, ref: Any) -> dict[str, bytes]:
        try:
            return dict(await ref)
        except RayError as error:
            raise mapped(error) from error


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
        for _ in range(pool.shards):
            for i, (gpus, cpus) in enumerate(free):
                left = _take(gpus, pool.num_gpus)
                if left is not None and cpus >= pool.num_cpus - 1e-9:
                    free[i] = (left, cpus - pool.num_cpus)
                    break
            else:
                shards, each = (f" of {pool.shards} shards", " each") if pool.shards > 1 else ("", "")
                raise ConfigError(
                    f"fleet.{kind}s: {pool.replicas} replicas{shards} of {pool.num_gpus:g} GPU and "
                    f"{pool.num_cpus:g} CPU{each} do not fit beside the rest of the fleet; "
                    f"the cluster's nodes have {cluster}"
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
    """The replicas of a config, on their way: `restart` waits until one is ready."""
    replicas: list[RayReplica] = []
    for kind, name, pool in replica_ids(config):
        made = partial(launch, kind, config, plan, pool)
        if pool.shards > 1:
            replicas.append(RayGang(name, kind, pool.slots, made))
        else:
            replicas.append(RayReplica(name, kind, pool.slots, made, made()))
    return replicas


def launch(kind: str, config: Config, plan: Plan, pool: PoolConfig) -> "list[ActorHandle[Any]]":
    """The actors of one replica: one, or one for each shard. Ray restarts a lone one; a gang is launched again."""
    alone = pool.shards == 1
    options = {
        "num_gpus": pool.num_gpus,
        "num_cpus": pool.num_cpus,
        "max_restarts": -1 if alone else 0,
        "max_task_retries": 0,
        "max_concurrency": 1000,
    }
    if alone:
        return [ray.remote(Actor).options(**options).remote(kind, config, _without_search(plan))]
    return [ray.remote(Shard).options(**options).remote(config, _without_search(plan)) for _ in range(pool.shards)]


def _without_search(plan: Plan) -> Plan:
    """Workers need no policies, and a policy of the user's may not be importable there."""
    return Plan((), plan.details)


@asynccontextmanager
async def ray_fleet(config: Config, plan: Plan) -> AsyncIterator[RayFleet]:
    replicas: list[RayReplica] = []
    try:
        replicas = start(config, plan)
        await gather(r.restart() for r in replicas)
        yield RayFleet(replicas)
    finally:
        for r in replicas:
            r.close()
