"""What trainings on Ray Train share: a worker's loop with checkpoints, its batches from Ray Data, the driver's call.

Step k of a run with seed s sees the same batch and draws the same random numbers however often it was killed before.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn

from actors.models import DTYPES
from actors.tiny.training.loop import hash_of, learning_rate
from actors.training.config import CHECKPOINTS, PROGRESS, Panel, Settings, record, recorded
from raysearch.errors import ConfigError, RaysearchError
from raysearch.files import write


class Parts:
    """Means of what was added under each name since the last look."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        for k, v in values.items():
            self.sums[k] = self.sums.get(k, 0.0) + v
            self.counts[k] = self.counts.get(k, 0) + 1

    def means(self) -> dict[str, float]:
        return {k: v / self.counts[k] for k, v in self.sums.items()}


class Average:
    """The exponential moving average of the parameters that are trained; within it, the net has those."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = net, decay
        self.values = {k: p.detach().clone() for k, p in self._learnt()}

    def _learnt(self) -> list[tuple[str, nn.Parameter]]:
        return [(k, p) for k, p in self.net.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for k, p in self._learnt():
            self.values[k].lerp_(p, 1 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        for k, p in self._learnt():
            own = p.clone()
            p.copy_(self.values[k])
            self.values[k] = own

    def __enter__(self) -> None:
        self._swap()
        self.net.eval()

    def __exit__(self, *_: object) -> None:
        self._swap()
        self.net.train()


def embedder(encoder: Callable[[str, int], np.ndarray], length: int) -> Callable[[Sequence[str]], torch.Tensor]:
    """Embeddings (n, length, dim) of texts, the latest of which are kept."""
    embed = lru_cache(256)(lambda text: torch.tensor(encoder(text, length)))
    return lambda texts: torch.cat([embed(t) for t in texts])


def precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Within it, forwards are done in `dtype`; weights stay what they are."""
    return torch.autocast(device.type, DTYPES[dtype]) if dtype != "float32" else nullcontext()


def rank() -> int:
    return ray.train.get_context().get_world_rank()


def begin(c: Settings) -> torch.device:
    """Prepare this worker's torch; its device."""
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(c.workers.threads)
    torch.set_flush_denormal(True)  # second moments of near-dead weights slow a CPU down otherwise
    torch.manual_seed(c.seed)
    return device


def batches(c: Settings, size: int, start: int, rows: str = "rows") -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of `size` of this worker's rows, from that of step `start` on."""
    shard = ray.train.get_dataset_shard("train")
    step = 0
    for epoch in count():
        before = step
        found = shard.iter_batches(
            batch_size=size,
            batch_format="numpy",
            drop_last=True,
            local_shuffle_buffer_size=c.shuffle,
            local_shuffle_seed=hash_of(c.seed, epoch) % 2**32,
        )
        for batch in found:
            step += 1
            if step > start:
                yield batch
        if step == before:
            raise ConfigError.of("batch", c.batch, f"smaller: a worker's share has not {size} {rows}")


def train(
    c: Settings,
    net: nn.Module,
    loss: Callable[[int, Any, Parts], torch.Tensor],
    *,
    batches: Callable[[int], Iterable[Any]],
    test: Callable[[], dict[str, float]],
    save: Callable[[], None],
    panels: Sequence[Panel],
    max_grad_norm: float = 1.0,
    norm: Callable[[int], str] = lambda step: "gradient norm",
) -> None:
    """The loop of a worker: `loss(step, batch, parts)` is minimised over what of `net` is not frozen.

    Every so often, with the averaged weights, `test()` looks at them; `save()` keeps them at the end. `norm` names the
    gradient norm of a step.
    """
    run_dir, first = Path(str(c.run_dir)), rank() == 0
    learnt = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=c.learning_rate, betas=(0.9, 0.99), weight_decay=c.weight_decay)
    average, start, spent = Average(net, c.ema) if c.ema else None, 0, 0.0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True, map_location=learnt[0].device)
        net.load_state_dict(state["net"], strict=False)  # what is not trained is there already
        optimizer.load_state_dict(state["optimizer"])
        start, spent = state["step"], state["seconds"]
        if average:
            average.values = state["average"]
    rows, began, parts = recorded(run_dir, start) if first else [], time.monotonic() - spent, Parts()
    net.train()
    for step, batch in zip(range(start, c.steps), batches(start), strict=False):
        torch.manual_seed(hash_of(c.seed, step, rank()))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, c.steps, peak=c.learning_rate, warm_up=c.warm_up)
        value = loss(step, batch, parts)
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        parts.add({norm(step): nn.utils.clip_grad_norm_(learnt, max_grad_norm).item()})
        optimizer.step()
        if average:
            average.update(step)
        done, looks = step + 1, (step + 1) % c.every == 0 or step + 1 == c.steps
        if first and (done % 10 == 0 or looks):
            write(run_dir / PROGRESS, json.dumps(progress(c, done, time.monotonic() - began, parts)).encode())
        if not looks:
            continue
        if first:
            with average or nullcontext():
                found = test()
                if done == c.steps:
                    save()
            rows += [{"step": done, "metric": k, "value": v} for k, v in {**parts.means(), **found}.items()]
            record(run_dir, rows, panels)
            with tempfile.TemporaryDirectory() as folder:
                state = {
                    "net": {k: p for k, p in net.named_parameters() if p.requires_grad},
                    "optimizer": optimizer.state_dict(),
                    "average": average.values if average else {},
                    "step": done,
                    "seconds": time.monotonic() - began,
                }
                torch.save(state, Path(folder) / "state.pt")
                ray.train.report(found, checkpoint=Checkpoint.from_directory(folder))
        else:
            ray.train.report({})
        parts = Parts()


def progress(c: Settings, done: int, seconds: float, parts: Parts) -> dict[str, Any]:
    return {"step": done, "steps": c.steps, "seconds": seconds, **parts.means()}


def fit(c: Settings, work: Callable[[Any], None], data: dict[str, ray.data.Dataset]) -> None:
    """Run workers on the Ray cluster that this process is connected to, from the last checkpoint in run_dir.

    Raises what a worker raised if it is one of ours, else RaysearchError.
    """
    w = c.workers
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths are the checkout's
    ray.data.DataContext.get_current().execution_options.preserve_order = True  # batches are the same every time
    trainer = TorchTrainer(
        work,
        train_loop_config=c,  # type: ignore[arg-type]
        datasets=data,
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
        scaling_config=ScalingConfig(
            num_workers=w.number,
            use_gpu=w.num_gpus > 0,
            resources_per_worker={"CPU": w.num_cpus} | ({"GPU": w.num_gpus} if w.num_gpus else {}),
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=str(Path(str(c.run_dir)).resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        for failure in getattr(error, "worker_failures", {}).values():
            cause = getattr(failure, "_base_exc", failure)
            if isinstance(cause, RaysearchError):
                raise cause from error
        raise RaysearchError(f"the training failed: {' '.join(str(error).split())[-600:]}") from error
