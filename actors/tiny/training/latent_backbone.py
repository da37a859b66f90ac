"""Pre-train the small latent reward, which has no pre-trained language model:

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m actors.tiny.training.latent_backbone

Rendered clips of the world, most of them spoilt, are encoded and noised, lightly at first, to any level in the end. The
net's language model learns to say, word by word, what a clip shows (for a long time the net learns nothing from grades
alone), and the net to grade clips as the verifier does, by their own captions and by wrong ones. Clips and checkpoint
are kept in `--work`, so that a run that was killed goes on. With `--steps 1` and an existing checkpoint, the weights of
that checkpoint are written. No held-out caption is trained on; at the end, held-out captions measure how well the net
reads words.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from actors.models.weights import pretrained
from actors.rewards import latent_reward
from actors.rewards.latent_reward import LatentRewardConfig, LatentRewardNet
from actors.tiny import world
from actors.tiny.corruptions import ATTRIBUTES, swap
from actors.tiny.training import pixel_data
from actors.tiny.training.clips import to_model
from actors.tiny.training.pixel_reward import VOCABULARY
from actors.training import losses
from actors.training.config import Schedule
from actors.training.loop import Means, train

CHUNK = 250
CAPTIONS = 12  # captions of a clip in the files, its own first
JUDGED = 16  # clips of a step that are graded by wrong captions, too; all clips are described
WRONG = 3  # wrong captions of each of these
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)


@torch.inference_mode()
def encode(vae: AutoencoderKLWan, frames: np.ndarray) -> np.ndarray:
    """Encode frames uint8 (n, t, h, w, 3) to normalised latents, float32 (n, C, T, H, W)."""
    mean, std = pixel_data.statistics(vae)
    z = [vae.encode(to_model(frames[i : i + 25])).latent_dist.mode() for i in range(0, len(frames), 25)]
    return ((torch.cat(z) - mean) / std).numpy()


def make(n: int, *, vae: AutoencoderKLWan, work: Path, seed: int) -> list[Path]:
    """Write files of CHUNK clips each to `work`, at least `n` clips in all; files that exist are kept."""
    work.mkdir(parents=True, exist_ok=True)
    paths = [work / f"clips-{seed}-{i:03}.npz" for i in range((n + CHUNK - 1) // CHUNK)]
    for i, path in enumerate(paths):
        if path.exists():
            continue
        rng = np.random.default_rng([seed, 3, i])
        frames, objects = pixel_data.rendered(rng, CHUNK)
        clips = pixel_data.labelled(rng, frames, objects, captions_each=CAPTIONS)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, latents=encode(vae, frames), captions=clips.captions, labels=clips.labels)
        partial.replace(path)
        print(f"wrote {path}", flush=True)
    return paths


def noised(latents: Tensor, sigmas: Tensor) -> Tensor:
    """Latents (n, C, T, H, W) mixed with noise to the levels `sigmas` (n,)."""
    return torch.lerp(latents, torch.randn_like(latents), sigmas.view(-1, 1, 1, 1, 1))


def caption_loss(net: LatentRewardNet, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The cross-entropy of each next word of the captions, and of their ends.

    `hidden` are the hidden states (n, length, width) of the text, `ids` and `mask` its tokens (n, length).
    """
    told = len(net.config.instruction.split())
    words, there = ids[:, told:], mask[:, told:].bool()
    logits = F.linear(hidden[:, told : -len(net.queries)], net.model.language_model.embed_tokens.weight)
    following = F.pad(words[:, 1:], (0, 1), value=net.tokenizer.pad_token_id)
    return F.cross_entropy(logits[there], following[there])


@torch.inference_mode()
def report(net: LatentRewardNet, vae: AutoencoderKLWan, *, n: int, seed: int) -> None:
    """Print how often TA prefers a true clip's own held-out caption to one with a wrong word."""
    rng = np.random.default_rng([seed, 4])
    captions = rng.permutation([*world.HELD_OUT_ONE, *world.HELD_OUT_TWO])[:n]
    rows = [world.parse(c) for c in captions]
    latents = torch.from_numpy(encode(vae, np.stack([world.draw(world.place(o, rng)) for o in rows])))
    told = {"own": [world.caption(o) for o in rows]}
    told |= {a: [world.caption(swap(rng, o, a)) for o in rows] for a in ATTRIBUTES}
    print(f"TA: a true clip's caption above one with a wrong word ({n} held-out captions), and mean grades of its own")
    for level in LEVELS:
        torch.manual_seed(seed)
        sigmas = torch.full((n,), level)
        seen = net.look(noised(latents, sigmas), sigmas)
        scores = {
            k: torch.cat([net.judge(seen[i : i + 32], v[i : i + 32]) for i in range(0, n, 32)]) for k, v in told.items()
        }
        order = " ".join(f"{a} {(scores['own'] > scores[a])[:, 2].float().mean():.3f}" for a in ATTRIBUTES)
        print(f"  sigma {level:.1f}: {order}; own {scores['own'].mean(0).numpy().round(2)}", flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("training/latent-backbone"), help="clips and checkpoint")
    parser.add_argument("--model", type=Path, default=Path("actors/assets/tiny-wan"))
    parser.add_argument("--out", type=Path, default=latent_reward.ASSETS, help="the reward's folder")
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=48, help=f"clips, at least {JUDGED}")
    parser.add_argument("--peak", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--run", default="run", help="name of the checkpoint")
    parser.add_argument("--check", type=int, default=96, help="held-out captions in the report")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vae = pretrained(AutoencoderKLWan, args.model / "vae").eval()
    files = [np.load(p) for p in make(args.clips, vae=vae, work=args.work, seed=args.seed)]
    latents, captions, grades = (np.concatenate([f[k] for f in files]) for k in ("latents", "captions", "labels"))

    torch.manual_seed(args.seed)
    patch = latents.shape[2], 2  # all frames: what moves is seen within a patch
    net = LatentRewardNet(LatentRewardConfig(shape=latents.shape[1:], patch=patch, vocabulary=VOCABULARY))
    net.model.language_model.set_attn_implementation("eager")  # the fastest on a CPU at this size
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, {len(latents)} clips", flush=True)

    def loss(step: int, rng: np.random.Generator, means: Means) -> Tensor:
        pick = rng.integers(len(latents), size=args.batch)
        which = np.stack([rng.choice(np.arange(1, CAPTIONS), WRONG, replace=False) for _ in pick[:JUDGED]])
        others = np.take_along_axis(captions[pick[:JUDGED]], which, 1)
        wanted = torch.from_numpy(grades[pick[:JUDGED, None], np.insert(which, 0, 0, axis=1)])
        sigmas = torch.from_numpy(rng.random(args.batch) * min(1.0, 0.5 + 2 * step / args.steps)).float()
        ids, mask = net.read([*captions[pick, 0], *others.flatten()])
        with torch.autocast("cpu", torch.bfloat16):
            seen = net.look(noised(torch.from_numpy(latents[pick]), sigmas), sigmas)
            hidden = net.attend(torch.cat([seen, seen[:JUDGED].repeat_interleave(WRONG, 0)]), ids, mask)
            own, wrong = net.scores(hidden).float().split([args.batch, others.size])
            said = caption_loss(net, hidden[: args.batch], ids[: args.batch], mask[: args.batch])
        scores = torch.cat([own[:JUDGED, None], wrong.unflatten(0, (-1, WRONG))], 1)
        error = losses.regression(scores, wanted)
        among_captions = losses.preference(scores, wanted)
        among_clips = losses.preference(own, torch.from_numpy(grades[pick, 0]))
        value = error + 0.5 * (among_captions + among_clips) + said
        parts = {"loss": value, "mse": error, "captions": among_captions, "clips": among_clips, "words": said}
        told = wanted[:, :1, 2] > wanted[:, 1:, 2] + 0.05
        parts["TA"] = (scores[:, :1, 2] > scores[:, 1:, 2])[told].float().mean()
        means.add({name: part.item() for name, part in parts.items()})
        return value

    schedule = Schedule(steps=args.steps, learning_rate=args.peak, warm_up=200, seed=args.seed, every=200)
    train(net, loss, schedule, checkpoint=args.work / f"{args.run}.pt")
    latent_reward.save(net, args.out)
    print(f"wrote {args.out}: {sum(f.stat().st_size for f in args.out.iterdir()) / 1e6:.2f} MB", flush=True)
    report(latent_reward.load(args.out), vae, n=args.check, seed=args.seed)


if __name__ == "__main__":
    main()
