"""Train the tiny video autoencoder: `python -m actors.training.vae --work training --out actors/assets/tiny-wan`.

An `AutoencoderKLWan` with 4x spatial and 4x temporal compression into 8 channels. The background fills nine tenths of
a clip, so pixels near objects weigh more; most steps see 9 frames, which is what the causal convolutions need.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch.nn import functional as F

from actors.training.loop import clips, train

Z_DIM = 8
FOREGROUND = 8.0  # weight of a pixel on or next to an object, against 1 for the background
KL = 1e-4  # per latent element


def build() -> AutoencoderKLWan:
    return AutoencoderKLWan(
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


def reconstruction(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    near = (x - x[:, :, :1, :1, :1]).abs().amax(1, keepdim=True) > 0.05
    weight = 1 + (FOREGROUND - 1) * F.max_pool3d(near.float(), (1, 5, 5), 1, (0, 2, 2))
    error = y - x
    return (weight * (error.abs() + error.square())).sum() / (weight.sum() * 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=Path("actors/assets/tiny-wan"), help="the pipeline's folder")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = build()

    def loss(step: int, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        _, x = clips(rng, 8, frames=9 if step < 0.8 * args.steps else 17)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        fit = reconstruction(x, y)
        return fit + KL * kl, {"fit": fit.item(), "kl": kl.item()}

    average = train(vae, loss, checkpoint=args.work / "vae.pt", steps=args.steps, seed=args.seed, peak=2e-3, ema=0.998)
    vae.load_state_dict(average)
    vae.eval()
    with torch.no_grad():
        z = torch.cat([vae.encode(clips(np.random.default_rng([1, i]), 16)[1]).latent_dist.mode() for i in range(16)])
    # WanPipeline decodes z * std + mean, channel by channel.
    vae.register_to_config(latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist())
    vae.save_pretrained(args.out / "vae")
    print(f"wrote {args.out / 'vae'}: mean {vae.config.latents_mean}, std {vae.config.latents_std}")


if __name__ == "__main__":
    main()
