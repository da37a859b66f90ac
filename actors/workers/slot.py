"""What is in a denoiser's place: a candidate on its way, a clip or a queue of frames, one evaluation at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models import Given, with_first
from actors.sampling import solvers
from actors.workers.state import State
from raysearch.engine.protocol import Denoised
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import Digest, digest, noise_key
from raysearch.recipe.long_video import Window

Normal: TypeAlias = Callable[[Sequence[int], int], torch.Tensor]  # of a shape and a key


@dataclass(frozen=True)
class Row:
    """One evaluation: latents (1, C, T, H, W) at a timestep, () or one for each latent frame (T,).

    Under each of the texts, and beside what the video is given.
    """

    latent: torch.Tensor
    timestep: torch.Tensor
    texts: Sequence[torch.Tensor]
    first: Given = None


@dataclass(kw_only=True)
class Leg:
    """What clips and queues in a slot have in common. `lineage` is the origin's, and keys the noise of steps."""

    id: int
    sampler: Sampler
    solver: solvers.Solver
    lineage: Digest
    step: int
    until: int
    wants_velocity: bool
    done: "Future[tuple[Denoised, State]]"
    evaluations: int = 0
    seconds: float = 0.0

    def noise(self, normal: Normal, shape: Sequence[int], purpose: str) -> torch.Tensor:
        return normal(shape, noise_key(digest(self.lineage, self.step), purpose))


@dataclass(kw_only=True)
class Clip(Leg):
    """`velocity` is that of the current point, once it is known; `texts` the caption's and the negative prompt's."""

    latent: torch.Tensor
    state: solvers.State
    texts: list[torch.Tensor]
    first: Given
    velocity: torch.Tensor | None

    @property
    def finished(self) -> bool:
        return self.step == self.until and (not self.wants_velocity or self.velocity is not None)

    def row(self) -> Row | None:
        """What is to be evaluated next; None when a step can be taken."""
        if self.velocity is not None or self.finished:
            return None
        return Row(self.latent, self.solver.timesteps[self.step], self.texts, self.first)

    def receive(self, output: torch.Tensor) -> None:
        self.velocity = self.solver.velocity(output, self.latent, self.step)

    def advance(self, normal: Normal) -> None:
        """One step. All or nothing: memory may end on the way."""
        assert self.velocity is not None
        noise = self.noise(normal, self.latent.shape, "step") if self.sampler.stochastic else None
        latent, state = self.solver.step(self.state, self.velocity, self.latent, noise)
        if self.step + 1 == self.sampler.num_steps:
            latent = with_first(latent, self.first)
        self.latent, self.state, self.step, self.velocity = latent, state, self.step + 1, None

    def state_made(self) -> State:
        """The state at the current step."""
        return State(
            self.latent.cpu().numpy(),
            velocity=None if self.velocity is None else self.velocity.float().cpu().numpy(),
            solver=solvers.pack(self.state) if self.step < self.sampler.num_steps else None,
            first=None if self.first is None else _arrays(self.first),
        )


@dataclass(kw_only=True)
class Reel(Leg):
    """FIFO-Diffusion's queue: `frames` (1, C, T, H, W) are the latest clean ones, as many as a clip has, and the queue.

    `out` are the clean ones since the last part that is kept; `texts` are by caption. The velocities of an iteration
    come window by window, that of the tail first, and that alone is kept with a point.
    """

    part: int
    frames: torch.Tensor
    out: torch.Tensor
    texts: dict[int, list[torch.Tensor]]
    velocities: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.sampler.queue is not None
        self.queue = self.sampler.queue

    @property
    def iteration(self) -> int:
        return self.queue.begins(self.part) + self.step

    @property
    def windows(self) -> list[Window]:
        return self.queue.windows(self.iteration)

    @property
    def finished(self) -> bool:
        return self.step == self.until and (not self.wants_velocity or bool(self.velocities))

    def row(self) -> Row | None:
        known = len(self.velocities)
        needed = len(self.windows) if self.step < self.until else int(self.wants_velocity)
        if known >= needed:
            return None
        window = self.windows[known]
        latent = self._seen(window)
        timesteps = self.solver.timesteps
        given = [
            timesteps[d] if d < self.queue.num_steps else torch.zeros_like(timesteps[0]) for d in self._done(window)
        ]
        return Row(latent, torch.stack(given), self.texts[window.caption])

    def receive(self, output: torch.Tensor) -> None:
        window = self.windows[len(self.velocities)]
        pairs = zip(output.split(1, 2), self._seen(window).split(1, 2), self._done(window), strict=True)
        clean = self.queue.num_steps
        parts = [self.solver.velocity(v, x, d) if d < clean else v for v, x, d in pairs]
        self.velocities.append(torch.cat(parts, 2))

    def advance(self, normal: Normal) -> None:
        """One iteration: every frame of the queue by one step, one frame out of it, and one of noise into it."""
        frames, i = list(self.frames.split(1, 2)), self.iteration
        shift = self.queue.entered(i) - len(frames)  # of the video's frames to these
        noise = self.noise(normal, self.frames.shape, "step") if self.sampler.stochastic else None
        for window, v in zip(self.windows, self.velocities, strict=True):
            for a in range(window.new, window.last):
                at, state = slice(a - window.first, a - window.first + 1), self.solver.start(self.queue.done(a, i))
                own = None if noise is None else noise[:, :, a - shift : a - shift + 1]
                frames[a - shift], _ = self.solver.step(state, v[:, :, at], frames[a - shift], own)
        came = self.queue.clean(i + 1) - self.queue.clean(i)
        first = self.queue.clean(i) - shift
        out = torch.cat([self.out, *frames[first : first + came]], 2)
        self.frames, self.out, self.velocities = torch.cat(frames[came:], 2), out, []
        self.step += 1
        if self.step < self.sampler.num_steps:
            self.enter(self.noise(normal, frames[0].shape, "tail"))

    def enter(self, noise: torch.Tensor) -> None:
        """A frame into the queue's tail, unless the video has no more."""
        if self.queue.entered(self.iteration) > self.queue.entered(self.iteration - 1):
            self.frames = torch.cat([self.frames, noise], 2)

    def state_made(self) -> State:
        """The clean frames and the queue; with a velocity also what a scorer sees: the tail's window and its levels."""
        clip, levels, velocity = self.queue.clip, None, None
        if self.velocities:
            each = (*self.queue.levels[:-1], 0.0)
            levels = np.array([each[d] for d in self._done(self.windows[0])], np.float32)
            velocity = self.velocities[0].float().cpu().numpy()
        return State(
            self.frames[:, :, :clip].cpu().numpy(),
            velocity=velocity,
            queue=self.frames[:, :, clip:].cpu().numpy(),
            out=self.out.cpu().numpy(),
            levels=levels,
        )

    def _seen(self, window: Window) -> torch.Tensor:
        end = self.queue.entered(self.iteration)
        return self.frames[:, :, self.frames.shape[2] + window.first - end : self.frames.shape[2] + window.last - end]

    def _done(self, window: Window) -> list[int]:
        return [self.queue.done(a, self.iteration) for a in range(window.first, window.last)]


def _arrays(given: torch.Tensor | tuple[torch.Tensor, ...]) -> Any:
    return tuple(map(_arrays, given)) if isinstance(given, tuple) else given.cpu().numpy()
