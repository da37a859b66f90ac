"""The contents of a denoiser's slot: a leg of a candidate's trajectory, of a clip or of a queue of frames.

The denoiser asks each slot for a row, evaluates the rows of all slots together, hands each slot its output, and lets
every slot whose outputs are complete take its step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models.condition import Condition, with_clean_frames
from actors.sampling import caches, solvers
from actors.workers.state import State
from raysearch.config.step_cache import Guidance
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import Digest, digest, noise_key
from raysearch.recipe.long_video import Window

Memory: TypeAlias = caches.Easy | caches.Taylor | caches.FirstBlock | Guidance
Normal: TypeAlias = Callable[[Sequence[int], int], torch.Tensor]  # from a shape and a key, standard normal noise


@dataclass(frozen=True)
class Row:
    """One row of a batch: `latent`, (1, C, T, H, W), is evaluated under each of `texts`, which are (1, L, D).

    `timestep` is a scalar, or (T,) with one for each latent frame. `blocks` is what First Block Cache knows.
    """

    latent: torch.Tensor
    timestep: torch.Tensor
    texts: Sequence[torch.Tensor]
    condition: Condition = None
    blocks: caches.FirstBlock | None = None


@dataclass(kw_only=True)
class Leg:
    """The fields that clips and queues share: a leg from solver step `step`, which advances, to `until`.

    With `wants_velocity` the model is evaluated at `until`, too. `lineage` is the origin's and keys the noise of
    stochastic steps. `evaluations` counts rows, each under each of its texts.
    """

    sampler: Sampler
    solver: solvers.Solver
    lineage: Digest
    step: int
    until: int
    wants_velocity: bool
    evaluations: int = 0

    @property
    def nfe(self) -> int:
        """The evaluations so far, where both halves of guidance count."""
        return self.evaluations

    def checked(self, state: State) -> State:
        """The same state. Raises FloatingPointError unless its latent is finite."""
        if not np.isfinite(state.latent).all():
            raise FloatingPointError(f"the latent is not finite after step {self.step} of {self.sampler.num_steps}")
        return state

    def abandon(self) -> None:
        """Do nothing: a leg holds arrays alone."""

    def noise(self, normal: Normal, shape: Sequence[int], purpose: str) -> torch.Tensor:
        """The noise of this shape for the current step and a purpose; the same whenever and wherever it is drawn."""
        return normal(shape, noise_key(digest(self.lineage, self.step), purpose))


@dataclass(kw_only=True)
class Clip(Leg):
    """A clip in a slot: its `latent`, (1, C, T, H, W), and the solver's `state` at the current step.

    `texts` are the embeddings, (1, L, D), of the caption and, under guidance, of the negative prompt. `velocity`, of
    the latent's shape, is None until the model has been evaluated at the current step. `memory` is a cached draft's.
    """

    latent: torch.Tensor
    state: solvers.State
    texts: list[torch.Tensor]
    condition: Condition
    velocity: torch.Tensor | None
    memory: Memory | None = None

    @property
    def nfe(self) -> int:
        """The evaluations so far, where both halves of guidance count; one without most blocks counts by those run."""
        saved = self.memory.saved if isinstance(self.memory, caches.FirstBlock) else 0
        return ceil(self.evaluations - saved)

    @property
    def finished(self) -> bool:
        """True if the leg is done: step `until` is reached, and the velocity there is known if wanted."""
        return self.step == self.until and (not self.wants_velocity or self.velocity is not None)

    def row(self) -> Row | None:
        """The next row to evaluate; None if the step can be taken or the leg is finished."""
        if self.velocity is not None or self.finished:
            return None
        known, texts, blocks, m = None, self.texts, None, self.memory
        match m:
            case caches.Easy():
                known = m.known(self.step, self.latent)
            case caches.Taylor():
                (known,) = m.known(self.step) or (None,)
            case caches.FirstBlock():
                blocks = m
            case Guidance():
                texts = texts if m.guides(self.sampler.sigmas[self.step]) else texts[:1]
        if known is not None:
            self.velocity = self.solver.velocity(known, self.latent, self.step)
            return None
        return Row(self.latent, self.solver.timesteps[self.step], texts, self.condition, blocks)

    def receive(self, output: torch.Tensor, conditional: torch.Tensor) -> None:
        """Take the model's output, guided and under the caption alone, both (1, C, T, H, W), for the last row."""
        match self.memory:
            case caches.Easy() as m:
                m.see(self.step, self.latent, conditional, output)
            case caches.Taylor() as m:
                m.see(self.step, [output])
        self.velocity = self.solver.velocity(output, self.latent, self.step)

    def advance(self, normal: Normal) -> None:
        """Take one solver step. If it raises, for example for lack of memory, the clip is as before."""
        assert self.velocity is not None
        noise = self.noise(normal, self.latent.shape, "step") if self.sampler.stochastic else None
        latent, state = self.solver.step(self.state, self.velocity, self.latent, noise)
        if self.step + 1 == self.sampler.num_steps:
            latent = with_clean_frames(latent, self.condition)
        self.latent, self.state, self.step, self.velocity = latent, state, self.step + 1, None

    def to_state(self) -> State:
        """The state at the current step, in arrays on the CPU."""
        return self.checked(
            State(
                self.latent.cpu().numpy(),
                velocity=None if self.velocity is None else self.velocity.float().cpu().numpy(),
                solver=solvers.pack(self.state) if self.step < self.sampler.num_steps else None,
                condition=None if self.condition is None else _arrays(self.condition),
            )
        )


@dataclass(kw_only=True)
class Reel(Leg):
    """A queue of frames in a slot (FIFO-Diffusion); one step is one iteration of the queue.

    `frames`, (1, C, T, H, W), holds the latest clean frames, as many as a clip has, and after them the queue frames.
    `out` holds the clean frames that left the queue since the last kept part. `texts` has the embeddings for each
    caption, by chunk. `velocities` has one, (1, C, T, H, W), for each window of the current iteration that has been
    evaluated, the window at the tail first; a state keeps the first one alone.
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
        """The number of iterations of the queue that are done, over all parts."""
        return self.queue.begins(self.part) + self.step

    @property
    def windows(self) -> list[Window]:
        """The windows of the current iteration, the one at the queue's tail first."""
        return self.queue.windows(self.iteration)

    @property
    def finished(self) -> bool:
        """True if the leg is done: step `until` is reached, and the velocity there is known if wanted."""
        return self.step == self.until and (not self.wants_velocity or bool(self.velocities))

    def row(self) -> Row | None:
        """The row of the next window to evaluate; None if the iteration can be done or the leg is finished."""
        known = len(self.velocities)
        needed = len(self.windows) if self.step < self.until else int(self.wants_velocity)
        if known >= needed:
            return None
        window = self.windows[known]
        latent = self._seen(window)
        timesteps = self.solver.timesteps
        by_frame = [
            timesteps[d] if d < self.queue.num_steps else torch.zeros_like(timesteps[0]) for d in self._done(window)
        ]
        return Row(latent, torch.stack(by_frame), self.texts[window.caption])

    def receive(self, output: torch.Tensor, conditional: torch.Tensor) -> None:
        """Take the model's guided output, (1, C, T, H, W), for the last row's window."""
        window = self.windows[len(self.velocities)]
        pairs = zip(output.split(1, 2), self._seen(window).split(1, 2), self._done(window), strict=True)
        clean = self.queue.num_steps
        parts = [self.solver.velocity(v, x, d) if d < clean else v for v, x, d in pairs]
        self.velocities.append(torch.cat(parts, 2))

    def advance(self, normal: Normal) -> None:
        """Do one iteration: every queue frame takes a step, one frame leaves the queue, a frame of noise enters."""
        frames, i = list(self.frames.split(1, 2)), self.iteration
        shift = self.queue.entered(i) - len(frames)  # frame a of the video is frames[a - shift]
        noise = self.noise(normal, self.frames.shape, "step") if self.sampler.stochastic else None
        for window, v in zip(self.windows, self.velocities, strict=True):
            for a in range(window.new, window.last):
                at, state = slice(a - window.first, a - window.first + 1), self.solver.start(self.queue.done(a, i))
                own = None if noise is None else noise[:, :, a - shift : a - shift + 1]
                frames[a - shift], _ = self.solver.step(state, v[:, :, at], frames[a - shift], own)
        left = self.queue.clean(i + 1) - self.queue.clean(i)
        first = self.queue.clean(i) - shift
        out = torch.cat([self.out, *frames[first : first + left]], 2)
        self.frames, self.out, self.velocities = torch.cat(frames[left:], 2), out, []
        self.step += 1
        if self.step < self.sampler.num_steps:
            self.enter(self.noise(normal, frames[0].shape, "tail"))

    def enter(self, noise: torch.Tensor) -> None:
        """Put a frame of `noise`, (1, C, 1, H, W), at the queue's tail, unless the video's last frame has entered."""
        if self.queue.entered(self.iteration) > self.queue.entered(self.iteration - 1):
            self.frames = torch.cat([self.frames, noise], 2)

    def to_state(self) -> State:
        """The state at the current step, in arrays on the CPU; with a velocity, that of the window at the tail."""
        clip, levels, velocity = self.queue.clip, None, None
        if self.velocities:
            by_step = (*self.queue.levels[:-1], 0.0)
            levels = np.array([by_step[d] for d in self._done(self.windows[0])], np.float32)
            velocity = self.velocities[0].float().cpu().numpy()
        return self.checked(
            State(
                self.frames[:, :, :clip].cpu().numpy(),
                velocity=velocity,
                queue=self.frames[:, :, clip:].cpu().numpy(),
                out=self.out.cpu().numpy(),
                levels=levels,
            )
        )

    def _seen(self, window: Window) -> torch.Tensor:
        """The frames of a window, (1, C, T, H, W)."""
        end = self.queue.entered(self.iteration)
        return self.frames[:, :, self.frames.shape[2] + window.first - end : self.frames.shape[2] + window.last - end]

    def _done(self, window: Window) -> list[int]:
        """The number of solver steps that each frame of a window has taken."""
        return [self.queue.done(a, self.iteration) for a in range(window.first, window.last)]


def _arrays(condition: torch.Tensor | tuple[torch.Tensor, ...]) -> Any:
    return tuple(map(_arrays, condition)) if isinstance(condition, tuple) else condition.cpu().numpy()
