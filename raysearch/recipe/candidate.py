"""A candidate is its recipe: a small frozen value that says how a partially denoised latent is made.

It knows nothing of tensors, models or machines. Recipes are hash-consed: equal recipes are the same object, so they
compare by identity, live in weak tables, and a chain of thousands of origins costs nothing to hash.

Two digests (blake2b, 128 bits, over a canonical encoding). *Lineage* covers origins and steps, but no prompt, sampler
or arm: it keys noise, so that every prompt and arm sees common random numbers. *Identity* covers everything: it keys
what is stored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

from raysearch.errors import check
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.long_video import Queue
from raysearch.recipe.origins import Derived, Invert, Lookahead, Origin, Recording


@dataclass(frozen=True)
class Prompt:
    """What a video should show: a caption, and for image-to-video a first frame, maybe a last one, too.

    The chunks of a long video may each have a caption of their own: `later` are the captions after the first chunk's.
    """

    text: str
    image: Recording | None = None
    later: tuple[str, ...] = ()
    last: Recording | None = None
    tags: Mapping[str, str | None] = field(default_factory=dict, compare=False)  # what is known of it besides

    @cached_property
    def identity(self) -> Digest:
        """The digest of the captions and of the frames."""
        image = self.image.parts if self.image else (None,)
        last = ("last", *self.last.parts) if self.last else ()
        return digest("prompt", self.text, *image, *((self.later,) if self.later else ()), *last)

    def caption(self, chunk: int) -> str:
        """The caption of a chunk; every chunk has the first one where no later ones are given."""
        return self.later[chunk - 1] if chunk and self.later else self.text

    @property
    def title(self) -> str:
        """All captions in one line."""
        return " | ".join((self.text, *self.later))


@dataclass(frozen=True)
class Sampler:
    """What makes a trajectory what it is, prompt and noise aside.

    `model` is the content digest of the weights and `fingerprint` names what can change bits: dtype, device type,
    sharding, batching, library versions. `sigmas` has num_steps + 1 entries, from noise to clean.
    """

    model: bytes
    name: str
    num_steps: int
    sigmas: tuple[float, ...]
    guidance_scale: float = 5.0
    flow_shift: float | None = None
    negative_prompt: str = ""
    height: int = 480
    width: int = 832
    num_frames: int = 81
    max_sequence_length: int = 512
    batched_guidance: bool = False
    stochastic: bool = False
    eta: float | None = None
    interpolant: str = "linear"
    path: str = "flow"  # of the model: a clean latent counts 1 - sigma at a level, with "vp" sqrt(1 - sigma^2), else 1
    fingerprint: str = ""
    queue: Queue | None = None
    call: str | None = None  # of a whole pipeline: more arguments of its call, as canonical JSON
    nfe: int | None = None  # evaluations of one step; None: what guidance says
    guidance_scale_2: float | None = None  # of the second of two experts; None: that of the first
    cache: str | None = None  # of a draft: its step cache, see raysearch.config.step_cache, as canonical JSON
    cached_nfe: int | None = None  # evaluations of all steps with the step cache, at most
    caches: tuple[str, ...] = ()  # the kinds of step caches that the model's drafts can have

    def __post_init__(self) -> None:
        assert len(self.sigmas) == self.num_steps + 1

    @cached_property
    def identity(self) -> Digest:
        """The digest of all fields."""
        late = ("queue", "call", "nfe", "guidance_scale_2", "cache", "cached_nfe", "caches")
        own = [getattr(self, f.name) for f in fields(self) if f.name not in late]
        second = (self.guidance_scale_2,) if self.guidance_scale_2 is not None else ()
        of_pipeline = (self.call, self.nfe, self.guidance_scale_2) if self.call is not None else second
        last = (*of_pipeline, *((("cache", self.cache),) if self.cache else ()))
        return digest("sampler", *own, *((astuple(self.queue),) if self.queue else ()), *last)

    @property
    def whole(self) -> "Sampler":
        """This sampler for an ordinary clip: full noise schedule, no queue."""
        if self.queue is None:
            return self
        return replace(self, num_steps=self.queue.num_steps, sigmas=self.queue.levels, queue=None)

    def of_queue(self, queue: Queue, part: int) -> "Sampler":
        """This sampler for one part of a queue: as many steps as the part has iterations."""
        n = queue.iterations(part)
        return replace(self.whole, num_steps=n, sigmas=(queue.levels[0],) * n + (0.0,), queue=queue)

    @property
    def piped(self) -> bool:
        """True if a whole pipeline runs, with its own solver and guidance, instead of a model of latents."""
        return self.call is not None

    def scale(self, expert: int) -> float:
        """The guidance scale of one of a model's experts, by its number."""
        return self.guidance_scale if expert == 0 or self.guidance_scale_2 is None else self.guidance_scale_2

    @property
    def guided(self) -> bool:
        """True if classifier-free guidance is on."""
        return self.guidance_scale > 1

    @property
    def nfe_per_step(self) -> int:
        """Transformer evaluations of one step: guidance evaluates twice."""
        return self.nfe or (2 if self.guided else 1)

    def nfe_of(self, evaluations: int) -> int:
        """The NFE of so many evaluations under one text; a draft with a step cache makes all of its own or none."""
        return self.cached_nfe if self.cached_nfe is not None and evaluations else evaluations * self.nfe_per_step


@dataclass(frozen=True, eq=False, init=False)
class Candidate:
    """`origin`, denoised under `sampler` and `prompt` until `step` solver steps of the grid are done.

    In a long video, `part` counts the finished parts before it and `link` is the origin that began this part, None in
    the first; what else there is to know of a part is in `raysearch.recipe.long_video`.
    """

    prompt: Prompt
    sampler: Sampler
    origin: Origin
    step: int
    lineage: Digest
    identity: Digest
    trajectory: Digest  # the identity without the step
    part: int
    link: Derived | None

    def __new__(cls, prompt: Prompt, sampler: Sampler, origin: Origin, step: int | None = None) -> "Candidate":
        """The one candidate of this recipe; `step` is the origin's own by default."""
        step = origin.step if step is None else step
        trajectory = digest(prompt.identity, sampler.identity, origin.identity)
        identity = digest(trajectory, step)
        known = _candidates.get(identity)
        if known is not None:
            return known
        part, link = 0, None
        if isinstance(origin, Derived):
            begins = origin.how.begins_part
            part, link = origin.parent.part + begins, origin if begins else origin.parent.link
        new = super().__new__(cls)
        vars(new).update(
            prompt=prompt,
            sampler=sampler,
            origin=origin,
            step=step,
            lineage=digest(origin.lineage, step),
            identity=identity,
            trajectory=trajectory,
            part=part,
            link=link,
        )
        _candidates[identity] = new
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return Candidate, (self.prompt, self.sampler, self.origin, self.step)

    def __repr__(self) -> str:
        return f"Candidate({self.prompt.text!r}, {self.origin.describe()}, step {self.step})"

    @property
    def id(self) -> str:
        """The identity in hexadecimal, as tables and the journal name the candidate."""
        return self.identity.hex()

    @property
    def sigma(self) -> float:
        """The noise level at its step."""
        return self.sampler.sigmas[self.step]

    @property
    def finished(self) -> bool:
        """True if every solver step is done."""
        return self.step == self.sampler.num_steps

    @property
    def parent(self) -> "Candidate | None":
        """The candidate that its origin changes; None for fresh noise."""
        return self.origin.parent

    def ancestors(self) -> Iterator["Candidate"]:
        """The parent of the origin, its parent, and so on."""
        c = self.parent
        while c is not None:
            yield c
            c = c.parent


# Recipes are pure values, so sharing equal ones can be seen by nobody; the table holds them weakly.
_candidates: "WeakValueDictionary[Digest, Candidate]" = WeakValueDictionary()


def denoise(c: Candidate, until: int) -> Candidate:
    """The same trajectory at step `until`; denoising in one go or in legs is the same candidate."""
    check(c.step <= until <= c.sampler.num_steps, "denoise until", until, f"in {c.step}..{c.sampler.num_steps}")
    return Candidate(c.prompt, c.sampler, c.origin, until)


def rebase(c: Candidate, sampler: Sampler) -> Candidate:
    """The step-0 start of `c` under another sampler (draft, then commit); origins of later steps are dropped.

    In a long video the start is that of its chunk, after the same chunks.
    """
    assert c.sampler.queue is None
    origins = [c.origin]
    while origins[-1].parent is not None and not origins[-1].how.begins_part:
        origins.append(origins[-1].parent.origin)
    first, *later = reversed(origins)
    rebased = Candidate(c.prompt, sampler, first)
    for origin in later:
        assert isinstance(origin, Derived)
        if origin.step > 0 or origin.parent.step > 0 or origin.how.keeps_velocity:
            break
        rebased = Candidate(c.prompt, sampler, replace(origin, parent=rebased))
    return rebased


def ahead(c: Candidate, steps: int) -> Candidate:
    """The finished candidate that `steps` deterministic Euler steps along the rest of the grid make of `c`."""
    rest = c.sampler.num_steps - c.step
    check(1 <= steps <= rest, "the steps of a lookahead", steps, f"in 1..{rest}, the steps that are left")
    stops = [c.step + round(i * rest / steps) for i in range(steps + 1)]
    sampler = replace(
        c.sampler,
        name="lookahead",
        num_steps=steps,
        sigmas=tuple(c.sampler.sigmas[i] for i in stops),
        stochastic=False,
        eta=None,
        interpolant="linear",
    )
    return Candidate(c.prompt, sampler, Derived(c, 0, Lookahead()), steps)


def invert(c: Candidate, guidance_scale: float) -> Candidate:
    """The noise that the ODE's Euler steps lead back to from a finished candidate, along its own grid."""
    assert c.finished
    whole = c.sampler.whole
    sampler = replace(
        whole,
        name="inversion",
        sigmas=whole.sigmas[::-1],
        guidance_scale=guidance_scale,
        stochastic=False,
        eta=None,
        interpolant="linear",
    )
    return Candidate(c.prompt, sampler, Derived(c, 0, Invert()), sampler.num_steps)
