"""The worker of a replica: a denoiser, scorer or encoder with its model loaded, behind one interface."""

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]

from actors.models.source import Source
from actors.models.weights import quiet
from actors.rewards import building
from actors.workers import memory
from actors.workers.denoiser import Denoiser
from actors.workers.encoder import Encoder
from actors.workers.gang import Gang, Place
from actors.workers.pulse import Pulse
from actors.workers.scorer import Scorer
from raysearch.config.config import Config
from raysearch.config.fleet import PoolConfig
from raysearch.engine.protocol import Denoise, Request
from raysearch.session.plan import Plan
from raysearch.threads import Lane


def build(kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> Denoiser | Scorer | Encoder:
    """A denoiser, scorer or encoder, by `kind`, with its model loaded; a sharded denoiser leads its `gang`."""
    quiet()
    pool: PoolConfig = getattr(config.fleet, f"{kind}s")
    source: Source = replace(plan.details["source"], device=pool.device)
    if kind == "denoiser":
        return Denoiser(source, slots=pool.slots, gang=gang)
    if kind == "scorer":
        long, facts = config.long.chunks > 1, plan.details
        trial = building.made_up(source.geometry, config.model, facts["shape"], facts["caption"], long=long)
        fast = config.fleet.denoisers.slots > 1 and pool.slots > 1  # in the exact mode nothing shares a batch
        return Scorer(source, facts["rewards"], trial, together=fast)
    return Encoder(source)


def shard(config: Config, plan: Plan, place: Place, store: Store | None = None) -> Gang:
    """One rank of a denoiser's gang; returns when every rank has loaded its part. Rank 0 passes the `store`."""
    pool = config.fleet.denoisers
    return Gang(replace(plan.details["source"], device=pool.device), pool=pool, place=place, store=store)


class Worker:
    """A denoiser, scorer or encoder and its compute thread, whose `pulse` can be read from any thread.

    A scorer has a thread for each slot, so that rewards that wait for others are called side by side.
    """

    def __init__(self, kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> None:
        self._worker = build(kind, config, plan, gang)
        self._lane = Lane(kind, config.fleet.scorers.slots if kind == "scorer" else 1)
        # A scorer's threads wait for each other, so the scorer says itself when a thread computes.
        self.pulse = Pulse() if isinstance(self._worker, Encoder) else self._worker.pulse

    def submit(self, item: int, request: Request, inputs: Mapping[str, Any]) -> "Future[Any]":
        """Queue a request and return at once; the future resolves to a reply and the value that the reply is about.

        The value is a state, the files of a video or None, or a condition. `item` is a number to cancel the request by.
        """
        if isinstance(self._worker, Denoiser):
            assert isinstance(request, Denoise)
            return self._worker.submit(item, request, inputs)
        return self._lane.submit(partial(self._run, request, inputs))

    def _run(self, request: Request, inputs: Mapping[str, Any]) -> Any:
        with nullcontext() if isinstance(self._worker, Scorer) else self.pulse.beat(), memory.guarded():
            return self._worker.run(request, inputs)  # type: ignore[union-attr, arg-type]

    def cancel(self, item: int) -> None:
        """Free a leg's slot after the current step; scorers and encoders finish what they were asked for."""
        if isinstance(self._worker, Denoiser):
            self._worker.cancel(item)

    def close(self, patience: float | None = None) -> None:
        """Wait for the compute thread to end, for so many seconds at most; a gang's followers end, too."""
        self._lane.close(patience)
        if isinstance(self._worker, Denoiser):
            self._worker.close(patience)

    def abandon(self) -> None:
        """Let go of the model of a worker that hangs: its thread cannot be ended, and fails if it ever goes on."""
        vars(self._worker).clear()
