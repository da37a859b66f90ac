"""The replicas of a run on Ray: which of them serve, and which are expected to join.

Each replica has a placement group, alone or with others (`actors.cluster.placement` says which), and each actor in the
group pins one worker to its share of a device. A group that the cluster has no room for stays pending: pending groups
make an autoscaler add nodes, and a group's replicas join when it has room. Ray places the groups of a lost node
elsewhere, if it can, and their replicas are launched there.
"""

import asyncio
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
from actors.cluster.head import LOOK_S, answers, first_line, joined, standing
from actors.cluster.placement import Home, Node, Tenant
from actors.cluster.replica import RayGang, RayReplica, mapped
from actors.workers.conditions import condition, plain
from actors.workers.local import CLOSING_S
from actors.workers.state import State
from actors.workers.worker import Worker
from raysearch.config.config import Config
from raysearch.engine.protocol import Text, Whole
from raysearch.engine.sharing import gather
from raysearch.errors import ConfigError, ReplicaDied
from raysearch.session.plan import Plan

PLACING_S = 30.0  # seconds: the least time for placing; Ray needs some, and so does a run that has just ended
BEAT_S = 10.0  # seconds between two checks of an actor


class RayFleet:
    """The replicas in service, and those that are expected to join; the engine's `Fleet` on Ray.

    `timeout` is fleet.timeout_s, in seconds; `report` takes lines for the user; `head` is the address of the cluster's
    head, if it may be away.
    """

    def __init__(self, timeout: float, tasks: asyncio.TaskGroup, report: Callable[[str], None], head: str = "") -> None:
        self.timeout, self.report, self.head = timeout, report, head
        self.replicas: list[RayReplica] = []
        self.tenants: list[tuple[RayReplica, PlacementGroup]] = []  # also those that are expected
        self._tasks = tasks
        self._background: list[asyncio.Task[None]] = []
        self._arrived: asyncio.Queue[RayReplica] = asyncio.Queue()
        self._serving: dict[str, set[str]] = defaultdict(set)  # by kind
        self._deserted: dict[str, float] = defaultdict(time.monotonic)  # kind -> the time when its last replica left

    async def start(self, needed: Sequence[RayReplica], elastic: Sequence[RayReplica]) -> None:
        """Wait until all `needed` replicas serve; `elastic` replicas join later, if they can. Raises ReplicaDied."""
        await gather((r.ready() for r in needed), len(needed))
        self.replicas += needed
        for r in (*needed, *elastic):
            self.background(self._watch(r))
        at: dict[str, list[str]] = {}
        for r in needed:
            at.setdefault(r.where, []).append(r.id)
        for where, ids in at.items():
            self.report(f"{where}: {', '.join(ids)}")
        for r in elastic:
            self.expect(r)

    def expect(self, r: RayReplica) -> None:
        """Let a replica join when it is placed and loaded, if that ever happens."""
        self.background(self._arrive(r))

    async def arrivals(self) -> AsyncIterator[RayReplica]:
        """Replicas, each as it joins; endless."""
        while True:
            yield await self._arrived.get()

    async def fetch(self, ref: Any) -> dict[str, Any]:
        """The value of a reference. Raises InputLost or ReplicaDied if it is lost."""
        try:
            return plain(await ref)
        except RayError as error:
            raise mapped(error) from error

    def put(self, arrays: dict[str, Any]) -> Any:
        """A reference to a finished state of these arrays in the object store."""
        return ray.put(State(**arrays))

    def condition(self, what: Text | Whole, arrays: dict[str, Any]) -> Any:
        """A reference to the condition of these arrays in the object store."""
        return ray.put(condition(what, arrays))

    async def release(self, kind: str) -> None:
        """End the replicas of a kind, and give their room back: a group that is pending may get it."""
        await self.reached()
        for r, group in self.tenants:
            if r.kind == kind:
                r.ended = True
                self.left(r)
                r.close()
                remove_placement_group(group)
        self.tenants = [(r, group) for r, group in self.tenants if r.kind != kind]

    async def reached(self) -> None:
        """Return when the head answers. To start or kill an actor without it would hold up the whole driver."""
        while self.head and not await asyncio.to_thread(answers, self.head):
            await asyncio.sleep(LOOK_S)

    def serving(self, r: RayReplica) -> None:
        """Count a replica among those in service."""
        self._serving[r.kind].add(r.id)

    def left(self, r: RayReplica) -> None:
        """Count a replica among those in service no longer."""
        if r.id in self._serving[r.kind]:
            self._serving[r.kind].remove(r.id)
            self._deserted[r.kind] = time.monotonic()

    def patience(self, kind: str) -> float:
        """The seconds to wait for a replica of the kind: fleet.timeout_s.

        While no replica of the kind serves, they count from when the last one left.
        """
        if self._serving[kind]:
            return self.timeout
        return self._deserted[kind] + self.timeout - time.monotonic()

    def stop(self) -> None:
        """Cancel the tasks that watch replicas and wait for them."""
        for task in self._background:
            task.cancel()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task until the fleet stops; what it raises ends the fleet."""
        self._background.append(self._tasks.create_task(work))

    async def _arrive(self, r: RayReplica) -> None:
        try:
            await r.ready()
        except ReplicaDied as error:  # the others do its work
            if not r.ended:
                self.report(str(error))
            return
        self.report(f"{r.where}: {r.id} joined")
        self._arrived.put_nowait(r)

    async def _watch(self, r: RayReplica) -> None:
        """Kill a replica's actor whenever it hangs: other replicas then do its items, and it starts again."""
        while True:
            await asyncio.sleep(min(BEAT_S, self.timeout / 4))
            if r.id not in self._serving[r.kind]:
                continue
            actor = r.actor  # a gang may have replaced this actor by the time it is found to hang
            if await r.hangs():
                self.report(f"{r.id} has hung for {self.timeout:g} s (fleet.timeout_s): started again")
                await self.reached()
                ray.kill(actor)


def cluster_nodes() -> list[Node]:
    """The nodes of the cluster that are alive, with all their resources."""
    return [Node(n["Resources"], n["Labels"]) for n in ray.nodes() if n["Alive"]]


def connect(config: Config, report: Callable[[str], None]) -> None:
    """Connect to the configured cluster, or start one here. Raises ConfigError unless it can hold the fleet."""
    joined(config.fleet.address, "fleet.address", metrics=config.fleet.metrics, report=report)
    if not config.fleet.wait_s:  # with fleet.wait_s, nodes may join later
        placement.check_cluster(config, cluster_nodes())


def reserve(home: Home) -> PlacementGroup:
    """Ask for a home's placement group, which may stay pending. Raises ConfigError for labels that Ray refuses."""
    try:
        return placement_group(
            home.bundles,
            name=f"raysearch {home.owner.id}",
            bundle_label_selector=[home.labels] * len(home.bundles) if home.labels else None,
        )
    except ValueError as error:
        raise ConfigError(f"fleet.{home.owner.kind}s.labels: {first_line(error)}") from error


async def placed(home: Home, group: PlacementGroup, deadline: float, report: Callable[[str], None]) -> None:
    """Wait until a needed home's group has room. Raises ConfigError at `deadline`, a time of `time.monotonic`."""
    waiting = False
    while not await asyncio.to_thread(group.wait, 1):
        if time.monotonic() > deadline:
            why = "have found no room in time (fleet.wait_s)"
            raise ConfigError(placement.no_room(home, cluster_nodes(), why))
        if not waiting:
            report(f"waiting for room for {home.owner.id}: {home}")
        waiting = True


def replica(tenant: Tenant, group: PlacementGroup, fleet: RayFleet, *arguments: Any) -> RayReplica:
    """The replica of a tenant in its home's group; a gang if it has several shards. `arguments` go to `launch`."""
    made = RayReplica if tenant.pool.shards == 1 else RayGang
    return made(tenant.id, tenant.kind, tenant.pool.slots, partial(launch, tenant, group, *arguments), fleet)


def _without_search(plan: Plan) -> Plan:
    """The plan without its arms: workers need no policies, and may not be able to import a user's policy."""
    return Plan((), plan.details)


@asynccontextmanager
async def ray_fleet(
    config: Config, plan: Plan, report: Callable[[str], None], make: Callable[..., Worker] = Worker
) -> AsyncIterator[RayFleet]:
    """A fleet whose needed replicas serve. Leaving the context ends all replicas and gives their room back.

    `make` builds the worker inside an actor. Raises ConfigError if the needed replicas find no room in time,
    ReplicaDied if they do not start, NoReplica if the cluster is lost.
    """
    homes, head = placement.homes(config), ray.get_runtime_context().gcs_address
    groups: list[PlacementGroup] = []
    tenants: list[tuple[RayReplica, PlacementGroup]] = []
    try:
        deadline = time.monotonic() + max(config.fleet.wait_s, PLACING_S)
        needed = [h for h in homes if h.needed]
        for home in needed:  # one at a time, so that groups before a refused one are removed at the end
            groups.append(reserve(home))
        for home, group in zip(needed, groups, strict=True):
            await placed(home, group, deadline, report)
        placement.check_store(config, cluster_nodes())
        for home in homes[len(needed) :]:
            groups.append(reserve(home))
        async with asyncio.TaskGroup() as tasks:
            fleet = RayFleet(config.fleet.timeout_s, tasks, report, head)
            for home, group in zip(homes, groups, strict=True):
                for tenant in home.tenants:
                    made = replica(tenant, group, fleet, config, _without_search(plan), make)
                    tenants.append((made, group))
            fleet.background(standing())
            fleet.tenants, replicas = list(tenants), [r for r, _ in tenants]
            count = sum(len(h.tenants) for h in needed)
            await fleet.start(replicas[:count], replicas[count:])
            yield fleet
            fleet.stop()
    finally:
        if await asyncio.to_thread(answers, head):  # else Ray would wait for it, and then end this process
            try:
                await asyncio.gather(*(r.finish(CLOSING_S) for r, _ in tenants))
            finally:
                for r, _ in tenants:
                    r.close()
                for group in groups:
                    remove_placement_group(group)
