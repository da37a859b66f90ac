"""LatSearch's resampling and pruning as a plain loop over the parts of a WanPipeline, for `duel.py`.

No batches, no other process and nothing remembered: one forward at a time, as the released loop does it. It shares with
raysearch the keys of the noises and the generator that resamples, so that both are to find the same winners.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline

from actors.rewards import View
from actors.rewards.pavrm import Pavrm
from raysearch.recipe.candidate import Sampler
from raysearch.session.plan import Search, context


@dataclass
class Won:
    """The winners' latents, (1, C, T, H, W) each, forwards that were run, and how long all took."""

    latents: list[np.ndarray]
    forwards: int
    seconds: float


class Loop:
    """The model of a folder and the latent reward, loaded."""

    def __init__(self, folder: Path, sampler: Sampler) -> None:
        self._pipe = WanPipeline.from_pretrained(folder)
        self._pipe.set_progress_bar_config(disable=True)
        self._reward, self._sampler, self._forwards = Pavrm(), sampler, 0

    @torch.no_grad()
    def run(self, asked: Sequence[Search], *, n: int, schedule: Sequence[int], beta: float = 0.1) -> Won:
        """One search after another, to the frames of its winner."""
        self._forwards = 0
        began = time.perf_counter()
        latents = [self._search(s, n, schedule, beta) for s in asked]
        return Won([x.numpy() for x in latents], self._forwards, time.perf_counter() - began)

    def _search(self, search: Search, n: int, schedule: Sequence[int], beta: float) -> torch.Tensor:
        pipe, s = self._pipe, self._sampler
        text, negative = pipe.encode_prompt(
            search.prompt.text, s.negative_prompt, True, max_sequence_length=s.max_sequence_length
        )
        shape = (1, pipe.transformer.config.in_channels, *_latent_size(pipe, s))
        ctx = context(search, lambda xs, reward: None, time.monotonic)  # for its keys and its generator alone
        first = ctx.noise(1)[0]
        noises = [_normal(shape, search.seed)]
        for child in ctx.perturb(first, n - 1, beta):
            noises.append((1 - beta**2) ** 0.5 * noises[0] + beta * _normal(shape, child.origin.key))
        pipe.scheduler.set_timesteps(s.num_steps)
        alive = [(x, copy.deepcopy(pipe.scheduler)) for x in noises]
        sums, done = np.zeros(n), 0
        for t in schedule:
            scores = []
            for i, (x, scheduler) in enumerate(alive):
                x = self._denoised(x, scheduler, done, t + 1, text, negative)
                alive[i] = x, scheduler
                view = View(search.prompt.text, float(scheduler.sigmas[t + 1]), latent=x, text=text)
                scores.append(float(np.sum(self._reward([view])[0])))
            done = t + 1
            e = np.exp(np.array(scores) - max(scores))
            w = e / e.sum()
            kept = np.unique(ctx.rng.choice(len(alive), size=len(alive), p=w))
            alive, sums = [alive[i] for i in kept], (sums + w)[kept]
        x, scheduler = alive[int(sums.argmax())]
        x = self._denoised(x, scheduler, done, s.num_steps, text, negative)
        self._decoded(x)
        return x

    def _denoised(self, x, scheduler, first: int, last: int, text, negative) -> torch.Tensor:
        for t in scheduler.timesteps[first:last]:
            c, u = (self._pipe.transformer(x, t.expand(1), e, return_dict=False)[0] for e in (text, negative))
            self._forwards += 2
            x = scheduler.step(u + self._sampler.guidance_scale * (c - u), t, x, return_dict=False)[0]
        return x

    def _decoded(self, x: torch.Tensor) -> np.ndarray:
        vae = self._pipe.vae
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        video = vae.decode(x * std + mean, return_dict=False)[0]
        return self._pipe.video_processor.postprocess_video(video, output_type="np")


def _normal(shape: Sequence[int], key: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(key))


def _latent_size(pipe: WanPipeline, s: Sampler) -> tuple[int, int, int]:
    spatial = pipe.vae_scale_factor_spatial
    return 1 + (s.num_frames - 1) // pipe.vae_scale_factor_temporal, s.height // spatial, s.width // spatial
