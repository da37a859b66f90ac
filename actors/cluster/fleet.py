"""The replicas of a run on Ray: where they are, which of them serve, and those that are yet to come.

Each replica has a placement group (`actors.cluster.placement` says which), and each actor in it pins one worker to
its own share of a device. Groups that the cluster has no room for stay pending: they are what makes an autoscaler add
nodes, and their replicas join when there is room. Ray brings groups and actors of a lost node back where it can.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.cluster import placement
from actors.cluster.actor import launch
from actors.cluster.placement import Home, Node, Tenant
from actors.cluster.replica import RayGang, RayReplica, first_line, mapped
from actors.workers.state import State
from actors.workers.worker import Worker
from raysearch.config.config import Config
from raysearch.engine.sharing import gather
from raysearch.errors import ConfigError, NoReplica, ReplicaDied
from raysearch.session.plan import Plan

PLACING_S = 30.0  # Ray needs moments, and so does a run that has just ended to give its share back
BEAT_S = 10.0  # between two looks at an actor


class RayFleet:
    """The replicas that serve, and those that are expected to."""

    def __init__(self, timeout: float, tasks: asyncio.TaskGroup, report: Callable[[str], None]) -> None:
        self.timeout, self.report = timeout, report
        self.replicas: list[RayReplica] = []
        self._tasks = tasks
        self._background: list[asyncio.Task[None]] = []
        self._arrived: asyncio.Queue[RayReplica] = asyncio.Queue()
        self._serving: dict[str, set[str]] = defaultdict(set)  # by kind
        self._deserted: dict[str, float] = defaultdict(time.monotonic)  # kind -> since when it has nobody in service

    async def start(self, needed: Sequence[RayReplica], elastic: Sequence[RayReplica]) -> None:
        """Until all that are needed serve; the elastic ones arrive later."""
        await gather((r.ready() for r in needed), len(needed))
        self.replicas += needed
        for r in (*needed, *elastic):
            self._run(self._watch(r))
        at: dict[str, list[str]] = {}
        for r in needed:
            at.setdefault(r.where, []).append(r.id)
        for where, ids in at.items():
            self.report(f"{where}: {', '.join(ids)}")
        for r in elastic:
            self.expect(r)

    def expect(self, r: RayReplica) -> None:
        """It joins when it has a place and is loaded, if ever."""
        self._run(self._arrive(r))

    async def arrivals(self) -> AsyncIterator[RayReplica]:
        while True:
            yield await self._arrived.get()

    async def fetch(self, ref: Any) -> dict[str, Any]:
        try:
            found = await ref
            return found.plain() if isinstance(found, State) else dict(found)
        except RayError as error:
            raise mapped(error) from error

    def put(self, arrays: dict[str, Any]) -> Any:
        return ray.put(State(**arrays))

    def serving(self, r: RayReplica) -> None:
        self._serving[r.kind].add(r.id)

    def left(self, r: RayReplica) -> None:
        if r.id in self._serving[r.kind]:
            self._serving[r.kind].remove(r.id)
            self._deserted[r.kind] = time.monotonic()

    def patience(self, kind: str) -> float:
        """For how long to wait for a replica of the kind: as long as others serve, and timeout_s from then on."""
        if self._serving[kind]:
            return self.timeout
        return self._deserted[kind] + self.timeout - time.monotonic()

    def stop(self) -> None:
        for task in self._background:
            task.cancel()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._background.append(self._tasks.create_task(work))

    async def _arrive(self, r: RayReplica) -> None:
        try:
            await r.ready()
        except ReplicaDied as error:  # the others do its work
            self.report(str(error))
            return
        self.report(f"{r.where}: {r.id} joined")
        self._arrived.put_nowait(r)

    async def _watch(self, r: RayReplica) -> None:
        """Kill it whenever it hangs: its items are then done elsewhere, and Ray starts it again."""
        while True:
            await asyncio.sleep(min(BEAT_S, self.timeout / 4))
            if r.id not in self._serving[r.kind]:
                continue
            actor = r.actor  # a gang may have another one, or none, when this one is found to hang
            if await r.hangs():
                self.report(f"{r.id} has hung for {self.timeout:g} s (fleet.timeout_s): started again")
                ray.kill(actor, no_restart=False)


def cluster_nodes() -> list[Node]:
    return [Node(n["Resources"], n["Labels"]) for n in ray.nodes() if n["Alive"]]


def joined(address: str | None, key: str = "address") -> None:
    """Connect to a cluster, or start one here, unless this process is connected."""
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            address=address or "local",  # else a cluster that was killed, and left a note of itself, is waited for
            include_dashboard=None if address else False,
            logging_level="ERROR",
            log_to_driver=False,
        )
    except (ConnectionError, ValueError) as error:  # ValueError: it is no address
        raise ConfigError(f"{key}: no Ray cluster answers at {address!r} ({first_line(error)})") from error
    except Exception as error:  # Ray's own have no type: a node that does not come up in time, on a busy machine
        raise NoReplica(f"Ray does not start: {first_line(error)}") from error


def connect(config: Config) -> None:
    """Connect to the configured cluster, or start one here, and check that it can hold the fleet."""
    joined(config.fleet.address, "fleet.address")
    placement.homes(config)
    if not config.fleet.wait_s:  # otherwise nodes may be yet to come
        placement.check_cluster(config, cluster_nodes())


def reserve(home: Home) -> PlacementGroup:
    try:
        return placement_group(
            home.bundles,
            name=f"raysearch {home.owner.id}",
            bundle_label_selector=[home.labels] * len(home.bundles) if home.labels else None,
        )
    except ValueError as error:
        raise ConfigError(f"fleet.{home.owner.kind}s.labels: {first_line(error)}") from error


async def placed(home: Home, group: PlacementGroup, deadline: float, report: Callable[[str], None]) -> None:
    """Wait for a needed home's room. Raises ConfigError at the deadline."""
    waiting = False
    while not await asyncio.to_thread(group.wait, 1):
        if time.monotonic() > deadline:
            why = "have found no room in time (fleet.wait_s)"
            raise ConfigError(placement.no_room(home, cluster_nodes(), why))
        if not waiting:
            report(f"waiting for room for {home.owner.id}: {home}")
        waiting = True


def replica(tenant: Tenant, group: PlacementGroup, fleet: RayFleet, *arguments: Any) -> RayReplica:
    made = RayReplica if tenant.pool.shards == 1 else RayGang
    return made(tenant.id, tenant.kind, tenant.pool.slots, partial(launch, tenant, group, *arguments), fleet)


def _without_search(plan: Plan) -> Plan:
    """Workers need no policies, and a policy of the user's may not be importable there."""
    return Plan((), plan.details)


@asynccontextmanager
async def ray_fleet(
    config: Config, plan: Plan, report: Callable[[str], None], make: Callable[..., Worker] = Worker
) -> AsyncIterator[RayFleet]:
    homes = placement.homes(config)
    groups: list[PlacementGroup] = []
    replicas: list[RayReplica] = []
    try:
        deadline = time.monotonic() + max(config.fleet.wait_s, PLACING_S)
        needed = [h for h in homes if h.needed]
        for home in needed:  # one at a time, so that those before one that is refused are known, and given back
            groups.append(reserve(home))
        for home, group in zip(needed, groups, strict=True):
            await placed(home, group, deadline, report)
        placement.check_store(config, cluster_nodes())
        for home in homes[len(needed) :]:
            groups.append(reserve(home))
        async with asyncio.TaskGroup() as tasks:
            fleet = RayFleet(config.fleet.timeout_s, tasks, report)
            for home, group in zip(homes, groups, strict=True):
                for tenant in home.tenants:
                    replicas.append(replica(tenant, group, fleet, config, _without_search(plan), make))
            count = sum(len(h.tenants) for h in needed)
            await fleet.start(replicas[:count], replicas[count:])
            yield fleet
            fleet.stop()
    finally:
        for r in replicas:
            r.close()
        for group in groups:
            remove_placement_group(group)
