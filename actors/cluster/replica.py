"""The driver's end of a replica on Ray: its actors, their starts and ends, and Ray's errors as raysearch's own.

States stay in the object store: a call returns a reply and the state as two objects, and the driver awaits only the
reply. Ray's own retries of calls are off, since the engine recomputes what is lost.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
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

from actors.cluster.head import first_line
from actors.workers import gang, pulse
from raysearch.engine.protocol import Answer, Call
from raysearch.errors import ConfigError, InputLost, ReplicaDied

if TYPE_CHECKING:
    from actors.cluster.fleet import RayFleet

# The actor died, cannot be reached just now, or was killed by Ray since its node's memory was full.
GONE = (RayActorError, NodeDiedError, ActorUnschedulableError, OutOfMemoryError)
MISTAKE = "raysearch.errors.ConfigError: "  # how Ray tells of one in an actor's constructor, in its error's last line
STARTS = 3  # starts in a row in each of which a process may be lost


@dataclass
class RayReplica:
    """A replica of one actor, as the engine's `Replica`.

    `launch` starts the actors. `node` is the id of the node of the first actor, and `where` its address in words.
    """

    id: str
    kind: str
    slots: int
    launch: "Callable[[], list[ActorHandle[Any]]]"
    fleet: "RayFleet"
    node: str = ""
    where: str = ""
    ahead: int = 1  # the next item is there when one ends, without the way to the driver and back
    actors: "list[ActorHandle[Any]]" = field(default_factory=list)  # the first one runs the items
    ended: bool = False  # for good: it does not start again
    _items: int = 0

    @property
    def actor(self) -> "ActorHandle[Any]":
        """The actor that runs the items."""
        return self.actors[0]

    async def run(self, call: Call) -> Answer:
        """The answer to a call. Raises ReplicaDied, InputLost or the worker's error. Cancelling frees the slot."""
        self._items += 1
        item, actor = self._items, self.actor
        try:
            made = actor.run.remote(item, call.request, tuple(call.inputs), *call.inputs.values())
            reply = await made[0]
        except asyncio.CancelledError:
            actor.cancel.remote(item)
            raise
        except RayError as error:
            if isinstance(error, RayTaskError):
                with suppress(RayError):
                    await made[1]  # the same error, which Ray prints at the end if nobody asks for it
            raise mapped(error) from error
        return Answer(reply, made[1])

    async def ping(self) -> None:
        """Return if the actor answers. Raises ReplicaDied if the actor is gone."""
        try:
            await self.actor.pulse.remote()
        except RayError as error:
            raise mapped(error) from error

    async def ready(self) -> None:
        """Launch the actors and wait until they have a place and their model is loaded.

        Raises ConfigError for a reward that fails when it is tried, ReplicaDied for another error of the model's or the
        rewards' code, or after STARTS losses of a process.
        """
        for left in reversed(range(STARTS)):
            await self.fleet.reached()
            await self._end()
            if self.ended:
                raise ReplicaDied(f"{self.id} was released")
            self.actors = self.launch()
            try:
                await self._meet()
                break
            except RayError as error:
                await self.fleet.reached()
                why = next((e for e in (*await self._end(), error) if _is_fault(e)), None)
                if why or not (left or self.ended):  # a mere loss is tried again
                    if (said := last_line(why or error)).startswith(MISTAKE):
                        raise ConfigError(said.removeprefix(MISTAKE)) from error
                    lost = "" if why else f"a process was lost {STARTS} times while it loaded: "
                    raise ReplicaDied(f"{self.id} does not start: {lost}{said}") from error
        self.fleet.serving(self)

    async def _meet(self) -> None:
        """Return when the actor is ready."""
        self.node, self.where = await self.actor.ready.remote()

    async def _end(self) -> list[Any]:
        """Kill all actors; returns what their calls have come to, if that may say why they ended."""
        self.close()
        return []

    async def restart(self) -> None:
        """Wait until the replica serves again, on its node or on another one that has room.

        Raises ReplicaDied when no replica of its kind has served for fleet.timeout_s; this one may then still join.
        """
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
        """True if the actor does not answer, or its compute thread is stuck; False if it is dead or restarting."""
        timeout = self.fleet.timeout
        try:
            async with asyncio.timeout(timeout):
                busy, beats = await self.actor.pulse.remote()
        except TimeoutError:
            return True
        except RayError:
            return False
        return bool(busy > pulse.limit(timeout, beats))

    async def finish(self, patience: float) -> None:
        """Let a scorer end what it was asked for, for so many seconds: what its rewards paid for is kept then."""
        if self.kind == "scorer" and self.where and self.actors:
            with suppress(RayError, TimeoutError):
                async with asyncio.timeout(patience + 1):
                    await self.actor.finish.remote(patience)

    def close(self) -> None:
        """Kill the actors."""
        for actor in reversed(self.actors):
            ray.kill(actor)
        self.actors = []


@dataclass
class RayGang(RayReplica):
    """A replica of several actors, the ranks of a gang: when one is lost, all start anew."""

    _following: list[Any] = field(default_factory=list)  # calls that end with the followers

    async def _meet(self) -> None:
        """Tell the ranks where to find each other; returns when rank 0 is ready."""
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
        """Kill all ranks; returns what the followers' calls returned or raised."""
        self.close()
        ends, self._following = self._following, []
        return await asyncio.gather(*ends, return_exceptions=True)


def _is_fault(error: object) -> bool:
    """True for an error of code in an actor, and not of Ray or of another rank's loss: it would come again."""
    if isinstance(error, RayTaskError):
        return not isinstance(error.cause, ReplicaDied)
    return isinstance(error, RayActorError) and error.actor_init_failed


def mapped(error: RayError) -> Exception:
    """The error of raysearch, or of the worker, that an error of Ray stands for."""
    if isinstance(error, GONE):
        return ReplicaDied(first_line(error))
    if isinstance(error, ObjectLostError):
        return InputLost(first_line(error))
    if isinstance(error, RayTaskError):
        cause = error.cause
        return mapped(cause) if isinstance(cause, RayError) else cause
    return error


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where Ray puts the error of an actor's constructor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
