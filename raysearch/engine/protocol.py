"""What the engine asks of the world: calls and their answers, replicas that run them, fleets of replicas.

Ray hides behind these; fakes of them are in `raysearch.testing`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Call:
    """One piece of work for a replica: the name of its method, small arguments, and references that it reads."""

    method: str
    arguments: dict[str, Any]
    inputs: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a replica returns: small metadata, and a reference to the big part (which the driver need not pull)."""

    meta: dict[str, Any]
    ref: Any = None
    place: str = ""  # where it was made; filled in by the dispatcher


class Replica(Protocol):
    """One worker. Ray hides behind this; fakes are in `raysearch.testing`."""

    id: str
    kind: str  # "denoiser", "scorer" or "encoder"
    node: str
    slots: int
    ahead: int  # items that it may hold beyond its slots, to begin with them at once when one is free

    async def run(self, call: Call) -> Answer:
        """Raises ReplicaDied, InputLost, or the error of the call. Cancelling it frees the slot soon."""
        ...

    async def ping(self) -> None:
        """Raises ReplicaDied when it is gone, which an idle one may be without anybody's notice."""
        ...

    async def restart(self) -> None:
        """Come back from death, however long that takes. Raises ReplicaDied when it cannot be."""
        ...


class Fleet(Protocol):
    """The replicas of a run, and how what they made is pulled and given back."""

    @property
    def replicas(self) -> Sequence[Replica]:
        """In service from the start."""
        ...

    def arrivals(self) -> AsyncIterator[Replica]:
        """Replicas that come into service later, as the cluster grows; iterated over once."""
        ...

    async def fetch(self, ref: Any) -> dict[str, Any]: ...

    def put(self, value: dict[str, Any]) -> Any:
        """A reference to a latent that was made earlier, for replicas to read."""
        ...
