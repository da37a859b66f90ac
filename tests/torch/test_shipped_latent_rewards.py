"""The latent rewards that ship, on noisy latents of true clips with held-out captions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from actors.models.source import Source
from actors.models.wan import TextEncoder
from actors.rewards import View
from actors.shipped import find
from actors.tiny import world
from actors.tiny.corruptions import swap
from actors.tiny.training.latent_backbone import encode

TINY = Path(__file__).parents[2] / "actors" / "assets" / "tiny-wan"
N, SIGMA, TA = 12, 0.4, 2


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    objects = [world.parse(c) for c in rng.permutation(world.HELD_OUT_TWO)[:N]]
    frames = np.stack([world.draw(world.place(o, rng)) for o in objects])
    latents = torch.from_numpy(encode(AutoencoderKLWan.from_pretrained(TINY / "vae").eval(), frames))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return objects, torch.lerp(latents, noise, SIGMA)


@pytest.mark.parametrize("attribute", ["colour", "motion"])
@pytest.mark.parametrize("name", ["pavrm", "latent"])
def test_true_captions_score_above_those_with_a_wrong_word(name, attribute, clips):
    objects, latents = clips
    rng = np.random.default_rng(1)
    reward, encoder = find(name)(), TextEncoder(Source(TINY))
    scores = []
    for told in (objects, [swap(rng, o, attribute) for o in objects]):
        captions = [world.caption(o) for o in told]
        texts = [torch.tensor(encoder(c, 80)) for c in captions]
        views = [View(c, SIGMA, latent=x, text=t) for c, x, t in zip(captions, latents.split(1), texts, strict=True)]
        scores.append(reward(views)[:, TA])
    assert (scores[0] > scores[1]).sum() >= N - 2
