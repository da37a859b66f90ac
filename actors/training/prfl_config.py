"""The config of `raysearch prfl`, which fine-tunes a generator on the scores of a latent reward. No torch, no Ray here.

    model: {path: actors/assets/tiny-wan, height: 32, width: 32, num_frames: 17, max_sequence_length: 80}
    sampler: {name: unipc, num_steps: 30, guidance_scale: 2.0}
    reward: {folder: actors/assets/pavrm}
    prompts_file: configs/training_two.txt
    dataset: runs/clean

A training that was killed goes on from its last checkpoint when the same command is given again. In shapes, latents
have C channels, T frames, H x W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.training.config import LATENTS, TEXTS, Settings, check_settings, schema_of
from raysearch.config import prompts
from raysearch.config.binding import structured
from raysearch.config.config import DTYPES, MOST_STEPS, ODE, ModelConfig, SamplerConfig
from raysearch.config.reading import read
from raysearch.errors import check

MODEL, ADAPTER = "model", "lora"  # the folders, in the run directory, of the trained model and its adapters alone


@dataclass(frozen=True)
class RewardConfig:
    """The latent reward that judges: a PAVRM."""

    folder: str = "actors/assets/pavrm"
    weights: dict[str, Any] = field(default_factory=dict)  # of its components in their sum; 1 for those left out


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters, which are trained instead of the model's own weights; rank 0 trains all weights."""

    rank: int = 0
    alpha: float | None = None  # None: the rank
    targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


@dataclass(frozen=True)
class PrflSamplerConfig(SamplerConfig):
    """The sampler that a generator is fine-tuned with, by default of 40 steps."""

    num_steps: int = 40


@dataclass(frozen=True, kw_only=True)
class PrflConfig(Settings):
    """The config of `raysearch prfl`. `model.dtype` is that of a forward's arithmetic; weights stay float32."""

    model: ModelConfig
    sampler: PrflSamplerConfig = field(default_factory=PrflSamplerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    prompts: list[Any] | None = None
    prompts_file: str | None = None
    prompts_column: str | None = None
    dataset: str | None = None  # a folder of clean latents with their captions
    target: float = 2.0  # rewards above it are good enough: they give no loss
    weight: float = 0.1  # of the reward's loss
    flow_steps: int = 1  # steps of flow matching on the dataset after each step of the reward
    image_share: float = 0.0  # share of samples whose first latent frame is a clean frame of the dataset
    caption_dropout: float = 0.1  # share of samples without their caption in flow matching, for guidance
    max_grad_norm: float = 1.0
    lora: LoraConfig = field(default_factory=LoraConfig)
    gradient_checkpointing: bool = False
    steps: int = 1000  # of the reward and of flow matching together
    batch: int = 8  # videos a step and worker
    learning_rate: float = 1e-5
    warm_up: int = 10
    ema: float = 0.0
    every: int = 100


def load(path: Path, overrides: Sequence[str] = ()) -> PrflConfig:
    """The config in a file, with `key=value` overrides. Raises ConfigError."""
    c = structured(PrflConfig, read(path, overrides, PrflConfig))
    m, s = c.model, c.sampler
    check(m.dtype in DTYPES[:2], "model.dtype", m.dtype, f"one of {', '.join(DTYPES[:2])}")
    for key in ("height", "width", "num_frames", "max_sequence_length"):
        check(getattr(m, key) >= 1, f"model.{key}", getattr(m, key), "at least 1")
    check(s.name in ODE, "sampler.name", s.name, f"one of {', '.join(ODE)}")
    check(2 <= s.num_steps <= MOST_STEPS, "sampler.num_steps", s.num_steps, f"from 2 to {MOST_STEPS}")
    check(isfinite(s.scale), "sampler.guidance_scale", s.guidance_scale, "a finite number")
    check(s.flow_shift is None or s.flow_shift > 0, "sampler.flow_shift", s.flow_shift, "above 0")
    check(s.eta is None, "sampler.eta", s.eta, "left out: the solver has no noise")
    check(isfinite(c.target), "target", c.target, "a finite number")
    for key, value in (("weight", c.weight), ("max_grad_norm", c.max_grad_norm)):
        check(0 < value < float("inf"), key, value, "above 0 and finite")
    check(c.flow_steps >= 0, "flow_steps", c.flow_steps, "at least 0")
    for key, value in (("image_share", c.image_share), ("caption_dropout", c.caption_dropout)):
        check(0 <= value <= 1, key, value, "from 0 to 1")
    check(c.lora.rank >= 0, "lora.rank", c.lora.rank, "at least 0")
    alpha = c.lora.alpha
    check(alpha is None or 0 < alpha < float("inf"), "lora.alpha", alpha, "above 0 and finite")
    check(c.lora.rank == 0 or len(c.lora.targets) > 0, "lora.targets", c.lora.targets, "at least one layer's name")
    needed = c.flow_steps > 0 or c.image_share > 0
    check(c.dataset is not None or not needed, "dataset", None, "given with flow_steps or image_share above 0")
    if c.dataset is not None:
        schema(c.dataset)
    check_settings(c)
    captions(c)
    return c


def schema(dataset: str) -> pa.Schema:
    """The schema of a dataset of clean latents: `prompt`, and `latent` of tensors (C, T, H, W). Raises ConfigError."""
    found = schema_of(dataset, {"prompt": TEXTS, "latent": LATENTS})
    check("sigma" not in found.names, "dataset", dataset, "one of clean latents, without a column 'sigma'")
    return found


def captions(c: PrflConfig) -> list[str]:
    """The captions that steps of the reward draw from. Raises ConfigError."""
    found = prompts.read(c.prompts, c.prompts_file, c.prompts_column, c.model)
    for e in found:
        p, own = e.prompt, (e.negative_prompt, e.seed, e.n)
        check(
            own == (None, None, None),
            e.place,
            own,
            "without a negative_prompt, seed or n of its own: a training has none",
        )
        image = p.image and p.image.path
        check(image is None, "prompts", image, "texts alone: first frames come from the dataset (image_share)")
        check(not p.later, "prompts", p.title, "single captions: there is but one chunk")
    return [e.prompt.text for e in found]
