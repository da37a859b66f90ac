"""Train the pixel reward on the verifier's grades. These commands make it from scratch, once there is a tiny model:

    python -m actors.tiny.training.pixel_reward make --kind rendered --n 8000
    python -m actors.tiny.training.pixel_reward make --kind decoded --n 4000
    python -m actors.tiny.training.pixel_reward make --kind samples --n 3000
    python -m actors.tiny.training.pixel_reward train
    python -m actors.tiny.training.pixel_reward compare

`make` and `train` go on where they were stopped. `train --start FOLDER` begins from earlier weights, and needs its own
`--run` name. `compare` prints how often the reward orders two samples of a held-out caption as the verifier does.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline
from torch.nn import functional as F

from actors.models.weights import pretrained
from actors.rewards import pixel
from actors.tiny import verifier, world
from actors.tiny.training import pixel_data
from actors.training.config import Schedule
from actors.training.loop import Loss, Means, train
from actors.training.pairs import ordered

VOCABULARY = ("a", "and", "moving", *world.COLOURS, *world.SHAPES, *world.MOTIONS)
OWN = 2.0  # weight of a clip's own caption in the loss, against 1 for each other one
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SHARES = {"rendered": 0.25, "decoded": 0.25, "samples": 0.5}


def batch(
    rng: np.random.Generator,
    kinds: Mapping[str, pixel_data.Clips],
    n: int,
    config: pixel.PixelConfig,
    *,
    turned: Callable[..., tuple[np.ndarray, list[str]] | None] = pixel_data.turned,
    backwards: Callable[[np.ndarray], bool] = lambda grades: True,
) -> Batch:
    """Draw `n` clips: frames (n, 3, t, h, w), words (n, captions, length), grades (n, captions, components).

    Half of them are mirrored, and half of those of which `backwards` says so by their grades (captions, components)
    are shown backwards, where `turned` finds captions for that.
    """
    shares = np.array([SHARES[k] for k in kinds])
    frames, words, labels = [], [], []
    for kind in rng.choice(list(kinds), size=n, p=shares / shares.sum()):
        clips = kinds[kind]
        i = rng.integers(len(clips.frames))
        clip, captions = clips.frames[i], clips.captions[i].tolist()
        mirror, reverse = rng.random(2) < 0.5
        reverse = reverse and backwards(clips.labels[i])
        clip, captions = turned(clip, captions, mirror=mirror, reverse=reverse) or (clip, captions)
        frames.append(clip)
        words.append([pixel.spell(c, config) for c in captions])
        labels.append(clips.labels[i])
    return pixel.to_input(np.stack(frames)), torch.tensor(words), torch.tensor(np.stack(labels))


def grading(net: pixel.PixelNet, draw: Callable[[np.random.Generator], Batch]) -> Loss:
    """The loss of a pixel reward on frames, words and grades as `batch` draws them, 0 where it gives those grades.

    It reports the mean absolute error of each component by a clip's own caption.
    """
    weights = torch.tensor([OWN] + [1.0] * (pixel_data.CAPTIONS - 1))[:, None]

    def loss(step: int, rng: np.random.Generator, means: Means) -> torch.Tensor:
        x, words, labels = draw(rng)
        with torch.autocast("cpu", torch.bfloat16):
            seen = net.look(x)
        y = net.judge(seen.float(), words).clamp(1e-4, 1 - 1e-4)
        least = F.binary_cross_entropy(labels, labels, reduction="none")
        excess = F.binary_cross_entropy(y, labels, reduction="none") - least
        error = (y.detach() - labels)[:, 0].abs().mean(0)
        value = (weights * excess).mean()
        means.add({"loss": value.item(), **dict(zip(net.config.names, error.tolist(), strict=True))})
        return value

    return loss


def fit(args: argparse.Namespace) -> None:
    """Train the reward and write it, as the command `train` does."""
    torch.manual_seed(args.seed)
    config = pixel.PixelConfig(vocabulary=VOCABULARY)
    net = pixel.load(args.start).requires_grad_(True) if args.start else pixel.PixelNet(config)
    kinds = {k: c for k in args.kinds if (c := pixel_data.read(args.work, k))}
    print({k: len(c.frames) for k, c in kinds.items()}, flush=True)
    loss = grading(net, lambda rng: batch(rng, kinds, args.batch, config))
    schedule = Schedule(steps=args.steps, learning_rate=args.peak, warm_up=200, seed=args.seed, every=200)
    train(net, loss, schedule, checkpoint=args.work / f"{args.run}.pt")
    pixel.save(net, args.out)
    print(f"wrote {args.out}")


def agreement(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, int, int]:
    """Compare two judges over pairs of seeds of a caption, in scores (captions, seeds).

    Returns the share of pairs ordered alike, how many pairs were told apart, and how many were too close.
    """
    right, told = ordered(ours, theirs)
    return float(right[told].mean()) if told.any() else float("nan"), int(told.sum()), int((~told).sum())


def print_agreement(names: Sequence[str], ours: np.ndarray, theirs: np.ndarray) -> None:
    """Print how often two judges agree, in scores (captions, seeds, components): by their sums and by components."""
    rows = [("sum", ours.sum(-1), theirs.sum(-1)), *((n, ours[..., k], theirs[..., k]) for k, n in enumerate(names))]
    for label, mine, judge in rows:
        share, told, near = agreement(mine, judge)
        print(
            f"  {label:8} agrees on {share:.3f} of {told} pairs (another {near} differ by less than 0.1), "
            f"mean absolute error {np.abs(mine - judge).mean():.3f}"
        )


def compare(args: argparse.Namespace) -> None:
    """Print how often the reward agrees with the verifier, as the command `compare` does."""
    pipe = pretrained(WanPipeline, args.model, dtype=torch.float32)
    net = pixel.load(args.out)
    rng = np.random.default_rng([args.seed, 99])
    captions = [str(c) for c in rng.permutation([*world.HELD_OUT_ONE, *world.HELD_OUT_TWO])[: args.captions]]
    ours, theirs = [], []
    for c, caption in enumerate(captions):
        seeds = [1_000_003 * (c + 1) + s for s in range(args.seeds)]
        clips = pixel_data.sampled(
            pipe, [caption] * args.seeds, seeds, steps=args.steps, guidance=args.guidance, previews=args.previews
        )
        words = torch.tensor([[pixel.spell(caption, net.config)]] * args.seeds)
        with torch.inference_mode():
            ours.append([net(pixel.to_input(x), words)[:, 0].double().numpy() for x in clips])
        objects = world.parse(caption)
        theirs.append([[verifier.measure(frames, objects) for frames in x] for x in clips])
    a, b = np.array(ours).swapaxes(0, 1), np.array(theirs).swapaxes(0, 1)  # (stages, captions, seeds, components)
    for stage, (x, y) in enumerate(itertools.zip_longest(a, b)):
        name = f"x0 prediction at step {args.previews[stage]}" if stage < len(args.previews) else "samples"
        print(
            f"{name}: {len(captions)} held-out captions x {args.seeds} seeds; verifier's mean {y.mean((0, 1)).round(3)}"
        )
        print_agreement(pixel.PixelReward.components, x, y[..., :3])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--work", type=Path, default=Path("training/pixel"), help="clips and checkpoints")
    shared.add_argument("--model", type=Path, default=Path("actors/assets/tiny-wan"))
    shared.add_argument("--out", type=Path, default=pixel.ASSETS, help="the reward's folder")
    shared.add_argument("--seed", type=int, default=0)

    verb = verbs.add_parser("make", parents=[shared])
    verb.add_argument("--kind", choices=pixel_data.KINDS, required=True)
    verb.add_argument("--n", type=int, required=True)
    verb.set_defaults(do=lambda a: pixel_data.make(a.kind, a.n, work=a.work, model=a.model, seed=a.seed))

    verb = verbs.add_parser("train", parents=[shared])
    verb.add_argument("--kinds", nargs="+", choices=pixel_data.KINDS, default=list(pixel_data.KINDS))
    verb.add_argument("--steps", type=int, default=3000)
    verb.add_argument("--batch", type=int, default=32)
    verb.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    verb.add_argument("--start", type=Path, help="a folder of weights to begin from")
    verb.add_argument("--run", default="run", help="name of the checkpoint")
    verb.set_defaults(do=fit)

    verb = verbs.add_parser("compare", parents=[shared])
    verb.add_argument("--captions", type=int, default=60)
    verb.add_argument("--seeds", type=int, default=8)
    verb.add_argument("--steps", type=int, default=20)
    verb.add_argument("--guidance", type=float, default=2.0)
    verb.add_argument("--previews", type=int, nargs="*", default=[])
    verb.set_defaults(do=compare)

    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
