"""Where a candidate's latent comes from: fresh noise, or what is done to a parent. No tensors, and no effects.

Each has a *lineage*, which keys its noise and knows no prompt or sampler, and an *identity*, which covers everything.
"""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from raysearch.recipe.digests import Digest, digest, noise_key

if TYPE_CHECKING:
    from raysearch.recipe.candidate import Candidate

Space: TypeAlias = Literal["latent", "features"]


@dataclass(frozen=True)
class Noise:
    """Fresh Gaussian noise. Index 0 of the main scope is the noise that diffusers draws for `seed`."""

    seed: int
    index: int
    scope: str = ""

    parent = None
    step = 0
    needs_velocity = False
    beside = ()

    @cached_property
    def lineage(self) -> Digest:
        return digest("noise", self.seed, self.index, self.scope)

    @property
    def identity(self) -> Digest:
        return self.lineage

    @property
    def key(self) -> int:
        """The seed of a torch generator on the CPU, whose float32 normals are this noise."""
        if self.index == 0 and not self.scope:
            return self.seed
        return noise_key(self.lineage, "noise")

    def describe(self) -> dict[str, Any]:
        return {"kind": "noise", "seed": self.seed, "index": self.index} | ({"scope": self.scope} if self.scope else {})


@dataclass(frozen=True, eq=False)
class _Derived:
    """Made from a parent candidate and its own noise; `ordinal` counts the parent's children in its search."""

    parent: "Candidate"
    ordinal: int
    scope: str = field(default="", kw_only=True)
    needs_velocity: ClassVar[bool] = False  # it is made with the velocity at the parent's point

    @property
    def beside(self) -> "tuple[Candidate | Recording, ...]":
        """What it is made of, beside its parent."""
        return ()

    def _arguments(self) -> tuple[object, ...]:
        return ()

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    @property
    def step(self) -> int:
        return self.parent.step

    @cached_property
    def lineage(self) -> Digest:
        return digest(self.kind, self.parent.lineage, self.ordinal, self.scope, *self._arguments())

    @cached_property
    def identity(self) -> Digest:
        return digest(self.kind, self.parent.identity, self.ordinal, self.scope, *self._arguments())

    @property
    def key(self) -> int:
        """The seed of this origin's own noise; it does not depend on beta or the like, so arms share it."""
        return noise_key(digest(self.parent.lineage, self.ordinal, self.scope), self.kind)

    def describe(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("parent", "scope")}
        return {"kind": self.kind, "parent": self.parent.id} | own | ({"scope": self.scope} if self.scope else {})


@dataclass(frozen=True, eq=False)
class Perturb(_Derived):
    """sqrt(1 - beta^2) x + beta eps, with fresh solver state."""

    beta: float

    def _arguments(self) -> tuple[object, ...]:
        return (self.beta,)


@dataclass(frozen=True, eq=False)
class Neighbour(_Derived):
    """A latent of the same norm at a given cosine, in a random direction, with fresh solver state."""

    cosine: float

    def _arguments(self) -> tuple[object, ...]:
        return (self.cosine,)


@dataclass(frozen=True, eq=False)
class Jitter(_Derived):
    """x + std eps, with fresh solver state."""

    std: float

    def _arguments(self) -> tuple[object, ...]:
        return (self.std,)


@dataclass(frozen=True, eq=False)
class Renoise(_Derived):
    """The forward kernel: back up the noise schedule to `to_step`, with fresh solver state."""

    to_step: int

    @property
    def step(self) -> int:
        return self.to_step

    def _arguments(self) -> tuple[object, ...]:
        return (self.to_step,)


@dataclass(frozen=True, eq=False)
class Branch(_Derived):
    """The same latent and solver state, with other noise from here on: for stochastic solvers only."""


@dataclass(frozen=True, eq=False)
class Lookahead(_Derived):
    """The same latent at the head of another, deterministic grid; the velocity at its point is the parent's."""

    needs_velocity = True

    @property
    def step(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class _Link(_Derived):
    """The next part of a long video, after the finished parent: noise yet.

    The noise is fresh; below a frequency `cutoff`, in space alone or also in time (`dims` 2 or 3), it is the parent's
    latent (frequency mixing), and with `start` it is that candidate's latent.
    """

    cutoff: float = field(default=0.0, kw_only=True)
    dims: int = field(default=3, kw_only=True)
    start: "Candidate | None" = field(default=None, kw_only=True)

    @property
    def step(self) -> int:
        return 0

    @property
    def beside(self) -> "tuple[Candidate | Recording, ...]":
        return () if self.start is None else (self.start,)

    def _arguments(self) -> tuple[object, ...]:
        return self.cutoff, self.dims, None if self.start is None else self.start.lineage

    @cached_property
    def identity(self) -> Digest:
        own = (self.ordinal, self.scope, *self._arguments())
        return digest(self.kind, self.parent.identity, *own, *(c.identity for c in self.beside))

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"start": None if self.start is None else self.start.id}


@dataclass(frozen=True, eq=False)
class Extend(_Link):
    """A chunk: noise to denoise beside the parent's last `prefix` latent frames, kept clean.

    With `anew` the prefix is encoded from the parent's last frames.
    """

    prefix: int
    anew: bool = False

    def _arguments(self) -> tuple[object, ...]:
        return self.prefix, self.anew, *super()._arguments()


@dataclass(frozen=True, eq=False)
class Slide(_Link):
    """A queue's iterations (FIFO-Diffusion): a frame of noise enters at its tail before each, clean ones leave it.

    The origin is about the first that enters; the noise of the others is keyed by the lineage, as an SDE's is.
    """


@dataclass(frozen=True, eq=False)
class Invert(_Derived):
    """The parent's finished latent at the clean end of a grid that rises to noise: the ODE run backward."""

    @property
    def step(self) -> int:
        return 0


@dataclass(frozen=True)
class Recording:
    """A picture or a clip in a file, and the digest of its bytes."""

    path: str
    content: bytes

    @cached_property
    def identity(self) -> Digest:
        return digest("recording", self.content)


@dataclass(frozen=True)
class Obstacle:
    """What to keep away from: the nearest of `points`, finished candidates and files, as seen in `space`."""

    points: "tuple[Candidate | Recording, ...]"
    space: Space = "latent"

    @cached_property
    def identity(self) -> Digest:
        return digest("obstacle", self.space, *(p.identity for p in self.points))


@dataclass(frozen=True, eq=False)
class Push(_Derived):
    """x - h grad U_rep, the gradient that of the x0 estimate at the parent's point, with fresh solver state.

    Each obstacle has its own eta and reach, Q*. Like a prompt, obstacles are no part of the lineage.
    """

    obstacles: tuple[Obstacle, ...]
    eta: tuple[float, ...]
    reach: tuple[float, ...]
    h: float

    needs_velocity = True

    @property
    def beside(self) -> "tuple[Candidate | Recording, ...]":
        return tuple(p for o in self.obstacles for p in o.points)

    def _arguments(self) -> tuple[object, ...]:
        return self.eta, self.reach, self.h

    @cached_property
    def identity(self) -> Digest:
        own = (self.parent.identity, self.ordinal, self.scope, *self._arguments())
        return digest(self.kind, *own, *(o.identity for o in self.obstacles))

    def describe(self) -> dict[str, Any]:
        seen = tuple((o.space, tuple(p.identity.hex() for p in o.points)) for o in self.obstacles)
        return super().describe() | {"obstacles": seen}


Origin: TypeAlias = Noise | Perturb | Neighbour | Jitter | Renoise | Branch | Lookahead | Push | Extend | Slide | Invert
