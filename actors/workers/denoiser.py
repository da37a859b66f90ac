"""A denoiser: one model, a number of slots, and one compute thread that steps all occupied slots together.

Candidates join and leave between steps, each with its own timestep and solver state. With one slot every forward holds
one candidate: this is the exact mode, in which a result's bits depend on nothing else. What a slot holds and how it is
stepped is the model's: `actors.workers.clips` has models of latents, `actors.models.pipelines.runs` whole pipelines.
Plain torch; `actors.cluster` puts a denoiser on Ray.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from actors.models.source import Source
from actors.sampling.solvers import scheduler_config
from actors.workers import memory
from actors.workers.clips import Clips
from actors.workers.gang import Gang
from actors.workers.pulse import Pulse
from raysearch.engine.protocol import Denoise, Denoised
from raysearch.errors import OutOfMemory


@dataclass
class Item:
    """A leg that waits for a slot; `done` resolves to the reply and the state at the end of the leg."""

    id: int
    request: Denoise
    inputs: Mapping[str, Any]
    done: "Future[tuple[Denoised, Any]]" = field(default_factory=Future)


class Leg(Protocol):
    """A leg that a model is denoising; both halves of guidance count as evaluations."""

    @property
    def finished(self) -> bool:
        """True if the leg is done."""
        ...

    @property
    def nfe(self) -> int:
        """The evaluations so far."""
        ...

    def to_state(self) -> Any:
        """The state at the end of a finished leg, with its size `nbytes`. Raises FloatingPointError if not finite."""
        ...

    def abandon(self) -> None:
        """Let go of what a leg holds that will not be finished."""
        ...


class Model(Protocol):
    """What a denoiser runs. It is called in the compute thread alone, without gradients."""

    def admit(self, request: Denoise, inputs: Mapping[str, Any]) -> Leg:
        """A leg that goes on from its base state, or begins with its origin."""
        ...

    def advance(self, legs: Sequence[Any]) -> None:
        """Evaluate what each leg waits for, together where possible, and take the steps that can be taken.

        If it raises OutOfMemory, the legs can go on from where they are.
        """
        ...


@dataclass
class Slot:
    """A leg in a slot; `seconds` is its share of the time of the batches that it was part of."""

    item: Item
    leg: Leg
    seconds: float = 0.0

    def give_up(self, error: BaseException) -> None:
        """Settle the future of a leg that will not be finished."""
        self.leg.abandon()
        self.item.done.set_exception(error)


class Denoiser:
    """The model of `source` on its device, with a compute thread; `gang` runs the model if it is sharded."""

    def __init__(self, source: Source, *, slots: int, gang: Gang | None = None) -> None:
        torch.set_num_threads(1)
        self._device, self._slots, self._gang = source.device, slots, gang
        self._model = _model(source, gang)
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self.pulse = Pulse()
        self._thread = threading.Thread(target=self._loop, name="denoiser", daemon=True)
        self._thread.start()

    def submit(self, item: int, request: Denoise, inputs: Mapping[str, Any]) -> "Future[tuple[Denoised, Any]]":
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
                occupied.pop().give_up(error)
            except Exception as error:
                for slot in occupied:
                    slot.give_up(error)
                occupied = []
            for slot in [s for s in occupied if s.leg.finished]:
                occupied.remove(slot)
                self._cancelled.discard(slot.item.id)
                self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        """Settle a finished slot's future. No error may end the thread, or all later items would wait for ever."""
        try:
            with memory.guarded():
                state = slot.leg.to_state()
                reply = Denoised(slot.leg.nfe, slot.seconds, state.nbytes)
        except Exception as error:
            slot.item.done.set_exception(error)
        else:
            slot.item.done.set_result((reply, state))

    def _drop_cancelled(self, occupied: list[Slot]) -> list[Slot]:
        for slot in occupied:
            if slot.item.id in self._cancelled:
                slot.give_up(CancelledError())
        gone = {s.item.id for s in occupied if s.item.id in self._cancelled}
        self._cancelled -= gone
        return [s for s in occupied if s.item.id not in gone]

    def _admit(self, item: Item) -> Slot | None:
        """A slot for the item; None if the item was cancelled or cannot start, which its future then says."""
        if item.id in self._cancelled:
            self._cancelled.discard(item.id)
            item.done.cancel()
        # From here on the future is running: nobody else can settle it, and the thread never meets a settled one.
        if not item.done.set_running_or_notify_cancel():
            return None
        try:
            with memory.guarded(), torch.no_grad():
                return Slot(item, self._model.admit(item.request, item.inputs))
        except Exception as error:
            item.done.set_exception(error)
            return None

    @torch.no_grad()
    def _advance(self, occupied: list[Slot]) -> None:
        began = time.perf_counter()
        self._model.advance([s.leg for s in occupied])
        if self._device == "cuda":  # CUDA works in the background: wait, so that its time and errors are this step's
            torch.cuda.synchronize()
        share = (time.perf_counter() - began) / max(len(occupied), 1)
        for s in occupied:
            s.seconds += share


def _model(source: Source, gang: Gang | None) -> Model:
    family = source.family
    if gang is None and hasattr(family, "Runs"):
        runs: Model = family.Runs(source)
        return runs
    transformer = gang.model if gang else family.Transformer(source)
    return Clips(transformer, source.geometry, scheduler_config(source.folder), device=source.device, gang=gang)
