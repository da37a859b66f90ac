"""Fine-tune the tiny model on windows of long videos, for queues:
`python -m actors.tiny.training.long --work training --out actors/assets/tiny-wan-long`.

The tiny model has seen only the beginnings of clips. In the videos here, objects go to and fro for three chunks. A
training sample is a window of as many latent frames as a clip has; the window begins anywhere and has the caption of
its last frame. Most windows are noised as in a queue: their levels are neighbours on a solver's grid and rise from
frame to frame, some after clean frames. Ordinary clips are among the samples, so that the model still makes those. A
run that was killed goes on. No sample has a held-out caption, nor one with all motions of a held-out caption reversed.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from actors.models import wan
from actors.models.source import Source
from actors.models.weights import pretrained
from actors.tiny import world
from actors.tiny.training.clips import to_model
from actors.tiny.training.pipeline import FIRST, NO_CAPTION, SHIFT, TEXT_LENGTH, flow_loss, forget_paths, noise_levels
from actors.tiny.training.pixel_data import statistics
from actors.training.attention import use_fast_attention
from actors.training.config import Schedule
from actors.training.loop import Means, train

CHUNKS = 3
BACK = {"left": "right", "right": "left", "up": "down", "down": "up"}
# How samples are noised, `LEVELS` of the pipeline or as a queue: the first three kinds are for ordinary clips, the
# others for any window.
KINDS = ("one", "prefix", "frames", "queue", "prefix", "frames")
SHARES = (0.25, 0.08, 0.05, 0.45, 0.12, 0.05)
STEPS = (10, 80)  # least and greatest number of solver steps of a queue
AFTER_CLIP = 0.35  # share of the queue's windows whose first frames are made clean, as after a clip


def to_and_fro(
    objects: tuple[world.Object, ...], rng: np.random.Generator, chunks: int
) -> tuple[list[str], np.ndarray]:
    """A caption for each chunk, and frames uint8 (16 chunks + 1, size, size, 3).

    Each chunk shows the last one backwards.
    """
    scene = world.place(objects, rng)
    n = world.FRAMES - 1
    frames = np.abs((np.arange(n * chunks + 1) + n) % (2 * n) - n)
    back = tuple(world.Object(o.colour, o.shape, BACK[o.motion]) for o in objects)
    captions = [world.caption((objects, back)[i % 2]) for i in range(chunks)]
    return captions, world.draw(world.Scene(objects, scene.centres[frames], scene.radii))


def objects(rng: np.random.Generator) -> tuple[world.Object, ...]:
    """Draw the objects of one training video; neither their caption nor that of their way back is held out."""
    held = {*world.HELD_OUT_ONE, *world.HELD_OUT_TWO}
    while True:
        chosen = world.training_objects(rng, two=0.75)
        back = tuple(world.Object(o.colour, o.shape, BACK[o.motion]) for o in chosen)
        singles = {str(o) for o in (*chosen, *back)}
        if not held & {*singles, world.caption(back), world.caption(back[::-1])}:
            return chosen


def encode(vae: AutoencoderKLWan, n: int, seed: int) -> tuple[list[list[str]], Tensor]:
    """Render and encode at least `n` long videos.

    Returns each one's captions by chunk, and normalised latents (n, channels, latent frames, height, width).
    """
    mean, std = statistics(vae)
    captions, latents = [], []
    with torch.no_grad():
        for i in range(0, n, 16):
            rng = np.random.default_rng([seed, 7, i])
            videos = [to_and_fro(objects(rng), rng, CHUNKS) for _ in range(16)]
            captions += [c for c, _ in videos]
            x = to_model(np.stack([frames for _, frames in videos]))
            latents.append((vae.encode(x).latent_dist.mode() - mean) / std)
            if i % 800 == 0:
                print(f"latents {i}/{n}", flush=True)
    return captions, torch.cat(latents)


def queue_levels(rng: np.random.Generator, n: int, frames: int) -> Tensor:
    """Draw the noise levels, float32 (n, frames), of windows in a queue: consecutive steps of grids of many lengths.

    The first frames of some windows are clean: at the head of the queue, and where a queue begins after a clip.
    """
    rows = []
    for _ in range(n):
        steps = int(np.exp(rng.uniform(*np.log(STEPS))))
        u = np.linspace(1, 0, steps + 1)
        levels = SHIFT * u / (1 + (SHIFT - 1) * u)
        newest = rng.integers(steps)
        row = levels[np.minimum(newest + np.arange(frames)[::-1], steps)]
        if rng.random() < AFTER_CLIP:
            row[: rng.integers(1, frames)] = 0
        rows.append(row)
    return torch.tensor(np.array(rows)).float()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training"), help="latents and checkpoints")
    parser.add_argument("--model", type=Path, default=Path("actors/assets/tiny-wan"))
    parser.add_argument("--out", type=Path, default=Path("actors/assets/tiny-wan-long"))
    parser.add_argument("--videos", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=4e-4, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)

    cache = args.work / "long-latents.pt"
    if not cache.exists():
        vae = pretrained(AutoencoderKLWan, args.model / "vae").eval()
        torch.save(encode(vae, args.videos, args.seed), cache)
    captions, latents = torch.load(cache, weights_only=True)
    clip = (world.FRAMES - 1) // 4 + 1

    text_encoder = wan.TextEncoder(Source(args.model))
    vocabulary = {text: i for i, text in enumerate(["", *sorted({c for chunks in captions for c in chunks})])}
    embeddings = torch.tensor(np.concatenate([text_encoder(text, TEXT_LENGTH) for text in vocabulary]))
    rows = np.array([[vocabulary[c] for c in chunks] for chunks in captions])

    transformer = pretrained(WanTransformer3DModel, args.model / "transformer", dtype=torch.float32)
    use_fast_attention(transformer)
    if args.compile:
        for block in transformer.blocks:
            block.compile(dynamic=False)

    def loss(step: int, rng: np.random.Generator, means: Means) -> Tensor:
        kind = int(rng.choice(len(KINDS), p=SHARES))
        begins = kind < 3
        pick = rng.integers(len(latents), size=args.batch)
        start = np.zeros(args.batch, int) if begins else rng.integers(1, latents.shape[2] - clip + 1, args.batch)
        z = torch.stack([latents[i, :, a : a + clip] for i, a in zip(pick, start, strict=True)])
        chunk = np.where(start == 0, 0, 1 + (start - 1) // (clip - 1))  # of the window's last frame
        row = np.where(rng.random(args.batch) < NO_CAPTION, 0, rows[pick, chunk])
        name = KINDS[kind]
        sigma = queue_levels(rng, args.batch, clip) if name == "queue" else noise_levels(rng, name, args.batch, clip)
        first = FIRST if begins else 1.0
        value = flow_loss(transformer, z, embeddings[row], sigma, uniform=name == "one", first=first)
        means.add({"loss": value.item()})
        return value

    schedule = Schedule(steps=args.steps, learning_rate=args.peak, warm_up=200, seed=args.seed + 3, every=200)
    train(transformer, loss, schedule, checkpoint=args.work / "long-transformer.pt")
    shutil.copytree(args.model, args.out, dirs_exist_ok=True)
    transformer.half().save_pretrained(args.out / "transformer")
    forget_paths(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
