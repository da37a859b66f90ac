"""Train the tiny video autoencoder: `python -m actors.tiny.training.vae --work training --out actors/assets/tiny-wan`.

It is an `AutoencoderKLWan` with 4x spatial and 4x temporal compression into 8 channels. The background fills nine
tenths of a clip, so pixels near objects weigh more. Most steps see 9 frames, as many as the causal convolutions need.

A diffusion model learns latents well in which every direction counts and different contents lie far apart. So the
first three channels must be the clip's colours, averaged over each latent's pixels; the others must have mean 0,
variance 1 and no correlation; and the decoder sees every latent under noise of a fixed strength.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch.nn import functional as F

from actors.tiny import world
from actors.tiny.training.clips import clips
from actors.training.config import Schedule
from actors.training.loop import Means, train

Z_DIM = 8
FOREGROUND = 8.0  # weight of a pixel on or next to an object, against 1 for the background
NOISE = 0.2  # standard deviation of the posterior, the same everywhere
CONTRAST = 3.0  # of the colour channels: brings their variance near 1
COLOUR, WHITE = 0.2, 0.05  # weights in the loss of the two constraints on the latents


def build() -> AutoencoderKLWan:
    """An untrained autoencoder of the tiny model."""
    vae = AutoencoderKLWan(
        base_dim=16,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        z_dim=Z_DIM,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * Z_DIM,
        latents_std=[1.0] * Z_DIM,
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    )
    with torch.no_grad():  # the posterior's log-variance, which no loss changes
        vae.quant_conv.weight[Z_DIM:] = 0
        vae.quant_conv.bias[Z_DIM:] = 2 * math.log(NOISE)
    return vae


def reconstruction(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The weighted mean error, absolute plus squared, of clips y (n, 3, frames, height, width) to true clips x."""
    near = (x - x[:, :, :1, :1, :1]).abs().amax(1, keepdim=True) > 0.05
    weight = 1 + (FOREGROUND - 1) * F.max_pool3d(near.float(), (1, 5, 5), 1, (0, 2, 2))
    error = y - x
    return (weight * (error.abs() + error.square())).sum() / (weight.sum() * 3)


def colours(x: torch.Tensor) -> torch.Tensor:
    """The first three channels of the latents of clips: (n, 3, 1 + 4t, 4h, 4w) to (n, 3, 1 + t, h, w).

    They are 0 on the background.
    """
    background = torch.tensor(world.BACKGROUND).div(127.5).sub(1).view(3, 1, 1, 1)
    first, later = F.avg_pool3d(x - background, (1, 4, 4)).split([1, x.shape[2] - 1], 2)
    return CONTRAST * torch.cat([first, F.avg_pool3d(later, (4, 1, 1))], 2)


def whiteness(z: torch.Tensor) -> torch.Tensor:
    """How far the channels of latents z (n, channels, ...) are from mean 0, variance 1 and no correlation.

    The sum of two mean squared distances: of their second moments from the identity, and of their means from 0.
    """
    z = z.transpose(0, 1).flatten(1)
    return (z @ z.T / z.shape[1] - torch.eye(len(z))).square().mean() + z.mean(1).square().mean()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=Path("actors/assets/tiny-wan"), help="the pipeline's folder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = build()

    def loss(step: int, rng: np.random.Generator, means: Means) -> torch.Tensor:
        _, x = clips(rng, 8, frames=9 if step < 0.8 * args.steps else 17)
        z = vae.encode(x).latent_dist.mean
        fit = reconstruction(x, vae.decode(z + NOISE * torch.randn_like(z)).sample)
        colour = (z[:, :3] - colours(x)).square().mean()
        white = whiteness(z[:, 3:, :1]) + whiteness(z[:, 3:, 1:])  # the first latent frame is one picture, others four
        value = fit + COLOUR * colour + WHITE * white
        parts = {"loss": value, "fit": fit, "colour": colour, "white": white}
        means.add({name: part.item() for name, part in parts.items()})
        return value

    schedule = Schedule(
        steps=args.steps, learning_rate=2e-3, warm_up=200, weight_decay=0.0, ema=0.998, seed=args.seed, every=200
    )
    train(vae, loss, schedule, checkpoint=args.work / "vae.pt")
    with torch.no_grad():
        z = torch.cat([vae.encode(clips(np.random.default_rng([1, i]), 16)[1]).latent_dist.mode() for i in range(16)])
    # WanPipeline decodes z * std + mean, channel by channel.
    vae.register_to_config(latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist())
    vae.save_pretrained(args.out / "vae")
    print(f"wrote {args.out / 'vae'}: mean {vae.config.latents_mean}, std {vae.config.latents_std}")


if __name__ == "__main__":
    main()
