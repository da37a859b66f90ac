"""The config of `raysearch train`, which trains a latent reward, and the keys that every training
has. No torch and no Ray here: both take seconds to import.

    reward: {name: pavrm, model: actors/assets/tiny-wan, blocks: 6}
    dataset: runs/collect/dataset
    loss: {preference: 1.0}
    steps: 2000

A training that was killed goes on from its last checkpoint when the same command is given again. In shapes, latents
have C channels, T frames, H x W.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.shipped import wrong_names
from raysearch.config import config as configuration
from raysearch.config.binding import structured
from raysearch.config.config import DTYPES
from raysearch.config.reading import read
from raysearch.errors import ConfigError, check
from raysearch.recipe.digests import digest
from raysearch.session.dataset import OWN, SPLITS, shards_of

PROGRESS = "progress.json"  # of the run directory: how far a training is
METRICS, CHECKPOINTS = "metrics.parquet", "checkpoints"  # metrics are written just before each checkpoint
RESUME = ("never", "auto", "require")  # a training has nothing to extend
REWARD = "reward"  # the folder, in the run directory, of the trained reward
TEXTS, FLAGS, NUMBERS, LATENTS = "texts", "booleans", "floating numbers", "floating tensors (C, T, H, W)"
KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    TEXTS: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    FLAGS: pa.types.is_boolean,
    NUMBERS: pa.types.is_floating,
    LATENTS: lambda kind: (
        isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 4 and pa.types.is_floating(kind.value_type)
    ),
}
COLUMNS = {"prompt": TEXTS, "sigma": NUMBERS, "first": FLAGS, "latent": LATENTS, "similarity": NUMBERS}


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; 0 leaves a loss out.

    `preference` is the cross-entropy of score differences between latents of one caption (Bradley-Terry), over pairs
    whose grades are more than `margin` apart. `regression` is the squared error of `temperature` x score to grade x
    similarity. `binary` is the cross-entropy against whether the grade exceeds `threshold`.
    """

    preference: float = 1.0
    regression: float = 0.0
    binary: float = 0.0
    margin: float = 0.0
    temperature: float = 1.0
    threshold: float = 0.5


@dataclass(frozen=True)
class WorkersConfig:
    """Ray Train's workers: each holds a copy of the net and sees its share of the dataset."""

    number: int = 1
    num_gpus: float = 0.0  # of each worker
    num_cpus: float = 1.0  # of each worker
    threads: int = 1  # of torch in a worker without a GPU
    wait: bool = False  # for nodes that an autoscaler brings, instead of refusing more workers than the cluster holds


@dataclass(frozen=True)
class Schedule:
    """How many steps a training takes, and how large they are."""

    steps: int = 2000
    learning_rate: float = 1e-4  # at its peak
    warm_up: int = 100  # steps until the peak
    weight_decay: float = 0.01
    ema: float = 0.999  # decay a step of the moving average of the weights; 0 keeps no average
    seed: int = 0
    every: int = 250  # steps between checkpoints


@dataclass(frozen=True)
class Settings(Schedule):
    """The keys that every training on Ray has."""

    batch: int = 64  # latents a step and worker
    shuffle: int = 512  # rows of the dataset that a worker holds, to draw its batches from
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    address: str | None = None  # of a Ray cluster
    run_dir: str | None = None
    resume: str = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """The config of `raysearch train`. At every checkpoint the reward is also measured on the dataset's test split."""

    reward: dict[str, Any]  # {name: pavrm, model, blocks} or {name: latent, start: a folder of weights}
    dataset: str  # a folder that `collect` made
    components: list[str] = field(default_factory=lambda: ["VQ", "MQ", "TA"])
    loss: LossConfig = field(default_factory=LossConfig)
    group: int = 4  # latents of one caption and noise level, all pairs of which are compared
    dtype: str = "float32"  # of the arithmetic in a forward; weights stay float32
    max_sequence_length: int = 512  # of captions' embeddings, as in sampling


def load(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config in a file, with `key=value` overrides. Raises ConfigError."""
    c = structured(TrainConfig, read(path, overrides, TrainConfig))
    check(isinstance(c.reward.get("name"), str), "reward.name", c.reward.get("name"), "pavrm or latent")
    check(len(set(c.components)) == len(c.components) > 0, "components", c.components, "at least one, each once")
    wrong = wrong_names(tuple(c.components), "those of a reward")
    check(not wrong, "components", c.components, wrong)
    for f in fields(LossConfig):
        value = getattr(c.loss, f.name)
        check(isfinite(value) and value >= 0, f"loss.{f.name}", value, "at least 0 and finite")
    check(c.loss.temperature > 0, "loss.temperature", c.loss.temperature, "above 0")
    weights = c.loss.preference + c.loss.regression + c.loss.binary
    check(weights > 0, "loss", weights, "such that one of preference, regression and binary is above 0")
    check_settings(c)
    check(2 <= c.group <= c.batch and c.batch % c.group == 0, "group", c.group, f"at least 2, a divisor of {c.batch}")
    check(c.dtype in DTYPES[:2], "dtype", c.dtype, f"one of {', '.join(DTYPES[:2])}")
    check(c.max_sequence_length >= 1, "max_sequence_length", c.max_sequence_length, "at least 1")
    columns(c)
    check_numbers(c)
    return c


def check_settings(c: Settings) -> None:
    """Raise ConfigError where a key that every training has is out of bounds."""
    for key in ("steps", "batch", "shuffle", "every"):
        check(getattr(c, key) >= 1, key, getattr(c, key), "at least 1")
    for key in ("warm_up", "weight_decay"):
        check(0 <= getattr(c, key) < float("inf"), key, getattr(c, key), "at least 0 and finite")
    check(0 <= c.seed < 2**63, "seed", c.seed, "in 0..2^63-1")
    check(0 < c.learning_rate < 1, "learning_rate", c.learning_rate, "between 0 and 1")
    check(0 <= c.ema < 1, "ema", c.ema, "at least 0 and below 1")
    check(c.resume in RESUME, "resume", c.resume, f"one of {', '.join(RESUME)}")
    w = c.workers
    check(w.number >= 1, "workers.number", w.number, "at least 1")
    check(w.threads >= 1, "workers.threads", w.threads, "at least 1")
    for key, share in (("num_gpus", w.num_gpus), ("num_cpus", w.num_cpus)):
        check(0 <= share < float("inf"), f"workers.{key}", share, "at least 0 and finite")


def columns(c: TrainConfig) -> pa.Schema:
    """The schema of the dataset. Raises ConfigError where a column that is needed is missing or of another kind."""
    for name in c.components:
        check(name not in OWN, "components", name, f"a grade, not one of {', '.join(OWN)}")
    return schema_of(c.dataset, COLUMNS | dict.fromkeys(c.components, NUMBERS))


def check_numbers(c: TrainConfig) -> None:
    """Raise ConfigError where a column of numbers in the dataset holds a number that is not finite."""
    numbers = ["sigma", "similarity", *c.components]
    for shard in shards_of(Path(c.dataset), *SPLITS):
        for name, values in zip(numbers, pq.read_table(shard, columns=numbers), strict=True):
            finite = pc.all(pc.fill_null(pc.is_finite(values), False)).as_py() is not False
            check(finite, "dataset", str(shard), f"one with finite numbers alone in its column {name!r}")


def schema_of(folder: str, needed: Mapping[str, str]) -> pa.Schema:
    """The schema that all shards of a dataset share.

    `needed` maps the columns that must be there to their kinds, keys of KINDS. Raises ConfigError where the folder
    holds no such dataset.
    """
    train, test = (shards_of(Path(folder), s) for s in SPLITS)
    check(len(train) > 0, "dataset", folder, "a folder of shards train-*.parquet")
    footers = {p: _footer(p) for p in (*train, *test)}
    check(any(footers[p].num_rows for p in train), "dataset", folder, "one with rows in its shards train-*.parquet")
    schema = footers[train[0]].schema.to_arrow_schema()
    for name, kind in needed.items():
        there = schema.get_field_index(name) >= 0 and KINDS[kind](schema.field(name).type)
        check(there, "dataset", str(train[0]), f"one with a column {name!r} of {kind}")
    for path, footer in footers.items():
        same = footer.schema.to_arrow_schema() == schema
        check(same, "dataset", str(path), f"one with the same columns as {train[0].name}")
    return schema


def _footer(shard: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(shard)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"dataset: {str(shard)!r} is no Parquet file") from error


def latent_shape(schema: pa.Schema) -> tuple[int, ...]:
    """The shape (C, T, H, W) of each latent of a dataset."""
    return tuple(schema.field("latent").type.shape)


def check_rows(c: Settings, folder: str) -> None:
    """Raise ConfigError where a worker's share of a dataset is less than a batch."""
    rows = sum(_footer(p).num_rows for p in shards_of(Path(folder), "train"))
    share = rows // c.workers.number
    check(c.batch <= share, "batch", c.batch, f"at most {share}, a worker's share of the {rows} rows in {folder}")


def captions_of(folder: str) -> list[str]:
    """The captions of a dataset, each once."""
    shards = shards_of(Path(folder), *SPLITS)
    found = [pq.read_table(p, columns=["prompt"])["prompt"].unique().to_pylist() for p in shards]
    return list(dict.fromkeys(text for texts in found for text in texts))


def content_of(folder: str) -> bytes:
    """A digest of the shards of a dataset: their names, and their metadata with the sizes and bounds of columns."""
    shards = shards_of(Path(folder), *SPLITS)
    return digest(*(x for p in shards for x in (p.name, repr(_footer(p).to_dict()))))


def resolved(c: Settings) -> str:
    """The whole config as YAML, defaults included."""
    return configuration.resolved(c)
