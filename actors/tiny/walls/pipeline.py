"""Train the text-to-video model of the world with walls: `python -m actors.tiny.walls.pipeline --work training/walls`.

As the tiny model was trained (`actors/tiny/training/pipeline.py`), on top of an autoencoder that stands in `--out`:
latents of rendered clips; a text encoder of words; and a `WanTransformer3DModel` that learns the flow. The transformer
starts from the weights in `--start`, which know how shapes move. Latents, text encoder and transformer are kept in
`--work`: a run that was killed goes on, a longer `--steps` continues a finished run, and a run with other `--frames`
continues the transformer with clips of that length. No stage sees a held-out caption.

With `--steps 1` and an existing checkpoint, the pipeline of that checkpoint is written, also while another process
trains it further.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from actors.models.weights import pretrained
from actors.tiny.training.pipeline import embedded, flow, learn, save
from actors.tiny.training.pixel_data import statistics
from actors.tiny.walls import world
from actors.tiny.walls.clips import clips
from actors.tiny.walls.reader import Reader
from actors.training.config import Schedule
from actors.training.loop import Means, train


def encode_clips(vae: AutoencoderKLWan, n: int, seed: int, frames: int) -> tuple[list[str], Tensor]:
    """Render and encode at least `n` clips; returns captions and normalised latents float16 (n, C, T, H, W)."""
    mean, std = statistics(vae)
    captions, latents = [], []
    with torch.no_grad():
        for i in range(0, n, 32):
            text, x = clips(np.random.default_rng([seed, frames, i]), 32, frames=frames)
            captions += text
            latents.append(((vae.encode(x).latent_dist.mode() - mean) / std).half())
            if i % 1600 == 0:
                print(f"latents {i}/{n}", flush=True)
    return captions, torch.cat(latents)


def read(reader: Reader, steps: int, seed: int, checkpoint: Path) -> None:
    """Train the text encoder, or take it from the checkpoint; prints of how many held-out captions it reads all."""

    def loss(step: int, rng: np.random.Generator, means: Means) -> Tensor:
        value, right = reader.loss([str(world.training_caption(rng)) for _ in range(64)])
        means.add({"loss": value.item(), "right": right})
        return value

    schedule = Schedule(
        steps=steps, learning_rate=2e-3, warm_up=100, weight_decay=0.0, ema=0.99, seed=seed, every=steps
    )
    train(reader, loss, schedule, checkpoint=checkpoint)
    with torch.no_grad():
        for name, held_out in vars(world.HELD_OUT).items():
            print(f"reads {reader.loss(held_out)[1]:.4f} of {len(held_out)} held-out captions: {name}", flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/walls"), help="latents and checkpoints")
    parser.add_argument("--start", type=Path, default=Path("actors/assets/tiny-wan"), help="where it starts from")
    parser.add_argument("--out", type=Path, default=Path("actors/assets/tiny-walls"), help="the pipeline, with its vae")
    parser.add_argument("--clips", type=int, default=16_000)
    parser.add_argument("--frames", type=int, default=world.FRAMES)
    parser.add_argument("--text-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = pretrained(AutoencoderKLWan, args.out / "vae").eval()

    reader = Reader()
    read(reader, args.text_steps, args.seed + 1, args.work / "text.pt")
    cache = args.work / f"latents-{args.frames}.pt"
    if not cache.exists():
        torch.save(encode_clips(vae, args.clips, args.seed, args.frames), cache)
    captions, latents = torch.load(cache, weights_only=True)
    embeddings, rows = embedded(reader.embed, captions)

    transformer = pretrained(WanTransformer3DModel, args.start / "transformer", dtype=torch.float32)
    transformer.requires_grad_(True)
    learn(transformer, flow(transformer, latents, embeddings, rows, args.batch), args)
    save(args.out, vae, reader.tokenizer, reader.encoder, transformer)


if __name__ == "__main__":
    main()
