"""Fine-tune the tiny autoencoder on the world with walls: `python -m actors.tiny.walls.vae --work training/walls`.

It starts from the autoencoder of the world without walls, which has never seen grey, a notch or another hue, and goes
on as that one was trained: the same losses, larger pictures. The checkpoint is kept in `--work`; a command that was
killed goes on where it was.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from actors.models.weights import pretrained
from actors.tiny.training import vae as losses
from actors.tiny.walls.clips import clips
from actors.training.config import Schedule
from actors.training.loop import Means, train


def psnr(vae: AutoencoderKLWan, x: torch.Tensor) -> float:
    """The mean signal-to-noise ratio, in decibels, of clips (n, 3, frames, height, width) after the autoencoder."""
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (y - x).square().mean((1, 2, 3, 4)))).mean())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/walls"), help="checkpoints")
    parser.add_argument("--start", type=Path, default=Path("actors/assets/tiny-wan/vae"), help="where it starts from")
    parser.add_argument("--out", type=Path, default=Path("actors/assets/tiny-walls"), help="the pipeline's folder")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = pretrained(AutoencoderKLWan, args.start).train()
    vae.requires_grad_(True)

    def loss(step: int, rng: np.random.Generator, means: Means) -> torch.Tensor:
        _, x = clips(rng, args.batch, frames=9 if step < 0.8 * args.steps else 17)
        z = vae.encode(x).latent_dist.mean
        fit = losses.reconstruction(x, vae.decode(z + losses.NOISE * torch.randn_like(z)).sample)
        colour = (z[:, :3] - losses.colours(x)).square().mean()
        white = losses.whiteness(z[:, 3:, :1]) + losses.whiteness(z[:, 3:, 1:])  # one picture, then four at a time
        value = fit + losses.COLOUR * colour + losses.WHITE * white
        parts = {"loss": value, "fit": fit, "colour": colour, "white": white}
        means.add({name: part.item() for name, part in parts.items()})
        return value

    schedule = Schedule(
        steps=args.steps, learning_rate=args.peak, warm_up=100, weight_decay=0.0, ema=0.995, seed=args.seed, every=100
    )
    train(vae, loss, schedule, checkpoint=args.work / "vae.pt")
    with torch.no_grad():
        z = torch.cat([vae.encode(clips(np.random.default_rng([1, i]), 16)[1]).latent_dist.mode() for i in range(16)])
    vae.register_to_config(latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist())
    vae.save_pretrained(args.out / "vae")
    x = clips(np.random.default_rng(2), 64, counts=(0, 0.5, 0.5))[1]
    print(f"wrote {args.out / 'vae'}: {psnr(vae, x):.1f} dB")


if __name__ == "__main__":
    main()
