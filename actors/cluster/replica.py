"""One replica of a run: the Ray actors that are it, and the driver's end, where Ray's errors become ours.

Latents stay in the object store: a call returns (metadata, payload) as two objects and the driver awaits only the
first. Ray's own task retries are off; recomputation is ours.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.cluster.placement import Tenant
from actors.workers import gang
from actors.workers.local import Worker, shard
from raysearch.config.config import Config
from raysearch.engine.dispatcher import Answer, Call
from raysearch.errors import InputLost, ReplicaDied
from raysearch.session.plan import Plan

if TYPE_CHECKING:
    from actors.cluster.fleet import RayFleet

FIRST = 3  # times timeout_s for an actor's first step or call, which may compile
# Died, cannot be reached just now, or was killed by Ray since its node's memory was full.
GONE = (RayActorError, NodeDiedError, ActorUnschedulableError, OutOfMemoryError)
STARTS = 5  # in a row that a gang may lose a rank while it starts

# -- on the nodes ----------------------------------------------------------------------------------------------------


class Actor:
    """A worker behind Ray. Asynchronous, so that calls queue and cancellations pass them."""

    def __init__(self, kind: str, config: Config, plan: Plan, make: Callable[..., Worker]) -> None:
        self._worker = make(kind, config, plan)

    @ray.method(max_task_retries=-1)  # type: ignore[misc]
    async def ready(self) -> tuple[str, str]:
        """The id of the node it is on, and where that is in words, once the model is loaded; outlives restarts."""
        context = ray.get_runtime_context()
        node, gpus = context.get_node_id(), context.get_accelerator_ids().get("GPU", [])
        return node, f"{ray.util.get_node_ip_address()} ({node[:8]})" + (f" GPU {', '.join(gpus)}" if gpus else "")

    @ray.method(concurrency_group="control")  # type: ignore[misc]
    async def pulse(self) -> tuple[float, int]:
        """Seconds that the step or call at hand has taken so far, and how many are done."""
        return self._worker.pulse.busy(), self._worker.pulse.beats

    async def pid(self) -> int:
        return os.getpid()

    @ray.method(num_returns=2)  # type: ignore[misc]
    async def run(self, item: int, method: str, arguments: dict[str, Any], *inputs: Any) -> tuple[Any, Any]:
        try:
            meta, payload = await asyncio.wrap_future(self._worker.submit(item, method, arguments, inputs))
        except torch.AcceleratorError:  # its device fails whatever follows, until the process is another one
            os._exit(1)
            raise
        return meta, payload

    async def cancel(self, item: int) -> None:
        self._worker.cancel(item)


class Shard(Actor):
    """One rank of a gang; rank 0 is the one that runs items. It loads when it is told where the others are."""

    def __init__(self, kind: str, config: Config, plan: Plan, make: Callable[..., Worker]) -> None:
        self._kind, self._config, self._plan, self._make = kind, config, plan, make
        self._store: Any = None

    async def listen(self, on_one_node: bool) -> tuple[str, int]:
        """Where the others find this rank: on loopback if all are on one node, else at the node's own address."""
        host = gang.LOOPBACK if on_one_node else self._address()
        self._store, port = gang.listen(host)
        return host, port

    async def lead(self, place: gang.Place) -> None:
        """Be rank 0; returns when all ranks are ready."""

        def load() -> Worker:
            led = shard(self._config, self._plan, place, self._store)
            return self._make(self._kind, self._config, self._plan, led)

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


def launch(tenant: Tenant, group: PlacementGroup, *arguments: Any) -> "list[ActorHandle[Any]]":
    """A replica's actors, one for each shard, which start when the group has its place; `arguments` follow the kind.

    Ray restarts a lone one; a gang is launched again.
    """
    alone = tenant.pool.shards == 1
    made = ray.remote(concurrency_groups={"control": 1})(Actor if alone else Shard)
    return [
        made.options(
            num_gpus=tenant.pool.num_gpus,
            num_cpus=tenant.pool.num_cpus,
            max_restarts=-1 if alone else 0,
            max_task_retries=0,
            max_concurrency=1000,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        ).remote(tenant.kind, *arguments)
        for rank in range(tenant.pool.shards)
    ]


# -- in the driver ---------------------------------------------------------------------------------------------------


@dataclass
class RayReplica:
    id: str
    kind: str
    slots: int
    launch: "Callable[[], list[ActorHandle[Any]]]"
    fleet: "RayFleet"
    node: str = ""
    where: str = ""
    ahead: int = 1  # hides the way to the driver and back between two items
    actors: "list[ActorHandle[Any]]" = field(default_factory=list)  # the first runs the items
    _items: int = 0

    @property
    def actor(self) -> "ActorHandle[Any]":
        return self.actors[0]

    async def run(self, call: Call) -> Answer:
        self._items += 1
        item, actor = self._items, self.actor
        try:
            made = actor.run.remote(item, call.method, call.arguments, *call.inputs)
            meta = await made[0]
        except asyncio.CancelledError:
            actor.cancel.remote(item)
            raise
        except RayError as error:
            raise mapped(error) from error
        return Answer(meta, made[1])

    async def ping(self) -> None:
        try:
            await self.actor.pulse.remote()
        except RayError as error:
            raise mapped(error) from error

    async def ready(self) -> None:
        """Wait until it has a place and its model is loaded."""
        self.actors = self.actors or self.launch()
        try:
            self.node, self.where = await self.actor.ready.remote()
        except RayError as error:
            raise ReplicaDied(f"{self.id} does not start: {last_line(error)}") from error
        self.fleet.serving(self)

    async def restart(self) -> None:
        """Back on its node, or on another one that has room; given up when none of its kind serves for long."""
        self.fleet.left(self)
        before, coming = self.where, asyncio.ensure_future(self.ready())
        try:
            while (patience := self.fleet.patience(self.kind)) > 0:
                done, _ = await asyncio.wait([coming], timeout=patience)
                if done:
                    coming.result()
                    if self.where != before:
                        self.fleet.report(f"{self.id} moved to {self.where}")
                    return
        finally:
            coming.cancel()
        self.fleet.expect(self)
        raise ReplicaDied(f"no {self.kind} has been in service for fleet.timeout_s, {self.fleet.timeout:g} s")

    async def hangs(self) -> bool:
        """Whether its compute thread is stuck, or all of it. One that is dead or restarting does not hang."""
        timeout = self.fleet.timeout
        try:
            async with asyncio.timeout(timeout):
                busy, beats = await self.actor.pulse.remote()
        except TimeoutError:
            return True
        except RayError:
            return False
        return bool(busy > timeout * (1 if beats else FIRST))

    def close(self) -> None:
        for actor in reversed(self.actors):
            ray.kill(actor)
        self.actors = []


@dataclass
class RayGang(RayReplica):
    """A replica of several actors, its ranks: when one is lost, all are, and all start anew."""

    _following: list[Any] = field(default_factory=list)  # the followers' ends

    async def ready(self) -> None:
        for left in reversed(range(STARTS)):
            await self._end()
            self.actors = self.launch()
            try:
                await self._meet()
                break
            except RayError as error:
                faults = [e for e in (*await self._end(), error) if isinstance(e, RayTaskError)]
                why = next((e for e in faults if not isinstance(e.cause, ReplicaDied)), None)
                if why or not left:  # not just: a rank is gone
                    raise ReplicaDied(f"{self.id} does not start: {last_line(why or error)}") from error
        self.fleet.serving(self)

    async def _meet(self) -> None:
        leader, *others = self.actors
        found = await asyncio.gather(*(self._whereabouts(a) for a in self.actors))
        host, port = await leader.listen.remote(len({node for node, _ in found}) == 1)
        patience = timedelta(seconds=self.fleet.timeout)
        places = [gang.Place(rank, host, port, patience, host) for rank in range(len(self.actors))]
        self._following = [a.follow.remote(p) for a, p in zip(others, places[1:], strict=True)]
        leader.watch.remote(self._following)
        await leader.lead.remote(places[0])
        self.node, self.where = found[0][0], " + ".join(dict.fromkeys(where for _, where in found))

    async def _whereabouts(self, actor: "ActorHandle[Any]") -> tuple[str, str]:
        node, where = await actor.ready.remote()
        return node, where

    async def _end(self) -> list[Any]:
        """Kill all ranks; how the followers ended."""
        self.close()
        ends, self._following = self._following, []
        return await asyncio.gather(*ends, return_exceptions=True)


def mapped(error: RayError) -> Exception:
    """Ray's errors in our terms."""
    if isinstance(error, GONE):
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
