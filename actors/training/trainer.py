"""Trains a latent reward on Ray Train: workers read the shards that `collect` wrote through Ray Data, a row a group.

A group is some rollouts of one caption at one noise level, all pairs of which are compared. Step k of a run with seed s
sees the same groups and draws the same random numbers however often it was killed before.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn

from actors.backend import model_folder
from actors.models import DTYPES, family
from actors.rewards import latent_reward, pavrm
from actors.training import losses
from actors.training.loop import hash_of, learning_rate
from actors.training.pairs import accuracy, agreement
from actors.training.pipeline import FastAttention
from raysearch import train
from raysearch.errors import ConfigError, check
from raysearch.recipe import digest
from raysearch.results import write
from raysearch.signature import bind
from raysearch.train import TrainConfig

SHUFFLED = 512  # groups that a worker draws its batches from


@dataclass(frozen=True)
class Trainee:
    """A reward in training; `captions` gives what its net takes of captions, `save` writes it."""

    net: nn.Module
    captions: Callable[[Sequence[str]], Any]
    save: Callable[[Path], None]


# -- the rewards -----------------------------------------------------------------------------------------------------


def of_pavrm(c: TrainConfig, *, model: str, blocks: int = 8, heads: int = 8) -> Trainee:
    """Over a model's first blocks, with the captions' embeddings of its own text encoder."""
    folder = model_folder(model)
    net = pavrm.of_model(folder, blocks=blocks, heads=heads, components=c.components)
    device = "cuda" if c.workers.num_gpus else "cpu"
    if device == "cpu" and c.dtype == "bfloat16":
        for block in net.transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(FastAttention())
    encoder = family(folder).TextEncoder(folder, dtype="float32", device=device)
    known: dict[str, torch.Tensor] = {}

    def captions(texts: Sequence[str]) -> torch.Tensor:
        for text in set(texts) - known.keys():
            known[text] = torch.tensor(encoder(text, c.max_sequence_length))
        return torch.cat([known[t] for t in texts])

    return Trainee(net, captions, lambda out: pavrm.save(net, out))


def of_latent(c: TrainConfig, *, start: str) -> Trainee:
    """From a folder of weights: a pre-trained backbone, or a reward that is trained on."""
    net = latent_reward.load(Path(start))
    if not c.workers.num_gpus:
        net.model.language_model.set_attn_implementation("eager")  # the fastest on a CPU
    return Trainee(net, list, lambda out: latent_reward.save(net, out))


def latents_of_pavrm(c: TrainConfig, *, model: str, blocks: int = 8, heads: int = 8) -> tuple[int | None, ...]:
    """The latents that the reward takes, (C, T, H, W), None for any. Raises ConfigError."""
    return pavrm.check_model(model_folder(model), blocks, heads)["in_channels"], None, None, None


def latents_of_latent(c: TrainConfig, *, start: str) -> tuple[int | None, ...]:
    config = latent_reward.read_config(Path(start), "reward.start")
    own = ["VQ", "MQ", "TA"]
    check(c.components == own, "components", c.components, f"{own}, which the reward of {start} has")
    return config.shape


REWARDS = {"pavrm": (of_pavrm, latents_of_pavrm), "latent": (of_latent, latents_of_latent)}


def check_reward(c: TrainConfig) -> None:
    """Raises ConfigError where the reward's block is wrong, or the dataset does not fit it; loads no weights."""
    name, given = c.reward["name"], {k: v for k, v in c.reward.items() if k != "name"}
    check(name in REWARDS, "reward.name", name, f"one of {', '.join(REWARDS)}")
    build, latents = REWARDS[name]
    wanted, shape = latents(c, **bind(build, given, f"reward {name}", "reward")), train.latent_shape(train.columns(c))
    fits = len(wanted) == len(shape) and all(w in (None, s) for w, s in zip(wanted, shape, strict=True))
    shown = "(" + ", ".join("any" if w is None else str(w) for w in wanted) + ")"
    check(fits, "dataset", c.dataset, f"one of latents {shown}, which the reward takes: these are {shape}")


def trainee(c: TrainConfig) -> Trainee:
    """What the config's `reward` block describes."""
    build, _ = REWARDS[c.reward["name"]]
    return build(c, **{k: v for k, v in c.reward.items() if k != "name"})


# -- the data --------------------------------------------------------------------------------------------------------


def grouped(rows: dict[str, np.ndarray], *, size: int, components: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Rows of whole captions -> a row for each `size` of them that share caption and noise level; the rest is left."""
    order: dict[tuple[str, int, bool], list[int]] = {}
    for i, key in enumerate(zip(rows["prompt"], rows["step"], rows["first"], strict=True)):
        order.setdefault((str(key[0]), int(key[1]), bool(key[2])), []).append(i)
    chosen = []
    for (prompt, step, _), members in order.items():
        draw = np.random.default_rng(int.from_bytes(digest("group", seed, prompt, step)[:8], "big"))
        mixed = draw.permutation(members)
        chosen += [mixed[i : i + size] for i in range(0, len(mixed) - size + 1, size)]
    index = np.array(chosen, dtype=np.int64).reshape(len(chosen), size)
    return {
        "prompt": rows["prompt"][index[:, 0]],
        "sigma": rows["sigma"][index[:, 0]],
        "first": rows["first"][index[:, 0]],
        "latent": rows["latent"][index],
        "similarity": rows["similarity"][index],
        "grades": np.stack([rows[c] for c in components], -1)[index],
    }


def batches(c: TrainConfig, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of batch / group groups for this worker, from step `start` on."""
    shard = ray.train.get_dataset_shard("train")
    step = 0
    for epoch in count():
        before = step
        found = shard.iter_batches(
            batch_size=c.batch // c.group,
            batch_format="numpy",
            drop_last=True,
            local_shuffle_buffer_size=SHUFFLED,
            local_shuffle_seed=hash_of(c.seed, epoch) % 2**32,
        )
        for batch in found:
            step += 1
            if step > start:
                yield batch
        if step == before:
            raise ConfigError.of("batch", c.batch, f"smaller: a worker's share has not {c.batch // c.group} groups")


# -- the loop of a worker --------------------------------------------------------------------------------------------


def work(c: TrainConfig) -> None:
    """Ray Train's worker: trains until `steps`, and leaves the averaged weights in run_dir/reward."""
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(c.workers.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(c.seed)
    run_dir, first = Path(str(c.run_dir)), ray.train.get_context().get_world_rank() == 0
    t = trainee(c)
    model = ray.train.torch.prepare_model(t.net)
    learnt = [p for p in t.net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=c.learning_rate, betas=(0.9, 0.99), weight_decay=c.weight_decay)
    average, start, spent = Average(t.net, c.ema), 0, 0.0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True, map_location=device)
        t.net.load_state_dict(state["net"], strict=False)  # what is not trained is there already
        optimizer.load_state_dict(state["optimizer"])
        average.values, start, spent = state["average"], state["step"], state["seconds"]
    rows, began, parts = train.recorded(run_dir, start) if first else [], time.monotonic() - spent, Parts()
    t.net.train()
    for step, batch in zip(range(start, c.steps), batches(c, start), strict=False):
        torch.manual_seed(hash_of(c.seed, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, c.steps, peak=c.learning_rate, warm_up=c.warm_up)
        loss = loss_of(c, model, t, batch, device, parts)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        average.update(step)
        done, looks = step + 1, (step + 1) % c.every == 0 or step + 1 == c.steps
        if first and (done % 10 == 0 or looks):
            write(run_dir / train.PROGRESS, json.dumps(progress(c, done, time.monotonic() - began, parts)).encode())
        if not looks:
            continue
        if first:
            with average:
                found = test(c, t, device)
                if done == c.steps:
                    t.save(run_dir / train.REWARD)
            rows += [{"step": done, "metric": k, "value": v} for k, v in {**parts.means(), **found}.items()]
            train.record(run_dir, rows)
            with tempfile.TemporaryDirectory() as folder:
                state = {
                    "net": {k: p for k, p in t.net.named_parameters() if p.requires_grad},
                    "optimizer": optimizer.state_dict(),
                    "average": average.values,
                    "step": done,
                    "seconds": time.monotonic() - began,
                }
                torch.save(state, Path(folder) / "state.pt")
                ray.train.report(found, checkpoint=Checkpoint.from_directory(folder))
        else:
            ray.train.report({})
        parts = Parts()


class Parts:
    """Sums of the losses since the last look."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.n = 0

    def add(self, values: dict[str, float]) -> None:
        self.n += 1
        for k, v in values.items():
            self.sums[k] = self.sums.get(k, 0.0) + v

    def means(self) -> dict[str, float]:
        return {k: v / self.n for k, v in self.sums.items()} if self.n else {}


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


def progress(c: TrainConfig, done: int, seconds: float, parts: Parts) -> dict[str, Any]:
    return {"step": done, "steps": c.steps, "seconds": seconds, **parts.means()}


def loss_of(
    c: TrainConfig, model: nn.Module, t: Trainee, batch: dict[str, np.ndarray], device: torch.device, parts: Parts
) -> torch.Tensor:
    """The weighted losses of a batch of groups."""
    n, size = batch["latent"].shape[:2]
    grades = torch.tensor(batch["grades"], dtype=torch.float32, device=device)
    scores = scored(c, model, t, batch, device).view(n, size, -1)
    likeness = torch.tensor(batch["similarity"], dtype=torch.float32, device=device)
    found = {
        "preference": lambda: losses.preference(scores, grades, margin=c.loss.margin),
        "regression": lambda: losses.regression(scores, grades * likeness[..., None]),
        "binary": lambda: losses.binary(scores, grades, threshold=c.loss.threshold),
    }
    values = {name: loss() for name, loss in found.items() if getattr(c.loss, name)}
    total = sum(getattr(c.loss, name) * value for name, value in values.items())
    assert isinstance(total, torch.Tensor)
    parts.add({"loss": total.item(), **{k: v.item() for k, v in values.items()}})
    return total


def scored(
    c: TrainConfig, model: nn.Module, t: Trainee, batch: dict[str, np.ndarray], device: torch.device
) -> torch.Tensor:
    """Scores (groups x size, components) of a batch of groups."""
    size = batch["latent"].shape[1]
    latents = torch.tensor(batch["latent"], dtype=torch.float32).flatten(0, 1).to(device)
    sigmas = torch.tensor(batch["sigma"], dtype=torch.float32).repeat_interleave(size).to(device)
    texts = [str(p) for p in batch["prompt"] for _ in range(size)]
    first = torch.tensor(batch["first"]).repeat_interleave(size).to(device)
    captions = t.captions(texts)
    if isinstance(captions, torch.Tensor):
        captions = captions.to(device)
    low = torch.autocast(device.type, DTYPES[c.dtype]) if c.dtype != "float32" else nullcontext()
    with low:
        return model(latents, sigmas, captions, first).float()


@torch.no_grad()
def test(c: TrainConfig, t: Trainee, device: torch.device) -> dict[str, float]:
    """How often the sum of scores orders a pair of the test split rightly, by noise level."""
    keys: list[tuple[str, float]] = []
    sums: list[np.ndarray] = []
    for batch in ray.train.get_dataset_shard("test").iter_batches(batch_size=c.batch // c.group, batch_format="numpy"):
        size = batch["latent"].shape[1]
        scores = scored(c, t.net, t, batch, device).sum(-1).cpu().numpy()
        keys += [(str(p), float(s)) for p, s in zip(batch["prompt"], batch["sigma"], strict=True) for _ in range(size)]
        sums.append(np.stack([scores, batch["grades"].sum(-1).ravel()]))
    if not sums:
        return {}
    counts = agreement(*np.concatenate(sums, 1), keys)
    return {
        f"accuracy {sigma:.2f}": accuracy([n for (_, s), n in counts.items() if s == sigma])
        for sigma in sorted({s for _, s in keys}, reverse=True)
    }


# -- the driver ------------------------------------------------------------------------------------------------------


def fit(c: TrainConfig) -> None:
    """Train on the Ray cluster that this process is connected to; goes on from the last checkpoint in run_dir."""
    shards = {s: sorted(str(p.resolve()) for p in Path(c.dataset).glob(f"{s}-*.parquet")) for s in ("train", "test")}
    kept = ["prompt", "step", "sigma", "first", "latent", "similarity", *c.components]
    how = {"size": c.group, "components": tuple(c.components), "seed": c.seed}
    data = {
        split: ray.data.read_parquet(files, columns=kept).map_batches(grouped, batch_size=None, fn_kwargs=how)
        for split, files in shards.items()
        if files
    }
    if "test" not in data:
        data["test"] = ray.data.from_items([])
    w = c.workers
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths are the checkout's
    TorchTrainer(
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
            name="checkpoints",
            storage_path=str(Path(str(c.run_dir)).resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()
