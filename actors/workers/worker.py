"""A replica's worker: a denoiser, scorer or encoder with its model loaded, behind one interface."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import diffusers
import transformers
from torch.distributed import Store  # type: ignore[attr-defined]

from actors.workers import memory
from actors.workers.denoiser import Denoiser
from actors.workers.encoder import Encoder
from actors.workers.gang import Gang, Place
from actors.workers.pulse import Pulse
from actors.workers.scorer import Scorer
from raysearch.config.config import Config, PoolConfig
from raysearch.engine.protocol import Denoise, Request
from raysearch.session.plan import Plan


def build(kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> Denoiser | Scorer | Encoder:
    """The worker of one replica, with its model loaded; a sharded denoiser's leads its `gang`."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder, dtype = plan.details["folder"], config.model.dtype
    pool: PoolConfig = getattr(config.fleet, f"{kind}s")
    if kind == "denoiser":
        return Denoiser(folder, dtype=dtype, device=pool.device, slots=pool.slots, gang=gang)
    if kind == "scorer":
        return Scorer(folder, plan.details["rewards"], dtype=dtype, device=pool.device)
    return Encoder(folder, dtype=dtype, device=pool.device)


def shard(config: Config, plan: Plan, place: Place, store: Store | None = None) -> Gang:
    """One rank of a denoiser's gang, with its part of the model loaded, once all ranks have theirs."""
    folder, dtype, pool = plan.details["folder"], config.model.dtype, config.fleet.denoisers
    return Gang(folder, dtype=dtype, device=pool.device, pool=pool, place=place, store=store)


class Worker:
    """A worker and its one compute thread; `submit` never blocks."""

    def __init__(self, kind: str, config: Config, plan: Plan, gang: Gang | None = None) -> None:
        self._worker = build(kind, config, plan, gang)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.pulse = self._worker.pulse if isinstance(self._worker, Denoiser) else Pulse()

    def submit(self, item: int, request: Request, inputs: Mapping[str, Any]) -> "Future[Any]":
        """Resolves to (reply, the big part that an answer refers to)."""
        if isinstance(self._worker, Denoiser):
            assert isinstance(request, Denoise)
            return self._worker.submit(item, request, inputs)
        return self._thread.submit(self._run, request, inputs)

    def _run(self, request: Request, inputs: Mapping[str, Any]) -> Any:
        with self.pulse.beat(), memory.guarded():
            return self._worker.run(request, inputs)  # type: ignore[union-attr, arg-type]

    def cancel(self, item: int) -> None:
        if isinstance(self._worker, Denoiser):
            self._worker.cancel(item)

    def close(self) -> None:
        self._thread.shutdown()
        if isinstance(self._worker, Denoiser):
            self._worker.close()
