"""Where a candidate's latent comes from: fresh noise, or a change of a parent's latent. No tensors and no effects.

An origin has a *lineage*, which keys its noise and knows no prompt and no sampler, and an *identity*, which covers
everything. How a derived origin changes its parent is a small value of numbers, a `How`: the denoiser is told that
value, and no candidate. A new origin is a `How` here, a verb in `search/context.py` that makes it, and a case in
`actors/workers/clips.py` that computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from raysearch.recipe.digests import Digest, digest, noise_key

if TYPE_CHECKING:
    from raysearch.recipe.candidate import Candidate

Space: TypeAlias = Literal["latent", "features"]
Fit: TypeAlias = Literal["crop", "pad", "stretch"]
Layout: TypeAlias = tuple[tuple[Space, int], ...]  # of each obstacle, its space and the number of its points


@dataclass(frozen=True)
class Noise:
    """Fresh Gaussian noise. Index 0 of the main scope is the noise that diffusers draws for `seed`."""

    seed: int
    index: int
    scope: str = ""

    parent = None
    step = 0
    reads = ()
    kind = "noise"
    needs_velocity = keeps_velocity = begins_part = False

    @property
    def how(self) -> "Noise":
        """Fresh noise is described by its own numbers."""
        return self

    @cached_property
    def lineage(self) -> Digest:
        """The digest of seed, index and scope."""
        return digest("noise", self.seed, self.index, self.scope)

    @property
    def identity(self) -> Digest:
        """The lineage: fresh noise depends on nothing else."""
        return self.lineage

    @property
    def key(self) -> int:
        """The seed of a torch generator on the CPU, whose float32 normals are this noise."""
        if self.index == 0 and not self.scope:
            return self.seed
        return noise_key(self.lineage, "noise")

    def describe(self) -> dict[str, Any]:
        """Plain values for the tables."""
        return {"kind": "noise", "seed": self.seed, "index": self.index} | ({"scope": self.scope} if self.scope else {})


# -- how a parent's latent x is changed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class How:
    """A change of a parent's latent, in numbers. Solver state starts afresh unless a subclass says otherwise."""

    needs_velocity: ClassVar[bool] = False  # the change reads the velocity at the parent's point
    keeps_velocity: ClassVar[bool] = False  # the child stands at the parent's point, whose velocity is still its own
    begins_part: ClassVar[bool] = False  # the child is the next part of a long video

    @property
    def kind(self) -> str:
        """The name of the change in tables, digests and noise keys."""
        return type(self).__name__.lower()

    def step(self, parent: int) -> int:
        """The solver step at which the child stands, for a parent at step `parent`."""
        return parent

    def numbers(self) -> tuple[object, ...]:
        """What the lineage covers of this value."""
        return tuple(getattr(self, f.name) for f in fields(self))

    def lineages(self, reads: "Sequence[Candidate | Recording]") -> tuple[object, ...]:
        """What the lineage covers of the other inputs."""
        return ()

    def identities(self, reads: "Sequence[Candidate | Recording]") -> tuple[object, ...]:
        """What the identity covers of the other inputs, beyond `lineages`."""
        return ()

    def describe(self, reads: "Sequence[Candidate | Recording]") -> dict[str, Any]:
        """Plain values for the tables."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Perturb(How):
    """sqrt(1 - beta^2) x + beta eps."""

    beta: float


@dataclass(frozen=True)
class Neighbour(How):
    """A latent of the same norm at a given cosine to x, in a random direction."""

    cosine: float


@dataclass(frozen=True)
class Jitter(How):
    """x + std eps."""

    std: float


@dataclass(frozen=True)
class Renoise(How):
    """The forward kernel: x with more noise, at the level of the earlier step `to_step`."""

    to_step: int

    def step(self, parent: int) -> int:
        """The earlier step."""
        return self.to_step


@dataclass(frozen=True)
class Branch(How):
    """The same latent and solver state, with other noise from here on: for stochastic solvers only."""

    keeps_velocity = True


@dataclass(frozen=True)
class Lookahead(How):
    """The same latent at the head of another, deterministic grid."""

    needs_velocity = keeps_velocity = True

    def step(self, parent: int) -> int:
        """The first step of the other grid."""
        return 0


@dataclass(frozen=True)
class Invert(How):
    """The parent's finished latent at the clean end of a grid that rises to noise: the ODE run backward."""

    def step(self, parent: int) -> int:
        """The first step of the rising grid."""
        return 0


@dataclass(frozen=True)
class Push(How):
    """x - h grad U_rep, the gradient that of the x0 prediction at the parent's point.

    Each obstacle of the layout has its own eta and reach, Q*. The origin reads the obstacles' points in that order.
    Like a prompt, obstacles are no part of the lineage.
    """

    eta: tuple[float, ...]
    reach: tuple[float, ...]
    h: float
    layout: Layout

    needs_velocity = True

    def numbers(self) -> tuple[object, ...]:
        """The etas, the reaches and the step size; the layout is in the identity of the obstacles."""
        return self.eta, self.reach, self.h

    def identities(self, reads: "Sequence[Candidate | Recording]") -> tuple[object, ...]:
        """The identities of the obstacles."""
        return tuple(o.identity for o in grouped(self.layout, reads))

    def describe(self, reads: "Sequence[Candidate | Recording]") -> dict[str, Any]:
        """Plain values for the tables."""
        seen = tuple((o.space, tuple(p.identity.hex() for p in o.points)) for o in grouped(self.layout, reads))
        return {"eta": self.eta, "reach": self.reach, "h": self.h, "obstacles": seen}


@dataclass(frozen=True, kw_only=True)
class _Link(How):
    """The next part of a long video after the finished parent: noise yet.

    The noise is fresh. Below a frequency `cutoff`, in space alone or also in time (`dims` 2 or 3), it is the parent's
    latent (frequency mixing). An origin that reads a candidate takes that candidate's latent as its noise.
    """

    cutoff: float = 0.0
    dims: int = 3

    begins_part = True

    def step(self, parent: int) -> int:
        """The first step of the next part."""
        return 0

    def lineages(self, reads: "Sequence[Candidate | Recording]") -> tuple[object, ...]:
        return tuple(c.lineage for c in reads if not isinstance(c, Recording)) or (None,)

    def identities(self, reads: "Sequence[Candidate | Recording]") -> tuple[object, ...]:
        return tuple(c.identity for c in reads)

    def describe(self, reads: "Sequence[Candidate | Recording]") -> dict[str, Any]:
        return super().describe(reads) | {"start": reads[0].identity.hex() if reads else None}


@dataclass(frozen=True, kw_only=True)
class Extend(_Link):
    """A chunk: noise to denoise beside the parent's last `prefix` latent frames, kept clean.

    With `anew` the prefix is encoded from the parent's last decoded frames.
    """

    prefix: int
    anew: bool = False

    def numbers(self) -> tuple[object, ...]:
        """Prefix, anew, cutoff and dims: the order of the digests of earlier versions."""
        return self.prefix, self.anew, self.cutoff, self.dims


@dataclass(frozen=True, kw_only=True)
class Slide(_Link):
    """A queue's iterations (FIFO-Diffusion): a frame of noise enters its tail before each, clean frames leave its head.

    This value is about the first frame that enters; the noise of the others is keyed by the lineage, as an SDE's is.
    """


# -- origins of a parent ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Derived:
    """A change of a parent's latent with noise of its own.

    `ordinal` counts the parent's children in their search, and `scope` names the concurrent subtree of the search.
    `reads` are the inputs besides the parent: candidates or recordings whose latents this origin reads.
    """

    parent: "Candidate"
    ordinal: int
    how: How
    scope: str = ""
    reads: "tuple[Candidate | Recording, ...]" = ()

    @property
    def step(self) -> int:
        """The solver step at which the child stands before it is denoised."""
        return self.how.step(self.parent.step)

    @cached_property
    def lineage(self) -> Digest:
        """The digest of kind, parent's lineage, ordinal, scope and numbers; it keys the noise of later steps."""
        how = self.how
        return digest(
            how.kind, self.parent.lineage, self.ordinal, self.scope, *how.numbers(), *how.lineages(self.reads)
        )

    @cached_property
    def identity(self) -> Digest:
        """The same over the parent's identity, and the identities of the other inputs."""
        how, reads = self.how, self.reads
        own = (self.ordinal, self.scope, *how.numbers(), *how.lineages(reads), *how.identities(reads))
        return digest(how.kind, self.parent.identity, *own)

    @property
    def key(self) -> int:
        """The seed of this origin's own noise; it does not depend on beta or the like, so arms share it."""
        return noise_key(digest(self.parent.lineage, self.ordinal, self.scope), self.how.kind)

    def describe(self) -> dict[str, Any]:
        """Plain values for the tables."""
        own = {"kind": self.how.kind, "parent": self.parent.id, "ordinal": self.ordinal}
        return own | self.how.describe(self.reads) | ({"scope": self.scope} if self.scope else {})


Origin: TypeAlias = Noise | Derived


# -- obstacles -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A picture or a clip in a file, the digest of its bytes, and how it is brought to the shape of a video.

    A `still` is one picture: of a file with several it is the first one. `fit` says what happens to another aspect
    ratio, and `background` is the colour behind transparent pixels and beside a padded picture.
    """

    path: str
    content: bytes
    still: bool = True
    fit: Fit = "crop"
    background: str = "black"

    @property
    def parts(self) -> tuple[object, ...]:
        """What identifies it: the content, and how it is shown if that is not by default."""
        how = (self.still, self.fit, self.background)
        return (self.content,) if how == (True, "crop", "black") else (self.content, how)

    @cached_property
    def identity(self) -> Digest:
        """The digest of the content and of how it is shown; the path is no part of it."""
        return digest("recording", *self.parts)


@dataclass(frozen=True)
class Obstacle:
    """What videos keep away from: the nearest of `points`, finished candidates and files, as seen in `space`."""

    points: "tuple[Candidate | Recording, ...]"
    space: Space = "latent"

    @cached_property
    def identity(self) -> Digest:
        """The digest of the space and the points."""
        return digest("obstacle", self.space, *(p.identity for p in self.points))


def layout(obstacles: Sequence[Obstacle]) -> Layout:
    """Of each obstacle, its space and the number of its points."""
    return tuple((o.space, len(o.points)) for o in obstacles)


def points(obstacles: Sequence[Obstacle]) -> "tuple[Candidate | Recording, ...]":
    """The points of all obstacles, in the order of their layout."""
    return tuple(p for o in obstacles for p in o.points)


def grouped(laid: Layout, found: "Sequence[Candidate | Recording]") -> list[Obstacle]:
    """The obstacles of a layout, given the points of all."""
    rest = iter(found)
    return [Obstacle(tuple(islice(rest, n)), space) for space, n in laid]
