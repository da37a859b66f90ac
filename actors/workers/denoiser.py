"""A denoiser: one model, `slots` places, one compute thread that steps all occupied slots together.

Candidates join and leave between steps, each with its own timestep and solver state. With one slot every forward holds
one candidate: the exact mode, whose bits depend on nothing else. Plain torch; Ray wraps it in `actors.cluster.fleet`.
"""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models import Given, family
from actors.sampling import potential, solvers
from actors.workers import memory
from actors.workers.gang import Gang
from actors.workers.pulse import Pulse
from actors.workers.scorer import finished, preview
from actors.workers.slot import Clip, Reel, Row
from raysearch.errors import OutOfMemory
from raysearch.recipe.candidate import Sampler

Slot: TypeAlias = Clip | Reel


@dataclass
class Request:
    id: int
    arguments: dict[str, Any]
    inputs: tuple[Any, ...]
    done: "Future[tuple[dict[str, Any], dict[str, Any]]]" = field(default_factory=Future)


class Denoiser:
    def __init__(self, folder: str, *, dtype: str, device: str, slots: int, gang: Gang | None = None) -> None:
        torch.set_num_threads(1)
        self._device, self._slots, self._gang = device, slots, gang
        models = family(Path(folder))
        self._model = gang.model if gang else models.Transformer(Path(folder), dtype=dtype, device=device)
        self._geometry = models.Geometry.of(Path(folder))
        self._scheduler_config = solvers.scheduler_config(Path(folder))
        self._solvers: OrderedDict[bytes, solvers.Solver] = OrderedDict()
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self.pulse = Pulse()
        self._thread = threading.Thread(target=self._loop, name="denoiser", daemon=True)
        self._thread.start()

    def submit(self, item: int, arguments: dict[str, Any], inputs: tuple[Any, ...]) -> "Future[Any]":
        """Denoise one leg; resolves to (metadata, payload)."""
        request = Request(item, arguments, inputs)
        self._requests.put(request)
        return request.done

    def cancel(self, item: int) -> None:
        """Free the item's slot after the step in progress. Its future is cancelled."""
        self._cancelled.add(item)

    def close(self) -> None:
        self._requests.put(None)
        self._thread.join()
        if self._gang is not None:
            self._gang.close()

    # -- the compute thread ----------------------------------------------------------------------------------------

    def _loop(self) -> None:
        occupied: list[Slot] = []
        while True:
            while len(occupied) < self._slots and (not occupied or not self._requests.empty()):
                request = self._requests.get()
                if request is None:
                    return
                slot = self._admit(request)
                if slot is not None:
                    occupied.append(slot)
            occupied = self._drop_cancelled(occupied)
            try:
                with self.pulse.beat(), memory.guarded():
                    self._advance(occupied)
            except OutOfMemory as error:  # the newest goes back; the others go on from where they are
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
        """Nothing that happens here may end the thread: all later items would wait for ever."""
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

    def _admit(self, request: Request) -> Slot | None:
        if request.id in self._cancelled:
            self._cancelled.discard(request.id)
            request.done.cancel()
        # From here on the future is running: nobody else can settle it, and the thread never meets a settled one.
        if not request.done.set_running_or_notify_cancel():
            return None
        try:
            with memory.guarded():
                return self._slot(request)
        except Exception as error:
            request.done.set_exception(error)
            return None

    def _slot(self, request: Request) -> Slot:
        a = request.arguments
        base, text, negative, first, *points = request.inputs
        common = {
            "id": request.id,
            "sampler": a["sampler"],
            "solver": self._solver(a["sampler"]),
            "lineage": a["lineage"],
            "step": a["step"],
            "until": a["until"],
            "wants_velocity": a["velocity"],
            "done": request.done,
        }
        if a["sampler"].queue is not None:
            return self._reel(a, base, negative, points, common)
        return self._clip(a, base, (text, negative), first, points, common)

    def _clip(
        self,
        a: dict[str, Any],
        base: Any,
        texts: Sequence[Any],
        first: Any,
        points: Sequence[Any],
        common: dict[str, Any],
    ) -> Clip:
        solver, origin = common["solver"], a["origin"]
        state, velocity = None, None
        if origin is None:
            latent = self._tensor(base["latent"])
            state = solvers.unpack(base["solver"], self._device)
        else:
            latent = self._origin(origin, base, a["sampler"], solver, a["step"], points)
            if origin["kind"] == "branch":
                state = solvers.unpack(base["solver"], self._device)
        begins = origin is not None and origin["kind"] == "extend"
        if first is None and base is not None:
            first = base["latent"][:, :, -origin["prefix"] :] if begins else base.get("first")
        goes_on = origin is None or origin["kind"] in ("branch", "lookahead")
        if goes_on and "velocity" in base:
            velocity = self._tensor(base["velocity"]).to(self._model.dtype)
        return Clip(
            **common,
            latent=latent,
            state=state if state is not None else solver.start(a["step"]),
            texts=self._texts(texts),
            first=self._first(first),
            velocity=velocity,
        )

    def _reel(self, a: dict[str, Any], base: Any, negative: Any, points: list[Any], common: dict[str, Any]) -> Reel:
        """The queue of a state, with what its origin makes of the tail; `points` end with the captions' embeddings."""
        captions, origin = a["captions"], a["origin"]
        texts = {c: self._texts((t, negative)) for c, t in zip(captions, points[-len(captions) :], strict=True)}
        clean = self._tensor(base["latent"])
        waiting, out = (self._tensor(base[k]) if k in base else clean[:, :, :0] for k in ("queue", "out"))
        carries = origin is None or origin.get("carries", True)
        reel = Reel(
            **common,
            part=a["part"],
            frames=torch.cat([clean, waiting], 2),
            out=out if carries else out[:, :, :0],
            texts=texts,
        )
        if origin is None:
            reel.velocities = [self._tensor(base["velocity"]).to(self._model.dtype)] if "velocity" in base else []
            return reel
        if origin["kind"] == "slide":
            noise = self._normal(clean[:, :, :1].shape, origin["key"])
            start = self._tensor(points[0]["latent"])[:, :, -1:] if origin["start"] else None
            last = clean[:, :, -1:]
            reel.enter(solvers.frequency_mix(last, noise, origin["cutoff"], origin["dims"]) if start is None else start)
        else:
            tail = {"latent": reel.frames[:, :, -1:].cpu().numpy()}
            moved = self._origin(origin, tail, common["sampler"], common["solver"], a["step"], points)
            reel.frames = torch.cat([reel.frames[:, :, :-1], moved], 2)
        return reel

    def _first(self, first: Any) -> Given:
        if isinstance(first, tuple):
            return tuple(self._tensor(part) for part in first)
        return None if first is None else self._tensor(first)

    def _texts(self, texts: Sequence[Any]) -> list[torch.Tensor]:
        return [self._tensor(t).to(self._model.dtype) for t in texts if t is not None]

    def _origin(
        self,
        origin: dict[str, Any],
        base: Any,
        sampler: Sampler,
        solver: solvers.Solver,
        step: int,
        points: Sequence[Any],
    ) -> torch.Tensor:
        if origin["kind"] in ("branch", "lookahead", "invert"):
            return self._tensor(base["latent"])
        if origin["kind"] == "push":
            obstacles = potential.group(origin["obstacles"], [finished(p) for p in points])
            x0 = preview(base, sampler.sigmas[step])
            away = potential.push(x0, obstacles, origin["eta"], origin["reach"], origin["h"])
            return self._tensor(base["latent"]) + away.to(self._device)
        if origin["kind"] == "noise":
            size = {"num_frames": sampler.num_frames, "height": sampler.height, "width": sampler.width}
            return self._normal(self._geometry.latent_shape(**size), origin["key"])
        latent = self._tensor(base["latent"])
        noise = self._normal(latent.shape, origin["key"])
        if origin["kind"] == "extend":
            if origin["start"]:
                return self._tensor(points[0]["latent"])
            return solvers.frequency_mix(latent, noise, origin["cutoff"], origin["dims"])
        if origin["kind"] == "perturb":
            beta = origin["beta"]
            return (1 - beta**2) ** 0.5 * latent + beta * noise
        if origin["kind"] == "jitter":
            return latent + origin["std"] * noise
        if origin["kind"] == "neighbour":
            return solvers.neighbour(latent, origin["cosine"], noise)
        if origin["kind"] == "renoise":
            return solver.renoise(latent, origin["from_step"], step, noise)
        raise ValueError(f"unknown origin {origin['kind']!r}")

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
        """Evaluate what each slot misses next, in one batch where shapes allow, then step those that miss nothing."""
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
        if self._device == "cuda":  # which is only told what to do: its time and its errors are this step's
            torch.cuda.synchronize()
        share = (time.perf_counter() - began) / max(len(occupied), 1)
        for s in occupied:
            s.seconds += share

    def _normal(self, shape: Sequence[int], key: int) -> torch.Tensor:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(key)).to(self._device)

    def _velocities(self, group: list[tuple[Slot, Row]]) -> list[torch.Tensor]:
        rows, samplers = [row for _, row in group], [s.sampler for s, _ in group]
        latents = torch.cat([r.latent for r in rows])
        timesteps = torch.stack([r.timestep for r in rows])
        first = [r.first for r in rows]
        halves = [torch.cat([r.texts[i] for r in rows]) for i in range(len(rows[0].texts))]
        if len(halves) == 2 and samplers[0].batched_guidance:
            both = torch.cat([timesteps, timesteps])
            (out,) = self._evaluate(latents.repeat(2, 1, 1, 1, 1), both, [torch.cat(halves)], first * 2)
            parts = list(out.chunk(2))
        else:
            parts = self._evaluate(latents, timesteps, halves, first)
        conditional = parts[0].split(1)
        if len(parts) == 1:
            return list(conditional)
        return [
            u + s.guidance_scale * (c - u) for s, c, u in zip(samplers, conditional, parts[1].split(1), strict=True)
        ]

    def _evaluate(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: list[torch.Tensor], first: list[Given]
    ) -> list[torch.Tensor]:
        """Velocities under each of the texts."""
        if self._gang is not None:
            return self._gang.velocities(latents, timesteps, texts, first)
        return [self._model(latents, timesteps, text, first) for text in texts]

    def _result(self, slot: Slot) -> tuple[dict[str, Any], dict[str, Any]]:
        payload = slot.payload()
        if not np.isfinite(payload["latent"]).all():
            raise FloatingPointError(f"the latent is not finite after step {slot.step} of {slot.sampler.num_steps}")
        nfe = slot.evaluations * slot.sampler.nfe_per_step
        return {"nfe": nfe, "seconds": slot.seconds, "nbytes": _nbytes(payload)}, payload

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self._device)  # a copy: arrays from the object store are read-only


def _nbytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_nbytes(v) for v in value.values())
    return sum(_nbytes(v) for v in value) if isinstance(value, list | tuple) else 0
