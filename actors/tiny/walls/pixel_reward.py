"""Train the pixel reward of the world with walls on the verifier's grades, LAW and IDENTITY among them:

    python -m actors.tiny.walls.pixel_reward make --kind rendered --n 6000
    python -m actors.tiny.walls.pixel_reward make --kind decoded --n 3000
    python -m actors.tiny.walls.pixel_reward make --kind samples --n 3000
    python -m actors.tiny.walls.pixel_reward train
    python -m actors.tiny.walls.pixel_reward compare

`make` and `train` go on where they were stopped. `compare` prints how often the reward orders two samples of a held-out
caption as the verifier does, for each component and their sum, and of what shape words alone tell it.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline

from actors.models.weights import pretrained
from actors.rewards import pixel
from actors.tiny.training import pixel_reward as first
from actors.tiny.training.pixel_data import KINDS, Clips, read
from actors.tiny.training.pixel_reward import Batch, grading, print_agreement
from actors.tiny.walls import pixel_data, reader, verifier, world
from actors.training.config import Schedule
from actors.training.loop import train

CONFIG = pixel.PixelConfig(
    vocabulary=(*reader.GRAMMAR, *world.DIRECTIONS, *world.SHAPES, *world.COLOURS),
    phrase=8,
    shortest=2,
    phrases=world.MOST_OBJECTS,
    frames=world.FRAMES,
    size=world.SIZE,
    components=(("VQ", "clip"), ("MQ", "phrases"), ("TA", "both"), ("LAW", "clip"), ("IDENTITY", "clip")),
)
STEADY = 0.9  # IDENTITY below which a clip is not shown backwards, where another chunk would be the first


def batch(rng: np.random.Generator, kinds: Mapping[str, Clips], n: int) -> Batch:
    """Draw `n` clips as for the world without walls; one that loses an identity is not shown backwards."""
    kept = CONFIG.names.index("IDENTITY")
    return first.batch(
        rng, kinds, n, CONFIG, turned=pixel_data.turned, backwards=lambda grades: grades[0, kept] > STEADY
    )


def fit(args: argparse.Namespace) -> None:
    """Train the reward and write it, as the command `train` does."""
    torch.manual_seed(args.seed)
    net = pixel.PixelNet(CONFIG)
    kinds = {k: c for k in KINDS if (c := read(args.work, k))}
    print({k: len(c.frames) for k, c in kinds.items()}, flush=True)
    loss = grading(net, lambda rng: batch(rng, kinds, args.batch))
    schedule = Schedule(steps=args.steps, learning_rate=args.peak, warm_up=200, seed=args.seed, every=200)
    train(net, loss, schedule, checkpoint=args.work / "run.pt")
    pixel.save(net, args.out)
    print(f"wrote {args.out}")


@torch.inference_mode()
def compare(args: argparse.Namespace) -> None:
    """Print how often the reward agrees with the verifier, as the command `compare` does."""
    pipe = pretrained(WanPipeline, args.model, dtype=torch.float32)
    net = pixel.load(args.out)
    rng = np.random.default_rng([args.seed, 99])
    captions = [str(c) for c in rng.permutation([t for texts in vars(world.HELD_OUT).values() for t in texts])]
    ours, theirs = [], []
    for c, caption in enumerate(captions[: args.captions]):
        seeds = [1_000_003 * (c + 1) + s for s in range(args.seeds)]
        clips = pixel_data.sampled(pipe, caption, seeds, steps=args.steps, guidance=args.guidance)
        words = torch.tensor([[pixel.spell(caption, net.config)]] * args.seeds)
        ours.append(net(pixel.to_input(clips), words)[:, 0].double().numpy())
        theirs.append([verifier.measure(frames, world.parse(caption)) for frames in clips])
    a, b = np.array(ours), np.array(theirs)[..., : len(CONFIG.names)]  # (captions, seeds, components)
    print(f"{len(a)} held-out captions x {args.seeds} seeds; verifier's mean {b.mean((0, 1)).round(3)}")
    print_agreement(CONFIG.names, a, b)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--work", type=Path, default=Path("training/walls/pixel"), help="clips and checkpoints")
    shared.add_argument("--model", type=Path, default=Path("actors/assets/tiny-walls"))
    shared.add_argument("--out", type=Path, default=Path("training/walls/pixel-reward"), help="the reward's folder")
    shared.add_argument("--seed", type=int, default=0)

    verb = verbs.add_parser("make", parents=[shared])
    verb.add_argument("--kind", choices=KINDS, required=True)
    verb.add_argument("--n", type=int, required=True)
    verb.set_defaults(do=lambda a: pixel_data.make(a.kind, a.n, work=a.work, model=a.model, seed=a.seed))

    verb = verbs.add_parser("train", parents=[shared])
    verb.add_argument("--steps", type=int, default=3000)
    verb.add_argument("--batch", type=int, default=32)
    verb.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    verb.set_defaults(do=fit)

    verb = verbs.add_parser("compare", parents=[shared])
    verb.add_argument("--captions", type=int, default=40)
    verb.add_argument("--seeds", type=int, default=6)
    verb.add_argument("--steps", type=int, default=20)
    verb.add_argument("--guidance", type=float, default=2.0)
    verb.set_defaults(do=compare)

    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
