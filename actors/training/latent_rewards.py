"""Trains a latent reward on Ray: workers read the shards that `collect` wrote through Ray Data, a row a group.

A group is a few rollouts of one caption at one noise level; its latents are compared in all pairs.

Shapes: a batch has n groups of k latents; each latent has C channels, T frames, H x W.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import ray.train
import torch
from torch import nn

from actors.models import folder as folders
from actors.models.source import check_lengths, located, opened
from actors.rewards import latent_reward, pavrm
from actors.training import distributed, losses
from actors.training.attention import use_fast_attention
from actors.training.config import (
    COLUMNS,
    REWARD,
    TrainConfig,
    captions_of,
    check_rows,
    columns,
    content_of,
    latent_shape,
)
from actors.training.loop import Means
from actors.training.metrics import Panel
from actors.training.pairs import accuracy, agreement, grouped
from raysearch.config.binding import bind
from raysearch.errors import check
from raysearch.files import Folder, content_digest
from raysearch.session.dataset import SPLITS, shards_of

PANELS = (
    Panel("losses", "loss", ("loss", "preference", "regression", "binary")),
    Panel("pairs of the test split ordered rightly, by the sum", "accuracy", ("accuracy",)),
)


@dataclass(frozen=True)
class Trainee:
    """A reward in training.

    `captions` turns texts into the input that the net takes for them: embeddings (n, length, dim), or the texts
    themselves. `save` writes the reward to a folder.
    """

    net: nn.Module
    captions: Callable[[Sequence[str]], Any]
    save: Callable[[Path], None]


# -- the rewards -----------------------------------------------------------------------------------------------------


def of_pavrm(c: TrainConfig, *, model: str, blocks: int = 8, heads: int = 8) -> Trainee:
    """An untrained PAVRM over the first blocks of a model, which embeds captions by the model's own text encoder."""
    source = opened(located(model, "reward.model"), "reward.model")
    image_to_video = source.geometry.image_to_video
    check(not image_to_video, "reward.model", model, "a model whose transformer takes latents alone")
    net = pavrm.of_model(source.folder, blocks=blocks, heads=heads, components=c.components)
    device = "cuda" if c.workers.num_gpus else "cpu"
    if device == "cpu" and c.dtype == "bfloat16":
        use_fast_attention(net.transformer)
    encoder = source.family.TextEncoder(replace(source, device=device))
    captions = distributed.embedder(encoder, c.max_sequence_length)
    return Trainee(net, captions, lambda out: pavrm.save(net, out))


def of_latent(c: TrainConfig, *, start: str) -> Trainee:
    """A latent reward that begins with the weights of a folder: a pre-trained backbone, or a trained reward.

    A component that the folder's reward does not have begins with an untrained query.
    """
    net = latent_reward.load(Path(start))
    latent_reward.ask(net, c.components)
    if not c.workers.num_gpus:
        net.model.language_model.set_attn_implementation("eager")  # the fastest on a CPU
    return Trainee(net, list, lambda out: latent_reward.save(net, out))


Start = tuple[tuple[int | None, ...], bytes]


def start_of_pavrm(c: TrainConfig, *, model: str, blocks: int = 8, heads: int = 8) -> Start:
    """The shape (C, T, H, W) of the latents that a PAVRM takes, None for any size, and a digest of the first weights.

    Raises ConfigError where the model does not fit.
    """
    source = opened(located(model, "reward.model"), "reward.model")
    folder = source.folder
    check_lengths(source, dict.fromkeys(captions_of(c.dataset), "dataset"), c.max_sequence_length)
    return (pavrm.check_model(folder, blocks, heads)["in_channels"], None, None, None), folders.content(
        folder, "reward.model"
    )


def start_of_latent(c: TrainConfig, *, start: str) -> Start:
    """The same of a latent reward. Raises ConfigError."""
    config = latent_reward.read_config(Path(start), "reward.start")
    return config.shape, content_digest(latent_reward.LatentReward.files(folder=Path(start)))


REWARDS: dict[str, tuple[Callable[..., Trainee], Callable[..., Start]]] = {
    "pavrm": (of_pavrm, start_of_pavrm),
    "latent": (of_latent, start_of_latent),
}


def check_reward(c: TrainConfig) -> dict[str, bytes]:
    """Digests of the files that a config names, each under its description. Loads no weights.

    Raises ConfigError where the keys of `reward` are wrong, or the dataset does not fit it.
    """
    name, given = c.reward["name"], {k: v for k, v in c.reward.items() if k != "name"}
    check(name in REWARDS, "reward.name", name, f"one of {', '.join(REWARDS)}")
    build, start = REWARDS[name]
    wanted, content = start(c, **bind(build, given, "reward"))
    shape = latent_shape(columns(c))
    fits = len(wanted) == len(shape) and all(w in (None, s) for w, s in zip(wanted, shape, strict=True))
    shown = "(" + ", ".join("any" if w is None else str(w) for w in wanted) + ")"
    check(fits, "dataset", c.dataset, f"one of latents {shown}, which the reward takes: these are {shape}")
    check_rows(c, c.dataset)
    return {"the reward's first weights": content, "the dataset's shards": content_of(c.dataset)}


def trainee(c: TrainConfig) -> Trainee:
    """The reward that the config's `reward` key describes, with its first weights."""
    build, _ = REWARDS[c.reward["name"]]
    return build(c, **{k: v for k, v in c.reward.items() if k != "name"})


# -- the loop of a worker --------------------------------------------------------------------------------------------


def work(c: TrainConfig) -> None:
    """What every worker of Ray Train runs: trains up to `c.steps`; the first leaves the reward in run_dir/reward."""
    device = distributed.begin(c)
    t = trainee(c)
    model = ray.train.torch.prepare_model(t.net)
    distributed.train(
        c,
        t.net,
        lambda step, batch, means: loss_of(c, model, t, batch, device, means),
        batches=lambda start: distributed.batches(c, c.batch // c.group, start, "groups"),
        test=lambda: accuracies(c, t, device),
        save=lambda: keep(t, Path(str(c.run_dir))),
        panels=PANELS,
    )


def keep(t: Trainee, run_dir: Path) -> None:
    """Write the reward to its folder in the run directory, whole or not at all."""
    with Folder(run_dir).replacing(REWARD) as folder:
        t.save(folder)


def loss_of(
    c: TrainConfig, model: nn.Module, t: Trainee, batch: dict[str, np.ndarray], device: torch.device, means: Means
) -> torch.Tensor:
    """The weighted sum of the losses of a batch of groups, a scalar; each loss is added to `means`."""
    n, size = batch["latent"].shape[:2]
    grades = torch.tensor(batch["grades"], dtype=torch.float32, device=device)
    scores = scored(c, model, t, batch, device).view(n, size, -1)
    likeness = torch.tensor(batch["similarity"], dtype=torch.float32, device=device)
    found = {
        "preference": lambda: losses.preference(scores, grades, margin=c.loss.margin),
        "regression": lambda: losses.regression(scores, grades * likeness[..., None], temperature=c.loss.temperature),
        "binary": lambda: losses.binary(scores, grades, threshold=c.loss.threshold),
    }
    values = {name: loss() for name, loss in found.items() if getattr(c.loss, name)}
    total = sum(getattr(c.loss, name) * value for name, value in values.items())
    assert isinstance(total, torch.Tensor)
    means.add({"loss": total.item(), **{k: v.item() for k, v in values.items()}})
    return total


def scored(
    c: TrainConfig, model: nn.Module, t: Trainee, batch: dict[str, np.ndarray], device: torch.device
) -> torch.Tensor:
    """Scores (n k, components) of a batch of groups, float32."""
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
def accuracies(c: TrainConfig, t: Trainee, device: torch.device) -> dict[str, float]:
    """For each noise level, the share of pairs of the test split that the sum of the scores orders as the grades do."""
    keys: list[tuple[str, float]] = []
    sums: list[np.ndarray] = []
    for batch in ray.train.get_dataset_shard("test").iter_batches(batch_size=c.batch // c.group, batch_format="numpy"):
        size = batch["latent"].shape[1]
        scores = scored(c, t.net, t, batch, device).sum(-1).cpu().numpy()
        keys += [(str(p), float(s)) for p, s in zip(batch["prompt"], batch["sigma"], strict=True) for _ in range(size)]
        sums.append(np.stack([scores, batch["grades"].sum(-1).ravel()]))
    if not sums:
        return {}
    scored_sums, grade_sums = np.concatenate(sums, 1)
    counts = agreement(scored_sums, grade_sums, keys)
    return {
        f"accuracy {sigma:.2f}": accuracy([n for (_, s), n in counts.items() if s == sigma])
        for sigma in sorted({s for _, s in keys}, reverse=True)
    }


# -- the driver ------------------------------------------------------------------------------------------------------


def fit(c: TrainConfig) -> None:
    """Train on the Ray cluster that this process is connected to, from the last checkpoint in the run directory.

    Raises RaysearchError where the training fails.
    """
    shards = {split: shards_of(Path(c.dataset), split) for split in SPLITS}
    kept = [*COLUMNS, *c.components]
    how = {"size": c.group, "components": tuple(c.components), "seed": c.seed}
    data = {
        split: distributed.read(found, kept).map_batches(grouped, batch_size=None, fn_kwargs=how)
        for split, found in shards.items()
        if found
    }
    if "test" not in data:
        data["test"] = ray.data.from_items([])
    distributed.fit(c, work, data)
