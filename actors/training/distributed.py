"""A training on Ray: its batches from Ray Data, its checkpoints and metrics in the run directory, its workers.

Every worker runs the loop of `actors.training.loop`; the first one also keeps checkpoints and writes metrics. A worker
that is started anew goes on from the last checkpoint, with the same batches.
"""

import json
import os
import tempfile
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

from actors.models.weights import DTYPES
from actors.training.config import CHECKPOINTS, PROGRESS, Settings
from actors.training.loop import Loss, Training, seed_of
from actors.training.metrics import Panel, record, recorded
from raysearch.errors import ConfigError, RaysearchError
from raysearch.files import Folder

STATE = "state.pt"  # in a checkpoint's folder
PROGRESS_EVERY = 10  # steps


def embedder(encoder: Callable[[str, int], np.ndarray], length: int) -> Callable[[Sequence[str]], torch.Tensor]:
    """A function from n texts to their embeddings (n, length, dim), float32; it remembers the latest 256 texts.

    `encoder` maps a text and a length to one embedding (1, length, dim).
    """
    embed = lru_cache(256)(lambda text: torch.tensor(encoder(text, length)))
    return lambda texts: torch.cat([embed(t) for t in texts])


def precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """A context in which forwards compute in `dtype`; weights stay as they are."""
    return torch.autocast(device.type, DTYPES[dtype]) if dtype != "float32" else nullcontext()


def read(shards: Sequence[Path], columns: Sequence[str]) -> ray.data.Dataset:
    """Columns of Parquet shards as a dataset whose rows come in the same order every time it is read."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.use_datasource_v2 = False  # the newer reader starts more processes for each epoch than a training has
    return ray.data.read_parquet([str(p.resolve()) for p in shards]).select_columns(list(columns))


def rank() -> int:
    """This worker's number; the first is 0."""
    return ray.train.get_context().get_world_rank()


def begin(c: Settings) -> torch.device:
    """Set up torch in this worker, and return the worker's device."""
    device: torch.device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(c.workers.threads)
    torch.manual_seed(c.seed)
    return device


def batches(c: Settings, size: int, start: int, rows: str = "rows") -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of `size` rows of this worker's share of the dataset, beginning with that of step `start`.

    `rows` is what an error calls them. Raises ConfigError where the share is smaller than a batch.
    """
    shard = ray.train.get_dataset_shard("train")
    step = 0
    for epoch in count():
        before = step
        found = shard.iter_batches(
            batch_size=size,
            batch_format="numpy",
            drop_last=True,
            local_shuffle_buffer_size=c.shuffle,
            local_shuffle_seed=seed_of(c.seed, epoch) % 2**32,
        )
        for batch in found:
            step += 1
            if step > start:
                yield batch
        if step == before:
            raise ConfigError.of("batch", c.batch, f"smaller: a worker's share of the dataset has not {size} {rows}")


def train(
    c: Settings,
    net: nn.Module,
    loss: Loss,
    *,
    batches: Callable[[int], Iterable[Any]],
    test: Callable[[], dict[str, float]],
    save: Callable[[], None],
    panels: Sequence[Panel],
    max_grad_norm: float = 1.0,
    norm_name: Callable[[int], str] = lambda step: "gradient norm",
) -> None:
    """Train `net` in this worker up to `c.steps`, from the last checkpoint.

    `batches(step)` gives the batches from that of a step on. At every checkpoint, the first worker calls `test`, which
    returns metrics of the net with its averaged weights; after the last step it calls `save`, which writes those.
    `norm_name` names the metric of a step's gradient norm. Raises FloatingPointError where a loss is not finite.
    """
    run_dir, first = Path(str(c.run_dir)), rank() == 0
    training = Training(net, c, rank=rank(), max_grad_norm=max_grad_norm)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            device = next(net.parameters()).device
            training.resume(torch.load(Path(folder) / STATE, weights_only=True, map_location=device))
    rows, means = recorded(run_dir, until=training.step) if first else [], training.means
    for norm in training.run(loss, batches(training.step)):
        done = training.step
        means.add({norm_name(done - 1): norm})
        kept = done % c.every == 0 or done == c.steps
        if first and (done % PROGRESS_EVERY == 0 or kept):
            progress = {"step": done, "steps": c.steps, "seconds": training.seconds, **means.values()}
            Folder(run_dir).write(PROGRESS, json.dumps(progress).encode())
        if not kept:
            continue
        if first:
            with training.averaged():
                found = test()
                if done == c.steps:
                    save()
            rows += [{"step": done, "metric": k, "value": v} for k, v in {**means.values(), **found}.items()]
            record(run_dir, rows, panels)
            with tempfile.TemporaryDirectory() as folder:
                torch.save(training.state(), Path(folder) / STATE)
                ray.train.report(found, checkpoint=Checkpoint.from_directory(folder))
        else:
            ray.train.report({})
        means.clear()


def fit(c: Settings, work: Callable[[Any], None], data: dict[str, ray.data.Dataset]) -> None:
    """Run workers, each `work(c)`, on the Ray cluster that this process is connected to.

    They go on from the last checkpoint in the run directory. `data` are datasets by split, made by `read`, of which
    "train" is shared out among the workers. Raises what a worker raised if it is a RaysearchError, else RaysearchError.
    """
    w = c.workers
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # so that relative paths are those of the checkout
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
