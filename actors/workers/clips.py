"""Clips and queues of frames in a denoiser: a video model whose latents, guidance and solver are raysearch's own."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models.condition import Condition
from actors.sampling import caches, potential, solvers
from actors.workers.gang import Gang
from actors.workers.slot import Clip, Memory, Reel, Row
from actors.workers.state import State, finished
from raysearch.config import step_cache
from raysearch.engine.protocol import Denoise, series
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.origins import (
    Branch,
    Extend,
    Invert,
    Jitter,
    Lookahead,
    Neighbour,
    Noise,
    Perturb,
    Push,
    Renoise,
    Slide,
)

Leg: TypeAlias = Clip | Reel


class Clips:
    """The transformer `model` of a family for a denoiser; a gang has its own."""

    def __init__(
        self, model: Any, geometry: Any, scheduler_config: dict[str, Any], *, device: str, gang: Gang | None = None
    ) -> None:
        self.model, self._geometry, self._device, self._gang = model, geometry, device, gang
        self._scheduler_config = scheduler_config
        self._solvers: OrderedDict[bytes, solvers.Solver] = OrderedDict()

    def admit(self, request: Denoise, inputs: Mapping[str, Any]) -> Leg:
        """A leg of a clip or of a queue of frames."""
        return self._reel(request, inputs) if request.queue else self._clip(request, inputs)

    def advance(self, legs: Sequence[Leg]) -> None:
        """Evaluate each leg's next row, in one batch where shapes allow, and step the legs that need no more rows."""
        groups: dict[tuple[Any, ...], list[tuple[Leg, Row]]] = {}
        for s in legs:
            if (row := s.row()) is not None:
                shapes = row.latent.shape, row.timestep.ndim, len(row.texts)
                kind = (*shapes, s.sampler.batched_guidance, self._expert(row), row.blocks is None)
                groups.setdefault(kind, []).append((s, row))
        for group in groups.values():
            for (s, row), outputs in zip(group, self._velocities(group), strict=True):
                s.receive(*outputs)
                s.evaluations += len(row.texts)
        for s in legs:
            if s.step < s.until and s.row() is None:
                s.advance(self._normal)

    def _clip(self, request: Denoise, inputs: Mapping[str, Any]) -> Clip:
        """A leg of a clip that goes on from its base state, or begins with its origin."""
        base: State | None = inputs.get("base")
        solver, how = self._solver(request.sampler), request.start.how if request.start else None
        state = velocity = None
        if how is None or isinstance(how, Branch):
            assert base is not None
            state = solvers.unpack(base.solver, self._device)
        condition = inputs.get("first")
        if condition is None and base is not None:
            condition = base.latent[:, :, -how.prefix :] if isinstance(how, Extend) else base.condition
        if base is not None and base.velocity is not None and (how is None or how.keeps_velocity):
            velocity = self._tensor(base.velocity).to(self.model.dtype)
        return Clip(
            **self._leg(request),
            latent=self._origin(request, base, solver, inputs) if how or base is None else self._tensor(base.latent),
            state=solver.start(request.step) if state is None else state,
            texts=self._texts(inputs.get("text"), inputs.get("negative")),
            condition=self._condition(condition),
            velocity=velocity,
            memory=_memory(request),
        )

    def _reel(self, request: Denoise, inputs: Mapping[str, Any]) -> Reel:
        """A leg of a queue that goes on from its base state; an origin makes or changes the frame at the tail."""
        part, start = request.queue, request.start
        base: State = inputs["base"]
        assert part is not None
        texts = [self._texts(inputs[f"text {i}"], inputs.get("negative")) for i in range(len(part.captions))]
        clean = self._tensor(base.latent)
        waiting, out = (clean[:, :, :0] if a is None else self._tensor(a) for a in (base.queue, base.out))
        reel = Reel(
            **self._leg(request),
            part=part.part,
            frames=torch.cat([clean, waiting], 2),
            out=out if start is None or start.carries else out[:, :, :0],
            texts=dict(zip(part.captions, texts, strict=True)),
        )
        if start is None:
            known = [] if base.velocity is None else [base.velocity]
            reel.velocities = [self._tensor(v).to(self.model.dtype) for v in known]
        elif isinstance(start.how, Slide):
            last = State(clean[:, :, -1:].cpu().numpy())
            reel.enter(self._origin(request, last, reel.solver, inputs)[:, :, -1:])
        else:
            tail = State(reel.frames[:, :, -1:].cpu().numpy())
            moved = self._origin(request, tail, reel.solver, inputs)
            reel.frames = torch.cat([reel.frames[:, :, :-1], moved], 2)
        return reel

    def _leg(self, r: Denoise) -> dict[str, Any]:
        """The fields of a `Leg` for a request."""
        return {
            "sampler": r.sampler,
            "solver": self._solver(r.sampler),
            "lineage": r.lineage,
            "step": r.step,
            "until": r.until,
            "wants_velocity": r.velocity,
        }

    def _condition(self, arrays: Any) -> Condition:
        if isinstance(arrays, tuple):
            return tuple(self._tensor(part) for part in arrays)
        return None if arrays is None else self._tensor(arrays)

    def _texts(self, *texts: np.ndarray | None) -> list[torch.Tensor]:
        return [self._tensor(t).to(self.model.dtype) for t in texts if t is not None]

    def _origin(
        self, request: Denoise, base: State | None, solver: solvers.Solver, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        """The latent of an origin, (1, C, T, H, W): fresh noise, or a change of the base state's latent x."""
        start, s = request.start, request.sampler
        assert start is not None
        if isinstance(start.how, Noise):
            size = {"num_frames": s.num_frames, "height": s.height, "width": s.width}
            return self._normal(self._geometry.latent_shape(**size), start.key)
        assert base is not None
        x = self._tensor(base.latent)
        match start.how:
            case Branch() | Lookahead() | Invert():
                return x
            case Perturb(beta):
                return (1 - beta**2) ** 0.5 * x + beta * self._normal(x.shape, start.key)
            case Jitter(std):
                return x + std * self._normal(x.shape, start.key)
            case Neighbour(cosine):
                return solvers.neighbour(x, cosine, self._normal(x.shape, start.key))
            case Renoise():
                return solver.renoise(x, start.from_step, request.step, self._normal(x.shape, start.key))
            case Push(eta, reach, h, layout):
                obstacles = potential.group(layout, [finished(p) for p in series(inputs, "point")])
                away = potential.push(base.x0(s.sigmas[request.step]), obstacles, eta, reach, h)
                return x + away.to(self._device)
            case (Extend() | Slide()) as link:
                if (noise := inputs.get("point 0")) is not None:
                    return self._tensor(noise.latent)
                return solvers.frequency_mix(x, self._normal(x.shape, start.key), link.cutoff, link.dims)
        raise ValueError(f"unknown origin {start.how}")

    def _solver(self, sampler: Sampler) -> solvers.Solver:
        solver = self._solvers.get(sampler.identity)
        if solver is None:
            solver = solvers.solver(self._scheduler_config, sampler, self._device)
            self._solvers[sampler.identity] = solver
            if len(self._solvers) > 16:
                self._solvers.popitem(last=False)
        return solver

    def _normal(self, shape: Sequence[int], key: int) -> torch.Tensor:
        """Standard normal noise, float32, seeded by `key` and drawn on the CPU, so that devices agree."""
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(key)).to(self._device)

    def _velocities(self, group: list[tuple[Leg, Row]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The model's guided output of each row and the one under its caption, (1, C, T, H, W), from one batch."""
        rows, samplers = [row for _, row in group], [s.sampler for s, _ in group]
        latents = torch.cat([r.latent for r in rows])
        timesteps = torch.stack([r.timestep for r in rows])
        conditions = [r.condition for r in rows]
        expert = self._expert(rows[0])
        memories = [[r.blocks.half(i, expert) for r in rows if r.blocks] for i in range(len(rows[0].texts))]
        halves = [torch.cat([r.texts[i] for r in rows]) for i in range(len(rows[0].texts))]
        if len(halves) == 2 and samplers[0].batched_guidance:
            both = torch.cat([timesteps, timesteps])
            joined = [torch.cat(halves)], conditions * 2, [[*memories[0], *memories[1]]]
            (out,) = self._evaluate(latents.repeat(2, 1, 1, 1, 1), both, *joined)
            parts = list(out.chunk(2))
        else:
            parts = self._evaluate(latents, timesteps, halves, conditions, memories)
        conditional = parts[0].split(1)
        if len(parts) == 1:
            return [(c, c) for c in conditional]
        scales = [s.scale(expert) for s in samplers]
        return [(u + w * (c - u), c) for w, c, u in zip(scales, conditional, parts[1].split(1), strict=True)]

    def _expert(self, row: Row) -> int:
        """The number of the model's net that evaluates a row; rows with a timestep for each frame have but one."""
        return 0 if row.timestep.ndim else int(self.model.expert(row.timestep))

    def _evaluate(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        texts: list[torch.Tensor],
        conditions: list[Condition],
        memories: list[list[caches.Blocks]],
    ) -> list[torch.Tensor]:
        """The model's output, (B, C, T, H, W), under each of the texts; memories are those of B rows, or none."""
        if self._gang is not None:
            return self._gang.velocities(latents, timesteps, texts, conditions)
        found = []
        for text, of in zip(texts, memories, strict=True):
            with self.model.remembering(timesteps, of) if of else nullcontext():
                found.append(self.model(latents, timesteps, text, conditions))
        return found

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self._device)  # a copy: arrays from the object store are read-only


def _memory(request: Denoise) -> Memory | None:
    """The empty memory of a cached draft, which a leg begins at step 0 and ends; None without a cache."""
    match step_cache.cache_of(request.sampler):
        case step_cache.Easy() as cache:
            return caches.Easy(cache, request.sampler.num_steps)
        case step_cache.Taylor() as cache:
            return caches.Taylor(cache)
        case step_cache.FirstBlock() as cache:
            return caches.FirstBlock(cache)
        case other:
            return other
