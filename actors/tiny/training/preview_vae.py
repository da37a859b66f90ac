"""Train the tiny model's decoder for looks: `python -m actors.tiny.training.preview_vae --work training/preview_vae`.

A net of the layout of `actors.models.taehv` learns to show what the autoencoder's decoder shows: of latents of true
clips, half of them noised, and of the tiny model's samples and x0 predictions. These latents and their frames are made
once, in files of `CHUNK`. No held-out caption is among them.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from safetensors.torch import save_file

from actors.models.taehv import Taehv, blank
from actors.models.weights import pretrained
from actors.tiny import world
from actors.tiny.training.clips import clips
from actors.tiny.training.pixel_data import GUIDANCE, pixels, predicted, statistics
from actors.tiny.training.vae import Z_DIM, reconstruction
from actors.training.config import Schedule
from actors.training.loop import Means, train

CHUNK = 100  # clips of the world in a file, and latents of the model
PREDICTIONS = 4  # of each sample
WIDTHS, BLOCKS, PATCH = (64, 32), 2, 2
BATCH = 16


def build(seed: int) -> Taehv:
    """An untrained decoder of the tiny model's latents."""
    torch.manual_seed(seed)
    weights = blank(WIDTHS, channels=Z_DIM, blocks=BLOCKS, outside=3 * PATCH**2)
    return Taehv(weights, channels=Z_DIM, temporal=4, spatial=4)


def guessed(rng: np.random.Generator, pipe: Any) -> torch.Tensor:
    """Normalised latents (`CHUNK`, C, T, H, W) of the model: `PREDICTIONS` of each sample, and the sample itself."""
    n = CHUNK // (PREDICTIONS + 1)
    steps = int(rng.integers(8, 31))
    found = predicted(
        pipe,
        [world.caption(world.training_objects(rng, two=0.75)) for _ in range(n)],
        rng.integers(2**62, size=n).tolist(),
        steps=steps,
        guidance=float(rng.choice(GUIDANCE)),
        previews=tuple(int(x) for x in (np.arange(PREDICTIONS) + rng.random(PREDICTIONS)) / PREDICTIONS * steps),
    )
    return torch.cat(found)


@torch.inference_mode()
def make(number: int, work: Path, model: Path, seed: int) -> None:
    """Write `number` files of latents and their frames to `work`; files that exist already are kept."""
    vae = pretrained(AutoencoderKLWan, model / "vae").eval()
    pipe = pretrained(WanPipeline, model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    mean, std = statistics(vae)
    work.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        path = work / f"latents-{seed}-{i:03}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, i])
        _, x = clips(rng, CHUNK)
        z = (torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(20)]) - mean) / std
        strength = rng.random((CHUNK, 1, 1, 1, 1)) * (rng.random((CHUNK, 1, 1, 1, 1)) < 0.5)
        z += torch.from_numpy(strength * rng.standard_normal(z.shape)).float()
        with torch.autocast("cpu", torch.bfloat16):
            z = torch.cat([z, guessed(rng, pipe).float()])
        frames = np.concatenate([pixels(vae.decode(part * std + mean).sample) for part in z.split(20)])
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, latents=z.numpy(), frames=frames)
        partial.replace(path)
        print(f"wrote {path}", flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/preview_vae"), help="latents and checkpoints")
    parser.add_argument("--model", type=Path, default=Path("actors/assets/tiny-wan"), help="the pipeline's folder")
    parser.add_argument("--out", type=Path, default=Path("actors/assets/preview-vae/model.safetensors"))
    parser.add_argument("--files", type=int, default=20, help="of latents, each of 200")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make(args.files, args.work, args.model, args.seed)
    read = [np.load(p) for p in sorted(args.work.glob("latents-*[0-9].npz"))[: args.files]]
    latents, frames = (np.concatenate([f[k] for f in read]) for k in ("latents", "frames"))
    net = build(args.seed)

    def loss(step: int, rng: np.random.Generator, means: Means) -> torch.Tensor:
        chosen = rng.choice(len(latents), BATCH, replace=False)
        true = torch.from_numpy(frames[chosen]).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)
        value = reconstruction(true, net(torch.from_numpy(latents[chosen])).transpose(1, 2) * 2 - 1)
        means.add({"loss": value.item()})
        return value

    schedule = Schedule(
        steps=args.steps, learning_rate=2e-3, warm_up=100, weight_decay=0.0, ema=0.998, seed=args.seed, every=100
    )
    train(net, loss, schedule, checkpoint=args.work / "preview_vae.pt")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, args.out)
    print(f"wrote {args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
