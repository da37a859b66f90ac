"""One replica of a run: the Ray actors that are it, and the driver's end, where Ray's errors become ours.

States stay in the object store: a call returns a reply and the state as two objects, and the driver awaits only the
reply. Ray's own task retries are off; recomputation is ours.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray
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

from actors.workers import gang
from raysearch.engine.protocol import Answer, Call
from raysearch.errors import InputLost, ReplicaDied

if TYPE_CHECKING:
    from actors.cluster.fleet import RayFleet

FIRST = 3  # times timeout_s for an actor's first step or call, which may compile
# Died, cannot be reached just now, or was killed by Ray since its node's memory was full.
GONE = (RayActorError, NodeDiedError, ActorUnschedulableError, OutOfMemoryError)
STARTS = 5  # in a row that a gang may lose a rank while it starts


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
            made = actor.run.remote(item, call.request, tuple(call.inputs), *call.inputs.values())
            reply = await made[0]
        except asyncio.CancelledError:
            actor.cancel.remote(item)
            raise
        except RayError as error:
            raise mapped(error) from error
        return Answer(reply, made[1])

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
