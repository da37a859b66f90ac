"""PRFL (Mi et al., "Video Generation Models Are Good Latent Reward Models"): a generator learns from PAVRM's scores.

A reward step denoises noise without gradient to a step m and takes one more solver step with gradient; PAVRM scores
the noisy latent that comes out. In between, steps of flow matching on latents of true clips keep the generator a model
of videos. No latent is decoded, which `Decodes` counts.

Shapes: n latents of C channels, T frames, H x W; texts of `length` tokens and `dim` numbers each.
"""

import copy
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise, repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import ray.train
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from actors.models import wan
from actors.models.condition import Condition, with_clean_frames
from actors.models.folder import content, parts
from actors.models.settled import shift_of
from actors.models.source import check_lengths, located, opened
from actors.rewards import pavrm
from actors.sampling.solvers import Solver, State, grid, scheduler, scheduler_config
from actors.shipped import weights_of
from actors.training import distributed
from actors.training.attention import use_fast_attention
from actors.training.config import captions_of, check_rows, content_of
from actors.training.loop import Means
from actors.training.metrics import Panel
from actors.training.prfl_config import ADAPTER, MODEL, LoraConfig, PrflConfig, captions, schema
from raysearch.config.config import SamplerConfig
from raysearch.errors import check
from raysearch.files import Folder, content_digest
from raysearch.recipe.digests import digest
from raysearch.session.dataset import shards_of

PANELS = (
    Panel("losses", "loss", ("reward loss", "flow loss")),
    Panel("the reward of noisy latents", "mean reward", ("reward",)),
    Panel("before clipping", "gradient norm", ("gradient norm",)),
)

# -- one solver step of a batch --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions:
    """The conditions of a batch.

    `text` holds the embeddings (n, length, dim) of the captions, `negative` those of the negative prompt, None without
    guidance. `first` has a clean first latent frame (1, C, 1, H, W), or None, for each latent.
    """

    text: torch.Tensor
    negative: torch.Tensor | None
    first: list[Condition]

    @property
    def has_first(self) -> torch.Tensor:
        """Whether each latent has a clean first frame, bool (n,)."""
        return torch.tensor([f is not None for f in self.first], device=self.text.device)

    def clean(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (n, C, T, H, W) with the clean first frames in place, as the model and the reward see them."""
        return torch.cat([with_clean_frames(x, f) for x, f in zip(latents.split(1), self.first, strict=True)])


def velocity(
    model: wan.Transformer, x: torch.Tensor, t: torch.Tensor, given: Conditions, s: SamplerConfig
) -> torch.Tensor:
    """Velocities (n, C, T, H, W) of latents x at a timestep t, a scalar, with guidance; float32, with gradient."""
    t = t.expand(len(x))
    if given.negative is None:
        return model.velocity(x, t, given.text, given.first).float()
    if s.batched_guidance:
        texts = torch.cat([given.text, given.negative])
        both = model.velocity(x.repeat(2, 1, 1, 1, 1), t.repeat(2), texts, given.first * 2)
        conditional, unconditional = both.chunk(2)
    else:
        conditional = model.velocity(x, t, given.text, given.first)
        unconditional = model.velocity(x, t, given.negative, given.first)
    return (unconditional + s.scale * (conditional - unconditional)).float()


@torch.no_grad()
def rollout(
    model: wan.Transformer, solver: Solver, noise: torch.Tensor, m: int, given: Conditions, s: SamplerConfig
) -> tuple[torch.Tensor, State]:
    """Denoise noise (n, C, T, H, W) to step m; returns the latents there and the solver's state."""
    x, state = noise, solver.start(0)
    for i in range(m):
        x, state = solver.step(state, velocity(model, x, solver.timesteps[i], given, s), x)
    return x, state


def hinge(rewards: torch.Tensor, *, target: float = 2.0, weight: float = 0.1) -> torch.Tensor:
    """PRFL's loss: the mean over rewards r (n,) of weight * relu(target - r)."""
    return weight * torch.relu(target - rewards).mean()


def flow_loss(model: wan.Transformer, z: torch.Tensor, given: Conditions, sigma: torch.Tensor) -> torch.Tensor:
    """The mean squared error of the predicted flow, noise - z, of clean latents z noised to levels `sigma` (n,).

    Clean first frames do not count.
    """
    noise = torch.randn_like(z)
    flow = model.velocity(torch.lerp(z, noise, sigma.view(-1, 1, 1, 1, 1)), 1000 * sigma, given.text, given.first)
    error = (flow.float() - (noise - z)).square().mean((1, 3, 4))  # (n, frames)
    asked = torch.ones_like(error)
    asked[given.has_first, 0] = 0
    return (asked * error).sum() / asked.sum()


def levels(rng: np.random.Generator, n: int, shift: float) -> torch.Tensor:
    """Draw noise levels (n,) in [0, 1]: stratified over the batch, shifted as in sampling."""
    u = torch.from_numpy((rng.permutation(n) + rng.random(n)) / n).float()
    return shift * u / (1 + (shift - 1) * u)


class Decodes:
    """Within it, `n` counts how often the decoder of an autoencoder runs in this process."""

    def __enter__(self) -> "Decodes":
        self.n = 0
        self._hook = register_module_forward_pre_hook(self._count)
        return self

    def _count(self, module: nn.Module, _: Any) -> None:
        self.n += isinstance(module, WanDecoder3d)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._hook.remove()


# -- the model -------------------------------------------------------------------------------------------------------


class Prfl:
    """A generator in training and the frozen reward that judges it, on one device.

    `rank` tells the workers' random numbers apart; `wrap` joins a worker's net to those of the other workers.
    """

    def __init__(
        self,
        c: PrflConfig,
        device: torch.device,
        *,
        rank: int = 0,
        wrap: Callable[[nn.Module], nn.Module] = lambda net: net,
    ) -> None:
        self.c, self.device, self.rank = c, device, rank
        source = replace(opened(located(c.model.path, variant=c.model.variant)), device=str(device))
        self.folder = folder = source.folder
        self.model = wan.Transformer(source)
        self.net: WanTransformer3DModel = self.model.model
        adapt(self.net, c.lora)
        self.prepare(self.net)
        self.trained = copy.copy(self.model)  # the same weights, through which gradients go
        self.trained.model = wrap(self.net)
        steps = scheduler(scheduler_config(folder), c.sampler.name, c.sampler.flow_shift)
        self.shift = float(steps.config.get("flow_shift", steps.config.get("shift")))
        self.solver = Solver(steps, c.sampler.num_steps, str(device))
        g = wan.Geometry.of(folder)
        self.shape = g.latent_shape(num_frames=c.model.num_frames, height=c.model.height, width=c.model.width)[1:]
        encoder = wan.TextEncoder(replace(source, dtype=c.model.dtype))
        self._embedder = distributed.embedder(encoder, c.model.max_sequence_length)
        self.captions = captions(c)
        self.load_reward()

    def prepare(self, net: WanTransformer3DModel) -> None:
        """Have a transformer save memory, and attend fast, where the config and the device ask for it."""
        if self.c.gradient_checkpointing:
            net.enable_gradient_checkpointing()
        if self.device.type == "cpu" and self.c.model.dtype == "bfloat16":
            use_fast_attention(net)

    def load_reward(self) -> None:
        """Load the reward and the weights of its components. Raises ConfigError."""
        self.reward = pavrm.load(Path(self.c.reward.folder), "reward.folder").to(self.device)
        self.prepare(self.reward.transformer)
        components = self.reward.config.components
        weights = dict.fromkeys(components, 1.0) | weights_of("reward.weights", self.c.reward.weights, components)
        self.weights = torch.tensor(list(weights.values()), device=self.device)

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (n, length, dim) of n texts."""
        return self._embedder(texts).to(self.device)

    def loss(self, step: int, batch: dict[str, np.ndarray] | None, means: Means) -> torch.Tensor:
        """The loss of a step, a scalar: one step of the reward, then `flow_steps` steps of flow matching, and so on.

        `batch` has the columns `prompt` (n,) and `latent` (n, C, T, H, W); None without a dataset.
        """
        rng = np.random.default_rng([self.c.seed, step, self.rank])
        with self.precision():
            return (self.reward_loss if of_reward(self.c, step) else self.flow_loss)(batch, rng, means)

    def precision(self) -> AbstractContextManager[Any]:
        """A context in which forwards compute in the config's dtype."""
        return distributed.precision(self.device, self.c.model.dtype)

    def reward_loss(self, batch: dict[str, np.ndarray] | None, rng: np.random.Generator, means: Means) -> torch.Tensor:
        """The loss of a reward step: `hinge` after one solver step with gradient at m, uniform in [0, T - 2].

        T is the number of solver steps, as in the paper.
        """
        c = self.c
        m = int(rng.integers(c.sampler.num_steps - 1))
        given = self.draw_conditions(batch, rng)
        noise = torch.randn(c.batch, *self.shape).to(self.device)
        x, state = rollout(self.model, self.solver, noise, m, given, c.sampler)
        r = self.rewards(x, state, m, given)
        loss = hinge(r, target=c.target, weight=c.weight)
        means.add({"reward loss": loss.item(), "reward": r.mean().item()})
        return loss

    def rewards(self, x: torch.Tensor, state: State, m: int, given: Conditions) -> torch.Tensor:
        """Rewards (n,) of the latents after one solver step from step m, with gradient."""
        v = velocity(self.trained, x, self.solver.timesteps[m], given, self.c.sampler)
        x, _ = self.solver.step(state, v, x)
        sigma = self.solver.sigmas[m + 1].to(self.device, torch.float32).expand(len(x))
        scores = self.reward(given.clean(x), sigma, given.text, given.has_first)
        return (scores.float() * self.weights).sum(-1)

    def draw_conditions(self, batch: dict[str, np.ndarray] | None, rng: np.random.Generator) -> Conditions:
        """Draw the conditions of a reward step: captions, and for a share of them a first frame with its caption."""
        n = self.c.batch
        texts = [self.captions[i] for i in rng.integers(len(self.captions), size=n)]
        first: list[Condition] = [None] * n
        for i in np.flatnonzero(rng.random(n) < self.c.image_share):
            assert batch is not None
            texts[i], first[i] = str(batch["prompt"][i]), self.clean(batch["latent"][i : i + 1])[:, :, :1]
        guided = self.c.sampler.scale > 1
        negative = self.embed([self.c.sampler.negative_prompt]).expand(n, -1, -1) if guided else None
        return Conditions(self.embed(texts), negative, first)

    def flow_loss(self, batch: dict[str, np.ndarray] | None, rng: np.random.Generator, means: Means) -> torch.Tensor:
        """The loss of a step of flow matching on the dataset's clean latents, some without caption."""
        assert batch is not None
        z, n = self.clean(batch["latent"]), self.c.batch
        dropped = rng.random(n) < self.c.caption_dropout
        texts = ["" if d else str(p) for d, p in zip(dropped, batch["prompt"], strict=True)]
        images = rng.random(n) < self.c.image_share
        first = [x[:, :, :1] if i else None for x, i in zip(z.split(1), images, strict=True)]
        sigma = levels(rng, n, self.shift).to(self.device)
        loss = flow_loss(self.trained, z, Conditions(self.embed(texts), None, first), sigma)
        means.add({"flow loss": loss.item()})
        return loss

    def clean(self, latents: np.ndarray) -> torch.Tensor:
        """Latents of the dataset as float32 on the device."""
        return torch.tensor(latents, dtype=torch.float32, device=self.device)

    def save(self, run_dir: Path) -> None:
        """Write the pipeline with the trained transformer, adapters merged into it, to run_dir/model.

        Adapters are also written alone, to run_dir/lora.
        """
        net = self.net
        if self.c.lora.rank:
            import peft

            with Folder(run_dir).replacing(ADAPTER) as folder:
                WanPipeline.save_lora_weights(
                    folder,
                    peft.get_peft_model_state_dict(net),
                    transformer_lora_adapter_metadata=net.peft_config["default"].to_dict(),
                )
            net = copy.deepcopy(net)  # the net in training keeps its adapters apart
            net.fuse_lora()
            net.unload_lora()
        with Folder(run_dir).replacing(MODEL) as folder:
            shutil.copy(self.folder / "model_index.json", folder)
            for part in parts(self.folder):
                if part != "transformer":
                    shutil.copytree(self.folder / part, folder / part)
            net.save_pretrained(folder / "transformer")


def of_reward(c: PrflConfig, step: int) -> bool:
    """Whether a step is one of the reward; the others are of flow matching."""
    return step % (1 + c.flow_steps) == 0


def adapt(net: WanTransformer3DModel, lora: LoraConfig) -> None:
    """Where a rank is given, freeze the weights and put low-rank adapters beside them (LoRA, Hu et al. 2106.09685)."""
    if lora.rank:
        import peft

        net.requires_grad_(False)
        alpha: Any = lora.rank if lora.alpha is None else lora.alpha  # peft says int, and takes any number
        net.add_adapter(peft.LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets)))


# -- a worker, and the driver ----------------------------------------------------------------------------------------


def work(c: PrflConfig) -> None:
    """What every worker of Ray Train runs: trains up to `c.steps`; the first leaves the pipeline in run_dir/model."""
    device = distributed.begin(c)
    p = Prfl(c, device, rank=distributed.rank(), wrap=ray.train.torch.prepare_model)
    with Decodes() as decodes:
        distributed.train(
            c,
            p.net,
            p.loss,
            batches=lambda start: distributed.batches(c, c.batch, start) if c.dataset else repeat(None),
            test=lambda: {"decodes": float(decodes.n)},
            save=lambda: p.save(Path(str(c.run_dir))),
            panels=PANELS,
            max_grad_norm=c.max_grad_norm,
            norm_name=lambda step: "gradient norm " + ("reward" if of_reward(c, step) else "flow"),
        )


def fit(c: PrflConfig) -> None:
    """Fine-tune on the Ray cluster that this process is connected to, from the last checkpoint in the run directory.

    Raises RaysearchError where the training fails.
    """
    shards = shards_of(Path(c.dataset), "train") if c.dataset else []
    distributed.fit(c, work, {"train": distributed.read(shards, ["prompt", "latent"])} if shards else {})


TEXT_TO_VIDEO = "a Wan model that makes videos of texts: its transformer takes latents alone"


def check_parts(c: PrflConfig) -> dict[str, bytes]:
    """Digests of the files that a config names, each under its description. Loads no weights.

    Raises ConfigError where model, reward, dataset and adapters do not fit together.
    """
    m, s = c.model, c.sampler
    source = opened(located(m.path, variant=m.variant))
    folder = source.folder
    shift_of(folder, given=s.flow_shift is not None)
    check(source.family is wan, "model.path", m.path, "a Wan model")
    g = wan.Geometry.of(folder)
    check(not g.image_to_video, "model.path", m.path, TEXT_TO_VIDEO)
    g.check(num_frames=m.num_frames, height=m.height, width=m.width)
    sigmas = grid(scheduler_config(folder), s.name, s.flow_shift, s.num_steps)
    falling = all(a > b >= 0 for a, b in pairwise(sigmas))
    check(falling, "sampler.flow_shift", s.flow_shift, "such that the noise levels fall from step to step")
    judge = pavrm.outline(Path(c.reward.folder), "reward.folder")
    pavrm.check_inputs(judge, Path(c.reward.folder), g.in_channels, g.text_dim, "reward.folder")
    weights_of("reward.weights", c.reward.weights, judge.config.components)
    if c.dataset:
        check_rows(c, c.dataset)
        shape = tuple(schema(c.dataset).field("latent").type.shape)
        wanted = g.latent_shape(num_frames=m.num_frames, height=m.height, width=m.width)[1:]
        check(
            shape == wanted, "dataset", c.dataset, f"one of latents {wanted}, which the model makes: these are {shape}"
        )
    if not m.truncate:
        texts = dict.fromkeys(captions_of(c.dataset), "dataset") if c.dataset else {}
        texts |= dict.fromkeys(captions(c), "prompts")
        if s.scale > 1:
            texts[s.negative_prompt] = "sampler.negative_prompt"
        check_lengths(source, texts, m.max_sequence_length, "model.")
    if c.lora.rank:
        there = importlib.util.find_spec("peft") is not None
        check(there, "lora.rank", c.lora.rank, "0, since peft is not installed: pip install -e '.[lora]'")
        with torch.device("meta"):
            net = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder / "transformer"))
        layers = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
        for target in c.lora.targets:
            found = any(name == target or name.endswith(f".{target}") for name in layers)
            check(found, "lora.targets", target, "how names of the transformer's linear layers end, such as to_q")
    return {
        "the prompts": digest(*captions(c)),
        "the model's weights": content(folder, variant=m.variant),
        "the reward's weights": content_digest(pavrm.Pavrm.files(folder=Path(c.reward.folder))),
        "the dataset's shards": content_of(c.dataset) if c.dataset else b"",
    }
