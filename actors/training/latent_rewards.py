"""Trains a latent reward on Ray Train: workers read the shards that `collect` wrote through Ray Data, a row a group.

A group is some rollouts of one caption at one noise level, all pairs of which are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import ray.train
import torch
from torch import nn

from actors.models import family, model_folder
from actors.rewards import latent_reward, pavrm
from actors.tiny.training.pipeline import use_fast_attention
from actors.training import config as train
from actors.training import distributed, losses
from actors.training.config import TrainConfig
from actors.training.distributed import Parts
from actors.training.pairs import accuracy, agreement, grouped
from raysearch.config.binding import bind
from raysearch.errors import check
from raysearch.files import content_digest, replacing
from raysearch.session.dataset import SPLITS, shards_of


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
    pictured = family(folder).Geometry.of(folder).pictured
    check(not pictured, "reward.model", model, "a model whose transformer takes latents alone")
    net = pavrm.of_model(folder, blocks=blocks, heads=heads, components=c.components)
    device = "cuda" if c.workers.num_gpus else "cpu"
    if device == "cpu" and c.dtype == "bfloat16":
        use_fast_attention(net.transformer)
    encoder = family(folder).TextEncoder(folder, dtype="float32", device=device)
    captions = distributed.embedder(encoder, c.max_sequence_length)
    return Trainee(net, captions, lambda out: pavrm.save(net, out))


def of_latent(c: TrainConfig, *, start: str) -> Trainee:
    """From a folder of weights: a pre-trained backbone, or a reward that is trained on."""
    net = latent_reward.load(Path(start))
    if not c.workers.num_gpus:
        net.model.language_model.set_attn_implementation("eager")  # the fastest on a CPU
    return Trainee(net, list, lambda out: latent_reward.save(net, out))


Start = tuple[tuple[int | None, ...], list[Path]]


def start_of_pavrm(c: TrainConfig, *, model: str, blocks: int = 8, heads: int = 8) -> Start:
    """The latents that the reward takes, (C, T, H, W), None for any; and what it begins with. Raises ConfigError."""
    folder = model_folder(model)
    return (pavrm.check_model(folder, blocks, heads)["in_channels"], None, None, None), [folder]


def start_of_latent(c: TrainConfig, *, start: str) -> Start:
    config = latent_reward.read_config(Path(start), "reward.start")
    own = list(latent_reward.COMPONENTS)
    check(c.components == own, "components", c.components, f"{own}, which the reward of {start} has")
    return config.shape, latent_reward.LatentReward.files(folder=Path(start))


REWARDS = {"pavrm": (of_pavrm, start_of_pavrm), "latent": (of_latent, start_of_latent)}


def check_reward(c: TrainConfig) -> dict[str, bytes]:
    """Digests of what a config only names.

    Raises ConfigError where the reward's block is wrong, or the dataset does not fit it; loads no weights.
    """
    name, given = c.reward["name"], {k: v for k, v in c.reward.items() if k != "name"}
    check(name in REWARDS, "reward.name", name, f"one of {', '.join(REWARDS)}")
    build, start = REWARDS[name]
    wanted, files = start(c, **bind(build, given, "reward"))
    shape = train.latent_shape(train.columns(c))
    fits = len(wanted) == len(shape) and all(w in (None, s) for w, s in zip(wanted, shape, strict=True))
    shown = "(" + ", ".join("any" if w is None else str(w) for w in wanted) + ")"
    check(fits, "dataset", c.dataset, f"one of latents {shown}, which the reward takes: these are {shape}")
    train.check_rows(c, c.dataset)
    return {"the reward's first weights": content_digest(files), "the dataset's shards": train.content_of(c.dataset)}


def trainee(c: TrainConfig) -> Trainee:
    """What the config's `reward` block describes."""
    build, _ = REWARDS[c.reward["name"]]
    return build(c, **{k: v for k, v in c.reward.items() if k != "name"})


# -- the loop of a worker --------------------------------------------------------------------------------------------


def work(c: TrainConfig) -> None:
    """Ray Train's worker: trains until `steps`, and leaves the averaged weights in run_dir/reward."""
    device = distributed.begin(c)
    t = trainee(c)
    model = ray.train.torch.prepare_model(t.net)
    distributed.train(
        c,
        t.net,
        lambda step, batch, parts: loss_of(c, model, t, batch, device, parts),
        batches=lambda start: distributed.batches(c, c.batch // c.group, start, "groups"),
        test=lambda: test(c, t, device),
        save=lambda: keep(t, Path(str(c.run_dir))),
        panels=train.PANELS,
    )


def keep(t: Trainee, run_dir: Path) -> None:
    with replacing(run_dir / train.REWARD) as folder:
        t.save(folder)


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
    with distributed.precision(device, c.dtype):
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
    shards = {s: [str(p.resolve()) for p in shards_of(Path(c.dataset), s)] for s in SPLITS}
    kept = [*train.COLUMNS, *c.components]
    how = {"size": c.group, "components": tuple(c.components), "seed": c.seed}
    data = {
        split: ray.data.read_parquet(files).select_columns(kept).map_batches(grouped, batch_size=None, fn_kwargs=how)
        for split, files in shards.items()
        if files
    }
    if "test" not in data:
        data["test"] = ray.data.from_items([])
    distributed.fit(c, work, data)
