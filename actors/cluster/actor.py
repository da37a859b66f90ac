"""The Ray actors of a replica, which run on the nodes: one actor, or one for each shard."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.cluster.placement import Tenant
from actors.workers import gang
from actors.workers.worker import Worker, shard
from raysearch.config.config import Config
from raysearch.engine.protocol import Reply, Request
from raysearch.session.plan import Plan


class Actor:
    """A worker behind Ray, built by `make`. Its methods are asynchronous, so that a cancellation overtakes calls."""

    def __init__(self, kind: str, config: Config, plan: Plan, make: Callable[..., Worker]) -> None:
        self._worker = make(kind, config, plan)

    async def ready(self) -> tuple[str, str]:
        """The id of the actor's node, and its address and GPUs in words, once the model is loaded."""
        context = ray.get_runtime_context()
        node, gpus = context.get_node_id(), context.get_accelerator_ids().get("GPU", [])
        return node, f"{ray.util.get_node_ip_address()} ({node[:8]})" + (f" GPU {', '.join(gpus)}" if gpus else "")

    @ray.method(concurrency_group="control")  # type: ignore[misc]
    async def pulse(self) -> tuple[float, int]:
        """The seconds that the current step or call has taken so far, and the number of those that are done."""
        return self._worker.pulse.busy(), self._worker.pulse.beats

    async def pid(self) -> int:
        """The id of the actor's process, which tests kill."""
        return os.getpid()

    @ray.method(num_returns=2)  # type: ignore[misc]
    async def run(self, item: int, request: Request, names: tuple[str, ...], *inputs: Any) -> tuple[Reply, Any]:
        """The reply to a request, and the value that the reply is about, which stays in the object store.

        Ray resolves references only as arguments of their own, so `inputs` come one by one, with their `names` before.
        """
        try:
            named = dict(zip(names, inputs, strict=True))
            reply, made = await asyncio.wrap_future(self._worker.submit(item, request, named))
        except torch.AcceleratorError:  # the device fails all that follows in this process, so Ray must start another
            os._exit(1)
            raise
        return reply, made

    async def cancel(self, item: int) -> None:
        """Free a leg's slot after the current step."""
        self._worker.cancel(item)

    async def finish(self, patience: float) -> None:
        """Return when the calls that were begun are done, after so many seconds at most."""
        await asyncio.to_thread(self._worker.close, patience)


class Shard(Actor):
    """One rank of a gang. It loads its part of the model in `lead` or `follow`; rank 0 runs the items."""

    def __init__(self, kind: str, config: Config, plan: Plan, make: Callable[..., Worker]) -> None:
        self._kind, self._config, self._plan, self._make = kind, config, plan, make
        self._store: Any = None

    async def listen(self, on_one_node: bool) -> tuple[str, int]:
        """Open the store where the ranks meet; returns its host and port.

        The host is loopback if all ranks are `on_one_node`, else the node's own address.
        """
        host = gang.LOOPBACK if on_one_node else self._address()
        self._store, port = gang.listen(host)
        return host, port

    async def lead(self, place: gang.Place) -> None:
        """Load as rank 0; returns when every rank is ready."""

        def load() -> Worker:
            led = shard(self._config, self._plan, place, self._store)
            return self._make(self._kind, self._config, self._plan, led)

        self._worker = await asyncio.to_thread(load)

    async def follow(self, place: gang.Place) -> None:
        """Load as another rank and compute its share of every forward; returns when rank 0 says to stop."""
        if place.host != gang.LOOPBACK:
            place = replace(place, here=self._address())
        await asyncio.to_thread(lambda: shard(self._config, self._plan, place).follow())

    async def watch(self, followers: list[Any]) -> None:
        """End rank 0's process when a follower ends, so that the gang dies as a whole even while rank 0 is idle."""
        await asyncio.wait([asyncio.wrap_future(f.future()) for f in followers], return_when=asyncio.FIRST_COMPLETED)
        os._exit(1)

    def _address(self) -> str:
        return str(ray.util.get_node_ip_address())


def launch(tenant: Tenant, group: PlacementGroup, *arguments: Any) -> "list[ActorHandle[Any]]":
    """The actors of a tenant's replica, one for each shard, which start when the placement group has room.

    `arguments` are those of `Actor` after the kind. Ray restarts none: it would restart for ever what ends as it loads.
    """
    made = ray.remote(concurrency_groups={"control": 1})(Actor if tenant.pool.shards == 1 else Shard)
    return [
        made.options(
            num_gpus=tenant.pool.num_gpus,
            num_cpus=tenant.pool.num_cpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=1000,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        ).remote(tenant.kind, *arguments)
        for rank in range(tenant.pool.shards)
    ]
