"""The world with walls: what its verifier says of true and wrong clips, and what its model makes of held-out captions.

    python tests/benchmarks/walls.py --model actors/assets/tiny-walls

True clips of training captions are judged as they are and after the model's autoencoder, and by captions that are wrong
in one attribute. Then the model samples each held-out caption from several noises, which all captions share. `any of n`
is the share of captions that some of n samples shows, on average over all choices of n: what a search could reach with
that many candidates if it knew the verifier. Intervals are 95%, by raysearch.bootstrap.
"""

import argparse
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from bench import Report, json_option
from diffusers import WanPipeline

from actors.models.weights import pretrained
from actors.tiny.training.clips import to_model
from actors.tiny.training.pixel_data import pixels
from actors.tiny.walls import corruptions, pixel_data, world
from actors.tiny.walls.verifier import Verifier, measure
from raysearch.bootstrap import draws, interval


def true_clips(n: int, frames: int, vae: torch.nn.Module) -> Iterator[list[str]]:
    """Rows: of each kind of caption, the success of true clips, of those after the autoencoder, and their PSNR."""
    for name, (counts, wall, _) in world.LISTS.items():
        rng = np.random.default_rng(0)
        captions = [world.training_caption(rng, counts=counts, wall=wall) for _ in range(n)]
        clips = np.stack([world.draw(world.place(c, rng, frames=frames)) for c in captions])
        x = to_model(clips)
        y = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in x.split(20)]).clamp(-1, 1)
        psnr = float((-10 * ((x - y) / 2).square().mean((1, 2, 3, 4)).log10()).mean())
        right, after = (
            np.mean([measure(f, c)[-1] for f, c in zip(made, captions, strict=True)]) for made in (clips, pixels(y))
        )
        yield [name, str(frames), str(n), f"{right:.1%}", f"{after:.1%}", f"{psnr:.1f} dB"]


def wrong_clips(n: int) -> Iterator[list[str]]:
    """Rows: of each attribute, the success of true clips by captions that are wrong in it alone."""
    for name in corruptions.SWAPS:
        pairs = corruptions.swapped(np.random.default_rng(1), name, n)
        yield [name, str(n), f"{np.mean([measure(f, c)[-1] for f, c in pairs]):.1%}"]


def sampled(pipe: WanPipeline, captions: list[str], noises: int, steps: int, guidance: float) -> np.ndarray:
    """The verifier's grades (captions, noises, components) of samples; noise k is the same for all captions."""
    grades = []
    for i, caption in enumerate(captions):
        rows = []
        for first in range(0, noises, 8):
            seeds = range(first, min(first + 8, noises))
            clips = pixel_data.sampled(pipe, caption, seeds, steps=steps, guidance=guidance)
            rows += [measure(f, world.parse(caption)) for f in clips]
        grades.append(rows)
        print(f"  {i + 1}/{len(captions)}: {caption}", flush=True)
    return np.array(grades)


def any_of(successes: np.ndarray, n: int) -> np.ndarray:
    """For each caption, the chance that n of its samples, of which `successes` (captions, noises) tells, hold one."""
    noises = successes.shape[1]
    return np.array([1 - math.comb(noises - int(k), n) / math.comb(noises, n) for k in successes.sum(1)])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("actors/assets/tiny-walls"))
    parser.add_argument("--n", type=int, default=100, help="true clips of a kind")
    parser.add_argument("--captions", type=int, default=24, help="of each list of held-out captions, the first so many")
    parser.add_argument("--noises", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    pipe = pretrained(WanPipeline, args.model, dtype=torch.float32)
    rows = [row for frames in (17, 25) for row in true_clips(args.n, frames, pipe.vae)]
    head = "captions | frames | clips | success | after the autoencoder | PSNR"
    report.table("true", head, rows)
    report.table("wrong", "wrong attribute of the caption | clips | success", list(wrong_clips(args.n)))
    rows, chances, ns = [], [], [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= args.noises]
    for name in world.LISTS:
        captions = list(getattr(world.HELD_OUT, name)[: args.captions])
        grades = sampled(pipe, captions, args.noises, args.steps, args.guidance)
        mean, each = grades.mean((0, 1)), grades[..., -1]
        names, seeds = zip(*product(captions, range(args.noises)), strict=True)
        low, high = interval(draws(each.ravel(), names, seeds))
        rows.append([name, str(len(each)), str(args.noises), f"{mean[-1]:.1%}", f"{low:.1%} to {high:.1%}"])
        rows[-1] += [f"{value:.2f}" for value in mean[:-1]]
        chances.append([name, *(f"{any_of(each, n).mean():.1%}" for n in ns)])
    head = "one sample of | captions | noises | success | 95% | " + " | ".join(Verifier.components[:-1])
    report.table("samples", head, rows)
    report.table("any_of", "success of any of n | " + " | ".join(map(str, ns)), chances)


if __name__ == "__main__":
    main()
