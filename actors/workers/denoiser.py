"""A denoiser: one model, a number of slots, and one compute thread that steps all occupied slots together.

Candidates join and leave between steps, each with its own timestep and solver state. With one slot every forward holds
one candidate: this is the exact mode, in which a result's bits depend on nothing else. Plain torch; `actors.cluster`
puts a denoiser on Ray.
"""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models import family
from actors.models.condition import Condition
from actors.sampling import potential, solvers
from actors.workers import memory
from actors.workers.gang import Gang
from actors.workers.pulse import Pulse
from actors.workers.slot import Clip, Reel, Row
from actors.workers.state import State, finished
from raysearch.engine.protocol import Denoise, Denoised, series
from raysearch.errors import OutOfMemory
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

Slot: TypeAlias = Clip | Reel


@dataclass
class Item:
    """A leg that waits for a slot; `done` resolves to the reply and the state at the end of the leg."""

    id: int
    request: Denoise
    inputs: Mapping[str, Any]
    done: "Future[tuple[Denoised, State]]" = field(default_factory=Future)


class Denoiser:
    """The model in `folder` on `device`, with its compute thread; `gang` runs the model if it is sharded."""

    def __init__(
        self, folder: str, *, dtype: str, device: str, slots: int, gang: Gang | None = None, variant: str | None = None
    ) -> None:
        torch.set_num_threads(1)
        self._device, self._slots, self._gang = device, slots, gang
        models = family(Path(folder))
        self._model = (
            gang.model if gang else models.Transformer(Path(folder), dtype=dtype, device=device, variant=variant)
        )
        self._geometry = models.Geometry.of(Path(folder))
        self._scheduler_config = solvers.scheduler_config(Path(folder))
        self._solvers: OrderedDict[bytes, solvers.Solver] = OrderedDict()
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self.pulse = Pulse()
        self._thread = threading.Thread(target=self._loop, name="denoiser", daemon=True)
        self._thread.start()

    def submit(self, item: int, request: Denoise, inputs: Mapping[str, Any]) -> "Future[tuple[Denoised, State]]":
        """Queue a leg and return at once; the future resolves to a reply and the state at the end of the leg.

        The future gets OutOfMemory if the device had no room, and FloatingPointError for a latent that is not finite.
        """
        waiting = Item(item, request, inputs)
        self._items.put(waiting)
        return waiting.done

    def cancel(self, item: int) -> None:
        """Take a leg out of its slot after the current step; its future is cancelled, or gets CancelledError."""
        self._cancelled.add(item)

    def close(self, patience: float | None = None) -> None:
        """End the compute thread and the gang; the futures of legs that are not done stay unsettled.

        The thread is waited for `patience` seconds at most.
        """
        self._items.put(None)
        self._thread.join(patience)
        if self._gang is not None:
            self._gang.close()

    # -- the compute thread ----------------------------------------------------------------------------------------

    def _loop(self) -> None:
        occupied: list[Slot] = []
        while True:
            while len(occupied) < self._slots and (not occupied or not self._items.empty()):
                item = self._items.get()
                if item is None:
                    return
                slot = self._admit(item)
                if slot is not None:
                    occupied.append(slot)
            occupied = self._drop_cancelled(occupied)
            try:
                with self.pulse.beat(), memory.guarded():
                    self._advance(occupied)
            except OutOfMemory as error:  # the newest slot is freed; the others go on from where they are
                occupied.pop().done.set_exception(error)
            except Exception as error:
                for slot in occupied:
                    slot.done.set_exception(error)
                occupied = []
            for slot in [s for s in occupied if s.finished]:
                occupied.remove(slot)
                self._cancelled.discard(slot.id)
                self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        """Settle a finished slot's future. No error may end the thread, or all later items would wait for ever."""
        try:
            with memory.guarded():
                result = self._result(slot)
        except Exception as error:
            slot.done.set_exception(error)
        else:
            slot.done.set_result(result)

    def _drop_cancelled(self, occupied: list[Slot]) -> list[Slot]:
        for slot in occupied:
            if slot.id in self._cancelled:
                slot.done.set_exception(CancelledError())
        gone = {s.id for s in occupied if s.id in self._cancelled}
        self._cancelled -= gone
        return [s for s in occupied if s.id not in gone]

    def _admit(self, item: Item) -> Slot | None:
        """A slot for the item; None if the item was cancelled or cannot start, which its future then says."""
        if item.id in self._cancelled:
            self._cancelled.discard(item.id)
            item.done.cancel()
        # From here on the future is running: nobody else can settle it, and the thread never meets a settled one.
        if not item.done.set_running_or_notify_cancel():
            return None
        try:
            with memory.guarded():
                return self._reel(item) if item.request.queue else self._clip(item)
        except Exception as error:
            item.done.set_exception(error)
            return None

    def _clip(self, item: Item) -> Clip:
        """A slot for a clip that goes on from its base state, or begins with its origin."""
        request, inputs = item.request, item.inputs
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
            velocity = self._tensor(base.velocity).to(self._model.dtype)
        return Clip(
            **self._leg(item),
            latent=self._origin(request, base, solver, inputs) if how or base is None else self._tensor(base.latent),
            state=solver.start(request.step) if state is None else state,
            texts=self._texts(inputs.get("text"), inputs.get("negative")),
            condition=self._condition(condition),
            velocity=velocity,
        )

    def _reel(self, item: Item) -> Reel:
        """A slot for a queue that goes on from its base state; an origin makes or changes the frame at the tail."""
        request, inputs = item.request, item.inputs
        part, start = request.queue, request.start
        base: State = inputs["base"]
        assert part is not None
        texts = [self._texts(inputs[f"text {i}"], inputs.get("negative")) for i in range(len(part.captions))]
        clean = self._tensor(base.latent)
        waiting, out = (clean[:, :, :0] if a is None else self._tensor(a) for a in (base.queue, base.out))
        reel = Reel(
            **self._leg(item),
            part=part.part,
            frames=torch.cat([clean, waiting], 2),
            out=out if start is None or start.carries else out[:, :, :0],
            texts=dict(zip(part.captions, texts, strict=True)),
        )
        if start is None:
            known = [] if base.velocity is None else [base.velocity]
            reel.velocities = [self._tensor(v).to(self._model.dtype) for v in known]
        elif isinstance(start.how, Slide):
            last = State(clean[:, :, -1:].cpu().numpy())
            reel.enter(self._origin(request, last, reel.solver, inputs)[:, :, -1:])
        else:
            tail = State(reel.frames[:, :, -1:].cpu().numpy())
            moved = self._origin(request, tail, reel.solver, inputs)
            reel.frames = torch.cat([reel.frames[:, :, :-1], moved], 2)
        return reel

    def _leg(self, item: Item) -> dict[str, Any]:
        """The fields of a `Leg` for an item."""
        r = item.request
        return {
            "id": item.id,
            "sampler": r.sampler,
            "solver": self._solver(r.sampler),
            "lineage": r.lineage,
            "step": r.step,
            "until": r.until,
            "wants_velocity": r.velocity,
            "done": item.done,
        }

    def _condition(self, arrays: Any) -> Condition:
        if isinstance(arrays, tuple):
            return tuple(self._tensor(part) for part in arrays)
        return None if arrays is None else self._tensor(arrays)

    def _texts(self, *texts: np.ndarray | None) -> list[torch.Tensor]:
        return [self._tensor(t).to(self._model.dtype) for t in texts if t is not None]

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

    @torch.no_grad()
    def _advance(self, occupied: list[Slot]) -> None:
        """Evaluate each slot's next row, in one batch where shapes allow, and step the slots that need no more rows."""
        began = time.perf_counter()
        groups: dict[tuple[Any, ...], list[tuple[Slot, Row]]] = {}
        for s in occupied:
            if (row := s.row()) is not None:
                kind = (row.latent.shape, row.timestep.ndim, len(row.texts), s.sampler.batched_guidance)
                groups.setdefault(kind, []).append((s, row))
        for group in groups.values():
            for (s, _), velocity in zip(group, self._velocities(group), strict=True):
                s.receive(velocity)
                s.evaluations += 1
        for s in occupied:
            if s.step < s.until and s.row() is None:
                s.advance(self._normal)
        if self._device == "cuda":  # CUDA works in the background: wait, so that its time and errors are this step's
            torch.cuda.synchronize()
        share = (time.perf_counter() - began) / max(len(occupied), 1)
        for s in occupied:
            s.seconds += share

    def _normal(self, shape: Sequence[int], key: int) -> torch.Tensor:
        """Standard normal noise, float32, seeded by `key` and drawn on the CPU, so that devices agree."""
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(key)).to(self._device)

    def _velocities(self, group: list[tuple[Slot, Row]]) -> list[torch.Tensor]:
        """The guided model output of each row, (1, C, T, H, W), from one batch of rows of one shape."""
        rows, samplers = [row for _, row in group], [s.sampler for s, _ in group]
        latents = torch.cat([r.latent for r in rows])
        timesteps = torch.stack([r.timestep for r in rows])
        conditions = [r.condition for r in rows]
        halves = [torch.cat([r.texts[i] for r in rows]) for i in range(len(rows[0].texts))]
        if len(halves) == 2 and samplers[0].batched_guidance:
            both = torch.cat([timesteps, timesteps])
            (out,) = self._evaluate(latents.repeat(2, 1, 1, 1, 1), both, [torch.cat(halves)], conditions * 2)
            parts = list(out.chunk(2))
        else:
            parts = self._evaluate(latents, timesteps, halves, conditions)
        conditional = parts[0].split(1)
        if len(parts) == 1:
            return list(conditional)
        return [
            u + s.guidance_scale * (c - u) for s, c, u in zip(samplers, conditional, parts[1].split(1), strict=True)
        ]

    def _evaluate(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: list[torch.Tensor], conditions: list[Condition]
    ) -> list[torch.Tensor]:
        """The model's output, (B, C, T, H, W), under each of the texts."""
        if self._gang is not None:
            return self._gang.velocities(latents, timesteps, texts, conditions)
        return [self._model(latents, timesteps, text, conditions) for text in texts]

    def _result(self, slot: Slot) -> tuple[Denoised, State]:
        state = slot.to_state()
        if not np.isfinite(state.latent).all():
            raise FloatingPointError(f"the latent is not finite after step {slot.step} of {slot.sampler.num_steps}")
        return Denoised(slot.evaluations * slot.sampler.nfe_per_step, slot.seconds, state.nbytes), state

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self._device)  # a copy: arrays from the object store are read-only
