"""What the shipped autoencoder keeps of true clips: `python tests/benchmarks/autoencoder.py`.

Clips of held-out two-object captions are rendered, encoded and decoded, with noise of several strengths on their
normalised latents; it prints PSNR, and the verifier's success rate on what comes out.
"""

import argparse

import numpy as np
import torch
from bench import TINY, Report, json_option
from diffusers import AutoencoderKLWan

from actors.tiny import verifier, world
from actors.tiny.training.clips import to_model
from actors.tiny.training.pixel_data import pixels, statistics


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="clips")
    parser.add_argument("--noise", type=float, nargs="*", default=[0.0, 0.2, 0.4, 0.6])
    json_option(parser)
    args = parser.parse_args()
    vae = AutoencoderKLWan.from_pretrained(TINY / "vae").eval()
    rng = np.random.default_rng(0)
    captions = list(world.HELD_OUT_TWO[: args.n])
    x = to_model(np.stack([world.render(c, rng) for c in captions]))
    mean, std = statistics(vae)
    z = torch.cat([(vae.encode(part).latent_dist.mode() - mean) / std for part in x.split(20)])
    eps = torch.from_numpy(rng.standard_normal(z.shape)).float()
    rows = []
    for s in args.noise:
        y = torch.cat([vae.decode(part * std + mean).sample for part in (z + s * eps).split(20)]).clamp(-1, 1)
        psnr = -10 * ((x - y) / 2).square().mean((1, 2, 3, 4)).log10().mean()
        right = [verifier.measure(f, world.parse(c))[3] for f, c in zip(pixels(y), captions, strict=True)]
        rows.append([f"{s:.1f}", f"{psnr:.1f} dB", f"{np.mean(right):.1%}", str(len(captions))])
    Report(args.json).table("autoencoder", "noise on the latents | PSNR | success | clips", rows)


if __name__ == "__main__":
    main()
