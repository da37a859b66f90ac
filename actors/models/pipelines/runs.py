"""Runs of a pipeline in a denoiser, of which each stops at its next forward, so that these are evaluated together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from actors.models.pipelines import batch
from actors.models.pipelines.call import arguments
from actors.models.pipelines.parts import pipeline
from actors.models.pipelines.run import Forward, Point, Run, Tree
from actors.models.pipelines.shell import shell
from actors.models.pipelines.state import Conditions, PipelineState, unpack
from actors.models.source import Source
from actors.sampling import caches, potential
from actors.sampling.solvers import neighbour, noised
from raysearch.config import step_cache
from raysearch.engine.protocol import Denoise, Start, series
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.origins import Branch, Jitter, Neighbour, Perturb, Push, Renoise


class RunLeg:
    """A leg of a pipeline's run, from its entry to `until`."""

    def __init__(self, run: Run, cache: step_cache.StepCache | None = None) -> None:
        self.run, self.nfe = run, 0
        self.error: Exception | None = None
        self._cache = cache if isinstance(cache, step_cache.Taylor) else None
        self._memories: dict[int, tuple[caches.Taylor, Any]] = {}  # of each of a step's forwards, and its output's form

    @property
    def finished(self) -> bool:
        """True if the leg is done, or failed on its own."""
        return self.error is not None or self.run.finished

    def answer(self, output: Tree) -> None:
        """Give the waiting forward its output. An error of the pipeline's own code is this leg's alone."""
        assert self.run.waiting is not None
        self.nfe += batch.rows(self.run.waiting)
        if self._cache is not None:
            leaves, form = tree_flatten(output)
            memory, _ = self._memories.setdefault(self.run.place, (caches.Taylor(self._cache), form))
            memory.see(self.run.step, leaves)
        self._give(output)
        while self._cache is not None and self.error is None and self.run.waiting is not None:
            if (known := self._known()) is None:
                break
            self._give(known)

    def _known(self) -> Tree | None:
        """The output of the waiting forward, if the step cache has it."""
        if self.run.place not in self._memories:
            return None
        memory, form = self._memories[self.run.place]
        known = memory.known(self.run.step)
        return None if known is None else tree_unflatten(known, form)

    def _give(self, output: Tree) -> None:
        try:
            self.run.answer(output)
        except Exception as error:
            self.error = error

    def to_state(self) -> PipelineState:
        """The state at the end of the leg. Raises FloatingPointError if it is not finite, or the leg's own error."""
        if self.error is not None:
            raise self.error
        return PipelineState.of(self.run.point())

    def abandon(self) -> None:
        """End the pipeline's call where it stands."""
        self.run.abandon()


class Runs:
    """The denoising nets of a pipeline for a denoiser."""

    def __init__(self, source: Source) -> None:
        self._pipeline = pipeline(source, "denoiser")
        self._device = source.device

    def admit(self, request: Denoise, inputs: Mapping[str, Any]) -> RunLeg:
        """A leg that goes on from its base state, or begins with its origin; it waits for its first forward."""
        conditions: Conditions = inputs["text"]
        base = inputs["base"].point(self._device) if "base" in inputs else None
        generator = torch.Generator()
        start = request.start
        if start is not None:
            generator.manual_seed(start.key)
            if base is not None:
                base = moved(base, inputs, start, request, generator)
        call = arguments(type(self._pipeline), request.sampler, conditions.caption, conditions.pictures, decoded=False)
        run = Run(
            partial(shell, self._pipeline, request.sampler.guidance_scale),
            call,
            until=request.until,
            generator=generator,
            encoded=unpack(conditions.encoded, self._device),
            base=base,
            estimate=request.velocity,
            device=self._device,
        )
        return RunLeg(run, step_cache.cache_of(request.sampler))

    def advance(self, legs: Sequence[RunLeg]) -> None:
        """Evaluate the forward that each leg waits for, in as few batches as their shapes allow."""
        waiting = [leg for leg in legs if leg.error is None and leg.run.waiting is not None]
        forwards: list[Forward] = [leg.run.waiting for leg in waiting if leg.run.waiting is not None]
        for members in batch.groups(forwards):
            together = [forwards[i] for i in members]
            joined = batch.joined(together)
            output = getattr(self._pipeline, joined.part)(*joined.args, **joined.kwargs)
            for i, own in zip(members, batch.split(output, [batch.rows(f) for f in together]), strict=True):
                waiting[i].answer(own)


def moved(point: Point, inputs: Mapping[str, Any], start: Start, request: Denoise, generator: torch.Generator) -> Point:
    """The point of an origin: a change of the latents of its parent's point, with noise from the generator.

    At step 0 the latents are what `prepare_latents` returned, later what the schedulers returned. Where a pipeline has
    several latents, such as video and sound, each is changed alike with noise of its own; obstacles push the first one.
    """
    s, how, from_step = request.sampler, start.how, start.from_step
    level = s.sigmas[from_step] if s.path == "ve" else 1.0  # where noise has not the scale of one

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator).to(x.device)

    def change(x: torch.Tensor) -> torch.Tensor:
        match how:
            case Perturb(beta):
                return (1 - beta**2) ** 0.5 * x + beta * level * noise(x)
            case Jitter(std):
                return x + std * level * noise(x)
            case Neighbour(cosine):
                return neighbour(x, cosine, noise(x))
            case Renoise():
                return renoised(x, s, from_step, request.step, noise(x))
        raise ValueError(f"a pipeline has no origin {how}")

    found = replace(point, generator=generator.get_state())
    if isinstance(how, Branch):
        return found
    found = replace(found, outputs=None, estimates=None)
    if isinstance(how, Renoise) and request.step == 0:
        latents = [change(_tensors(r)[0].float()) for r in point.results]
        if [x.shape for x in latents] != [_tensors(t)[0].shape for t in point.start]:
            raise ValueError(
                "this pipeline's latent has another shape at first than later: it is noised to step 1 at most"
            )
        begun = tuple(_with(t, lambda _, x=x: x) for t, x in zip(point.start, latents, strict=True))  # type: ignore[misc]
        return replace(found, step=0, start=begun, results=(), states=())
    if isinstance(how, Push):
        obstacles = potential.group(how.layout, [torch.tensor(p.latent) for p in series(inputs, "point")])
        away = potential.push(inputs["base"].x0(s.sigmas[point.step]), obstacles, how.eta, how.reach, how.h)
        first, *others = point.results if point.step else point.start
        pushed = (_with(first, lambda x: x + away.to(x.device)), *others)
        return replace(found, results=pushed, states=None) if point.step else replace(found, start=pushed)
    if point.step == 0:
        return replace(found, start=tuple(_with(t, change) for t in point.start))
    results = tuple(_with(t, change) for t in point.results)
    return replace(found, step=request.step, results=results, states=None)


def renoised(x: torch.Tensor, sampler: Sampler, step: int, to_step: int, noise: torch.Tensor) -> torch.Tensor:
    """The forward kernel from the level of `step` up to that of `to_step`, as `solvers.Solver.renoise` has it."""
    levels = sampler.sigmas[step], sampler.sigmas[to_step]
    (s, a), (s_to, a_to) = (torch.tensor([v, alpha(sampler.path, v)], dtype=torch.float64) for v in levels)
    return noised(x, a_to / a, s, s_to, noise)


def alpha(path: str, sigma: float) -> float:
    """The factor of x0 in a noisy latent at a level, by the path of the noise."""
    return {"flow": 1 - sigma, "vp": max(1 - sigma**2, 0.0) ** 0.5, "ve": 1.0}[path]


def _tensors(tree: Tree) -> list[torch.Tensor]:
    return [v for v in tree_flatten(tree)[0] if isinstance(v, torch.Tensor)]


def _with(tree: Tree, change: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    """A tree whose first tensor is changed, in float32, and then has its own dtype again."""
    leaves, spec = tree_flatten(tree)
    i = next(i for i, v in enumerate(leaves) if isinstance(v, torch.Tensor))
    leaves[i] = change(leaves[i].float()).to(leaves[i].dtype)
    return tree_unflatten(leaves, spec)
