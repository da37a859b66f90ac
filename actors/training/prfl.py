"""PRFL (Mi et al., "Video Generation Models Are Good Latent Reward Models"): a generator learns from PAVRM's scores.

A reward step denoises without gradient to a step m, takes one more with it, and what that gives is scored where it is,
on the noisy latent. Steps of flow matching on true clips' latents in between keep the model a model of videos. Nothing
is decoded: `Decodes` counts.
"""

import copy
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import ray.data
import ray.train
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from actors.models import family, model_folder, wan, with_clean_frames
from actors.rewards import pavrm, weights_of
from actors.sampling.solvers import Solver, State, grid, scheduler, scheduler_config
from actors.tiny.training.pipeline import use_fast_attention
from actors.training import distributed
from actors.training import prfl_config as prfl
from actors.training.config import check_rows, content_of
from actors.training.distributed import Parts
from actors.training.prfl_config import LoraConfig, PrflConfig
from raysearch.config.config import SamplerConfig
from raysearch.errors import check
from raysearch.files import content_digest, replacing
from raysearch.recipe.digests import digest
from raysearch.session.dataset import shards_of

# -- one solver step of a batch --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What a batch is conditioned on: texts (n, length, dim), under guidance those of the negative prompt; first
    frames, clean latents (1, C, 1, H, W) or None."""

    text: torch.Tensor
    negative: torch.Tensor | None
    first: list[torch.Tensor | None]

    @property
    def has_first(self) -> torch.Tensor:
        return torch.tensor([f is not None for f in self.first], device=self.text.device)

    def clean(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as the model and the reward see them: a given first frame stays clean."""
        return torch.cat([with_clean_frames(x, f) for x, f in zip(latents.split(1), self.first, strict=True)])


def velocity(model: wan.Transformer, x: torch.Tensor, t: torch.Tensor, given: Given, s: SamplerConfig) -> torch.Tensor:
    """Velocities (n, C, T, H, W) at a timestep, with guidance and gradient."""
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
    return (unconditional + s.guidance_scale * (conditional - unconditional)).float()


@torch.no_grad()
def rollout(
    model: wan.Transformer, solver: Solver, noise: torch.Tensor, m: int, given: Given, s: SamplerConfig
) -> tuple[torch.Tensor, State]:
    """Latents at step m and the solver's state there."""
    x, state = noise, solver.start(0)
    for i in range(m):
        x, state = solver.step(state, velocity(model, x, solver.timesteps[i], given, s), x)
    return x, state


def hinge(rewards: torch.Tensor, *, target: float = 2.0, weight: float = 0.1) -> torch.Tensor:
    """weight * relu(target - r), the mean over a batch."""
    return weight * torch.relu(target - rewards).mean()


def flow_loss(model: wan.Transformer, z: torch.Tensor, given: Given, sigma: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted flow, noise - z, at levels `sigma` (n,), over the frames that are not given."""
    noise = torch.randn_like(z)
    flow = model.velocity(torch.lerp(z, noise, sigma.view(-1, 1, 1, 1, 1)), 1000 * sigma, given.text, given.first)
    error = (flow.float() - (noise - z)).square().mean((1, 3, 4))  # (n, frames)
    asked = torch.ones_like(error)
    asked[given.has_first, 0] = 0
    return (asked * error).sum() / asked.sum()


def levels(rng: np.random.Generator, n: int, shift: float) -> torch.Tensor:
    """Noise levels (n,) in [0, 1]: stratified over the batch, shifted as in sampling."""
    u = torch.from_numpy((rng.permutation(n) + rng.random(n)) / n).float()
    return shift * u / (1 + (shift - 1) * u)


class Decodes:
    """Counts how often an autoencoder's decoder runs in this process while it lasts."""

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
    """A generator in training, the frozen reward, and what both take; `wrap` makes a worker's net one of many."""

    def __init__(
        self,
        c: PrflConfig,
        device: torch.device,
        *,
        rank: int = 0,
        wrap: Callable[[nn.Module], nn.Module] = lambda net: net,
    ) -> None:
        self.c, self.device, self.rank = c, device, rank
        self.folder = folder = model_folder(c.model.path)
        self.model = wan.Transformer(folder, dtype="float32", device=str(device))
        self.net: WanTransformer3DModel = self.model.model
        adapt(self.net, c.lora)
        self.prepare(self.net)
        self.trained = copy.copy(self.model)  # through which gradients go
        self.trained.model = wrap(self.net)
        steps = scheduler(scheduler_config(folder), c.sampler.name, c.sampler.flow_shift)
        self.shift = float(steps.config.get("flow_shift", steps.config.get("shift")))
        self.solver = Solver(steps, c.sampler.num_steps, str(device))
        g = wan.Geometry.of(folder)
        self.shape = g.latent_shape(num_frames=c.model.num_frames, height=c.model.height, width=c.model.width)[1:]
        encoder = wan.TextEncoder(folder, dtype=c.model.dtype, device=str(device))
        self._embedder = distributed.embedder(encoder, c.model.max_sequence_length)
        self.captions = prfl.captions(c)
        self.load_reward()

    def prepare(self, net: WanTransformer3DModel) -> None:
        if self.c.gradient_checkpointing:
            net.enable_gradient_checkpointing()
        if self.device.type == "cpu" and self.c.model.dtype == "bfloat16":
            use_fast_attention(net)

    def load_reward(self) -> None:
        self.reward = pavrm.load(Path(self.c.reward.folder), "reward.folder").to(self.device)
        self.prepare(self.reward.transformer)
        components = self.reward.config.components
        weights = dict.fromkeys(components, 1.0) | weights_of("reward.weights", self.c.reward.weights, components)
        self.weights = torch.tensor(list(weights.values()), device=self.device)

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        return self._embedder(texts).to(self.device)

    def loss(self, step: int, batch: dict[str, np.ndarray] | None, parts: Parts) -> torch.Tensor:
        """That of a step: after each of the reward, `flow_steps` of flow matching."""
        rng = np.random.default_rng([self.c.seed, step, self.rank])
        with self.precision():
            return (self.reward_loss if of_reward(self.c, step) else self.flow_loss)(batch, rng, parts)

    def precision(self) -> AbstractContextManager[Any]:
        return distributed.precision(self.device, self.c.model.dtype)

    def reward_loss(self, batch: dict[str, np.ndarray] | None, rng: np.random.Generator, parts: Parts) -> torch.Tensor:
        """The paper's: m uniform in [0, T - 2], one solver step with gradient, 0.1 relu(target - r) at its end."""
        c = self.c
        m = int(rng.integers(c.sampler.num_steps - 1))
        given = self.asked(batch, rng)
        noise = torch.randn(c.batch, *self.shape).to(self.device)
        x, state = rollout(self.model, self.solver, noise, m, given, c.sampler)
        r = self.rewards(x, state, m, given)
        loss = hinge(r, target=c.target, weight=c.weight)
        parts.add({"reward loss": loss.item(), "reward": r.mean().item()})
        return loss

    def rewards(self, x: torch.Tensor, state: State, m: int, given: Given) -> torch.Tensor:
        """Rewards (n,) of what one solver step makes of latents at step m, with gradient."""
        v = velocity(self.trained, x, self.solver.timesteps[m], given, self.c.sampler)
        x, _ = self.solver.step(state, v, x)
        sigma = self.solver.sigmas[m + 1].to(self.device, torch.float32).expand(len(x))
        scores = self.reward(given.clean(x), sigma, given.text, given.has_first)
        return (scores.float() * self.weights).sum(-1)

    def asked(self, batch: dict[str, np.ndarray] | None, rng: np.random.Generator) -> Given:
        """What a reward step's batch is to show: captions, or a share of first frames with theirs."""
        n = self.c.batch
        texts = [self.captions[i] for i in rng.integers(len(self.captions), size=n)]
        first: list[torch.Tensor | None] = [None] * n
        for i in np.flatnonzero(rng.random(n) < self.c.image_share):
            assert batch is not None
            texts[i], first[i] = str(batch["prompt"][i]), self.clean(batch["latent"][i : i + 1])[:, :, :1]
        guided = self.c.sampler.guidance_scale > 1
        negative = self.embed([self.c.sampler.negative_prompt]).expand(n, -1, -1) if guided else None
        return Given(self.embed(texts), negative, first)

    def flow_loss(self, batch: dict[str, np.ndarray] | None, rng: np.random.Generator, parts: Parts) -> torch.Tensor:
        assert batch is not None
        z, n = self.clean(batch["latent"]), self.c.batch
        dropped = rng.random(n) < self.c.caption_dropout
        texts = ["" if d else str(p) for d, p in zip(dropped, batch["prompt"], strict=True)]
        images = rng.random(n) < self.c.image_share
        first = [x[:, :, :1] if i else None for x, i in zip(z.split(1), images, strict=True)]
        sigma = levels(rng, n, self.shift).to(self.device)
        loss = flow_loss(self.trained, z, Given(self.embed(texts), None, first), sigma)
        parts.add({"flow loss": loss.item()})
        return loss

    def clean(self, latents: np.ndarray) -> torch.Tensor:
        return torch.tensor(latents, dtype=torch.float32, device=self.device)

    def save(self, run_dir: Path) -> None:
        """The pipeline with the trained transformer in it, adapters merged; and the adapters alone."""
        net = self.net
        if self.c.lora.rank:
            import peft

            WanPipeline.save_lora_weights(
                run_dir / prfl.ADAPTER,
                peft.get_peft_model_state_dict(net),
                transformer_lora_adapter_metadata=net.peft_config["default"].to_dict(),
            )
            net = copy.deepcopy(net)  # the training's own stays apart from its adapters
            net.fuse_lora()
            net.unload_lora()
        with replacing(run_dir / prfl.MODEL) as folder:
            shutil.copy(self.folder / "model_index.json", folder)
            for part in wan.PARTS:
                if part != "transformer":
                    shutil.copytree(self.folder / part, folder / part)
            net.save_pretrained(folder / "transformer")


def of_reward(c: PrflConfig, step: int) -> bool:
    """Whether a step is of the reward; the others are of flow matching."""
    return step % (1 + c.flow_steps) == 0


def adapt(net: WanTransformer3DModel, lora: LoraConfig) -> None:
    """Freeze the weights and put adapters beside them (Hu et al. 2106.09685), where a rank is given."""
    if lora.rank:
        import peft

        net.requires_grad_(False)
        alpha = lora.rank if lora.alpha is None else lora.alpha
        net.add_adapter(peft.LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets)))


# -- a worker, and the driver ----------------------------------------------------------------------------------------


def work(c: PrflConfig) -> None:
    """Ray Train's worker: trains until `steps`, and leaves the pipeline in run_dir/model."""
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
            panels=prfl.PANELS,
            max_grad_norm=c.max_grad_norm,
            norm=lambda step: "gradient norm " + ("reward" if of_reward(c, step) else "flow"),
        )


def fit(c: PrflConfig) -> None:
    """Fine-tune on the Ray cluster that this process is connected to; goes on from the last checkpoint in run_dir."""
    data = {}
    if c.dataset:
        files = [str(p.resolve()) for p in shards_of(Path(c.dataset), "train")]
        data["train"] = ray.data.read_parquet(files).select_columns(["prompt", "latent"])
    distributed.fit(c, work, data)


TEXT_TO_VIDEO = "a Wan model that makes videos of texts: its transformer takes latents alone"


def check_parts(c: PrflConfig) -> dict[str, bytes]:
    """Digests of what a config only names.

    Raises ConfigError where model, reward, dataset and adapters do not fit together; loads no weights.
    """
    m = c.model
    folder = model_folder(m.path)
    check(family(folder) is wan, "model.path", m.path, "a Wan model")
    g = wan.Geometry.of(folder)
    check(not g.pictured, "model.path", m.path, TEXT_TO_VIDEO)
    g.check(num_frames=m.num_frames, height=m.height, width=m.width)
    sigmas = grid(scheduler_config(folder), c.sampler.name, c.sampler.flow_shift, c.sampler.num_steps)
    falling = all(a > b >= 0 for a, b in pairwise(sigmas))
    check(falling, "sampler.flow_shift", c.sampler.flow_shift, "such that the noise levels fall from step to step")
    judge = pavrm.outline(Path(c.reward.folder), "reward.folder")
    pavrm.check_inputs(judge, Path(c.reward.folder), g.in_channels, g.text_dim, "reward.folder")
    weights_of("reward.weights", c.reward.weights, judge.config.components)
    if c.dataset:
        check_rows(c, c.dataset)
        shape = tuple(prfl.schema(c.dataset).field("latent").type.shape)
        wanted = g.latent_shape(num_frames=m.num_frames, height=m.height, width=m.width)[1:]
        check(
            shape == wanted, "dataset", c.dataset, f"one of latents {wanted}, which the model makes: these are {shape}"
        )
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
        "the prompts": digest(*prfl.captions(c)),
        "the model's weights": content_digest([folder]),
        "the reward's weights": content_digest(pavrm.Pavrm.files(folder=Path(c.reward.folder))),
        "the dataset's shards": content_of(c.dataset) if c.dataset else b"",
    }
