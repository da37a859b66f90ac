"""What the engine asks of the world: requests and their replies, the replicas that run them, fleets of replicas.

Ray hides behind these protocols; fakes are in `raysearch.testing`. A state, which is what a denoiser makes, and a
condition, which is what an encoder makes, are references here: the engine never looks into either.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import Digest
from raysearch.recipe.long_video import Link
from raysearch.recipe.origins import How, Layout, Noise, Recording

Components: TypeAlias = dict[str, tuple[float, ...]]  # of each reward, by its key

# -- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """How a denoiser makes an origin: what is done to the base state, the seed of the noise, the base state's step."""

    how: Noise | How
    key: int
    from_step: int = 0
    carries: bool = True  # of a queue: the frames that left it before stay with the state


@dataclass(frozen=True)
class QueuePart:
    """The part of a queue that a leg denoises, and the chunks whose captions its frames go by."""

    part: int
    captions: tuple[int, ...]


@dataclass(frozen=True)
class Denoise:
    """One leg of a trajectory, from `step` to `until`.

    With `start` the leg begins with its origin, else it goes on from the base state. With `velocity` the model is
    evaluated at the end point, too. `lineage` keys the noise of stochastic steps.

    Inputs: `base` (a state; none for fresh noise), `text`, `negative` and `first` (conditions), `point 0`, `point 1` ..
    (what the origin reads); of a queue in place of `text` a condition for each caption, `text 0`, `text 1` ..
    """

    kind: ClassVar[str] = "denoiser"
    sampler: Sampler
    lineage: Digest
    step: int
    until: int
    velocity: bool = False
    start: Start | None = None
    queue: QueuePart | None = None


@dataclass(frozen=True)
class Look:
    """Rewards of a candidate at its own point, at noise level `sigma`, under its caption.

    `links` says how its chunk goes on from the one before it; `earlier` names the finished chunks that the inputs of
    the same names hold. `tags` are what is known of the prompt besides. With `preview` the reply
    shows what was decoded.

    Inputs: `state 0`; `text 0` (a condition, if a reward reads it); `point 0` .. (of the obstacles of the layout);
    `before` and `opening` (states).
    """

    kind: ClassVar[str] = "scorer"
    rewards: tuple[str, ...]
    captions: tuple[str]
    links: tuple[Link | None]
    sigma: float
    obstacles: Layout = ()
    earlier: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str | None] = field(default_factory=dict)
    preview: bool = False


@dataclass(frozen=True)
class Compare:
    """Rewards that compare two candidates of one caption, each at its own point, at these noise levels.

    Inputs: `state 0` and `state 1`; `text 0` and `text 1` (conditions, of whole pipelines).
    """

    kind: ClassVar[str] = "scorer"
    rewards: tuple[str, ...]
    captions: tuple[str]
    sigmas: tuple[float, float]
    tags: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Which files of a winner are made, frames per second of the video, pixels per pixel of it, and what it says.

    `previews` are those of candidates, of which the search's sprite is made from top to bottom; it has none without.
    """

    mp4: bool = False
    png: bool = False
    safetensors: bool = False
    npy: bool = False
    fps: Fraction = Fraction(8)
    scale: int = 1
    title: str = ""
    comment: str = ""
    poster: bool = False
    previews: tuple[bytes, ...] = ()

    @property
    def asked(self) -> list[str]:
        """The extensions of the files that are made, and made again where they lack: not poster and previews."""
        return [k for k in ("mp4", "png", "safetensors", "npy") if getattr(self, k)]


@dataclass(frozen=True)
class Finish:
    """Rewards of a finished video's chunks, each under its caption, and the files of the video.

    `kept` are the step and the noise level of each state on the way that goes into the file of latents.

    Inputs: `state 0` .. (of the parts that hold the video's frames), `text 0` .. (of the captions), `point 0` ..,
    `kept 0` .. (states).
    """

    kind: ClassVar[str] = "scorer"
    rewards: tuple[str, ...]
    captions: tuple[str, ...]
    links: tuple[Link | None, ...]
    outputs: Outputs
    obstacles: Layout = ()
    kept: tuple[tuple[int, float], ...] = ()
    tags: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """A caption or a negative prompt, padded or cut to `length` tokens."""

    text: str
    length: int


@dataclass(frozen=True)
class File:
    """A picture as a first frame (`image`), or a picture or clip as a latent (`video`), brought to the model's size.

    The file's bytes, `data`, are read when the request is sent.
    """

    what: Literal["image", "video"]
    recording: Recording
    size: tuple[int, int, int]  # frames, height, width
    data: bytes = b""


@dataclass(frozen=True)
class Prefix:
    """The last frames of a finished state as the first `frames` latent frames of the next chunk."""

    frames: int
    state: Digest


@dataclass(frozen=True)
class Whole:
    """All that a pipeline's run is conditioned on: the caption, the sampler's negative prompt, maybe pictures.

    Each picture is under the name of the argument of the pipeline's call that takes it.
    """

    text: str
    sampler: Sampler
    pictures: tuple[tuple[str, File], ...] = ()


What: TypeAlias = Text | File | Prefix | Whole  # that conditions are made of


@dataclass(frozen=True)
class Encode:
    """A condition to make. Input of a Prefix: `state`, the finished state that it names."""

    kind: ClassVar[str] = "encoder"
    what: What


Request: TypeAlias = Denoise | Look | Compare | Finish | Encode

# -- replies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Denoised:
    """NFE that were run, replica-seconds, and the bytes of the state that the answer refers to."""

    nfe: int
    seconds: float
    nbytes: int


@dataclass(frozen=True)
class Scored:
    """Rewards under each caption, decodes, replica-seconds without judging, and tokens that the rewards paid for.

    `preview` is a small picture of some frames, if one was asked for. The answer refers to files, if any.
    """

    rewards: tuple[Components, ...]
    decodes: int
    seconds: float
    tokens: int = 0
    preview: bytes = b""


@dataclass(frozen=True)
class Encoded:
    """The answer refers to the condition."""


Reply: TypeAlias = Denoised | Scored | Encoded


@dataclass(frozen=True)
class Call:
    """One item for a replica: a request, and references by name that the replica reads."""

    request: Request
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the request in messages."""
        return type(self.request).__name__.lower()


@dataclass(frozen=True)
class Answer:
    """A reply, and a reference to the big part, which the driver need not pull."""

    reply: Any
    ref: Any = None
    place: str = ""  # where it was made; filled in by the dispatcher


def numbered(name: str, refs: Sequence[Any]) -> dict[str, Any]:
    """Inputs of one kind by their names: `name 0`, `name 1` and so on."""
    return {f"{name} {i}": ref for i, ref in enumerate(refs)}


def series(inputs: Mapping[str, Any], name: str) -> list[Any]:
    """The inputs `name 0`, `name 1` and so on."""
    return [inputs[f"{name} {i}"] for i in range(len(inputs)) if f"{name} {i}" in inputs]


# -- who runs them ---------------------------------------------------------------------------------------------------


class Replica(Protocol):
    """One worker. Ray hides behind this protocol; fakes are in `raysearch.testing`."""

    id: str
    kind: str  # "denoiser", "scorer" or "encoder"
    node: str
    slots: int
    ahead: int  # items that it may hold beyond its slots, to begin with them at once when a slot is free

    async def run(self, call: Call) -> Answer:
        """Raises ReplicaDied, InputLost, or the error of the call. Cancelling it frees the slot soon."""
        ...

    async def ping(self) -> None:
        """Raises ReplicaDied when the replica is gone, which an idle one may be without anybody's notice."""
        ...

    async def restart(self) -> None:
        """Come back from death, however long that takes. Raises ReplicaDied when it cannot."""
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

    async def fetch(self, ref: Any) -> dict[str, Any]:
        """The files of a video by their extension, or the arrays of a finished state or of a condition by their names.

        A condition that arrays cannot hold has none.
        """
        ...

    def put(self, arrays: dict[str, Any]) -> Any:
        """A reference to a finished state of these arrays, for replicas to read."""
        ...

    def condition(self, what: Text | Whole, arrays: dict[str, Any]) -> Any:
        """A reference to the condition that was once made of `what`, of its arrays."""
        ...

    async def release(self, kind: str) -> None:
        """End all replicas of a kind for good, also those that were to join: others get their room."""
        ...
