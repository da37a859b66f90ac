"""Clips, captions and the verifier's grades for the pixel reward, in files of 500 clips that are made once.

There are three kinds: clips of the world, most of them spoilt (`rendered`); such clips after the autoencoder and some
noise on their latents (`decoded`); and the tiny model's own samples and x0 predictions (`samples`). Each clip comes
with several captions, its own first. No held-out caption is among them.

Shapes: n clips of t frames, h x w pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline

from actors.models.weights import pretrained
from actors.tiny import verifier, world
from actors.tiny.corruptions import ATTRIBUTES, CORRUPTIONS, swap
from actors.tiny.training.clips import to_model

CHUNK = 500
TEXT_LENGTH = 80
GUIDANCE = (1.0, 1.0, 3.0, 5.0)
CAPTIONS = 4
KINDS = ("rendered", "decoded", "samples")
Objects = tuple[world.Object, ...]
_HELD_OUT = frozenset(world.HELD_OUT_TWO)


def allowed(objects: Objects) -> bool:
    """Whether training may see this caption."""
    return (
        len({o.colour for o in objects}) == len(objects)
        and not any(str(o) in world.HELD_OUT_ONE for o in objects)
        and not {world.caption(objects), world.caption(objects[::-1])} & _HELD_OUT
    )


def others(rng: np.random.Generator, objects: Objects) -> Iterator[Objects]:
    """Endless wrong captions, as objects, for a clip of `objects`; most differ in one word, some in all."""
    while True:
        kind = rng.choice(("swap", "swaps", "count", "unrelated"), p=(0.7, 0.1, 0.1, 0.1))
        wrong = objects
        if kind == "unrelated":
            wrong = world.training_objects(rng)
        elif kind == "count":  # one too few, or one too many
            wrong = objects[:1] if len(objects) == 2 else (*objects, world.training_objects(rng, two=0)[0])
        else:
            for _ in range(1 if kind == "swap" else 2):
                wrong = swap(rng, wrong, str(rng.choice(list(ATTRIBUTES), p=(0.2, 0.4, 0.4))))
        if allowed(wrong):
            yield wrong


@dataclass(frozen=True)
class Clips:
    """Frames uint8 (n, t, h, w, 3), captions (n, each), and their grades VQ, MQ, TA as float32 (n, each, 3)."""

    frames: np.ndarray
    captions: np.ndarray
    labels: np.ndarray


def labelled(
    rng: np.random.Generator, frames: np.ndarray, objects: list[Objects], *, captions_each: int = CAPTIONS
) -> Clips:
    """Grade clips (n, t, h, w, 3) by their own caption and by wrong ones, `captions_each` in all."""
    captions, labels = [], []
    for clip, own in zip(frames, objects, strict=True):
        seen = verifier.observe(clip)
        wrong = others(rng, own)
        row = [own, *(next(wrong) for _ in range(captions_each - 1))]
        captions.append([world.caption(o) for o in row])
        labels.append([verifier.grade(seen, o)[:3] for o in row])
    return Clips(frames, np.array(captions), np.array(labels, dtype=np.float32))


def rendered(rng: np.random.Generator, n: int, *, spoilt: float = 0.7) -> tuple[np.ndarray, list[Objects]]:
    """Render `n` clips, a share `spoilt` of them corrupted once or twice; returns frames and each clip's objects."""
    frames, objects = [], []
    for _ in range(n):
        own = world.training_objects(rng)
        clip = world.draw(world.place(own, rng))
        frames.append(corrupted(rng, clip) if rng.random() < spoilt else clip)
        objects.append(own)
    return np.stack(frames), objects


def corrupted(rng: np.random.Generator, clip: np.ndarray) -> np.ndarray:
    """A clip (t, h, w, 3) spoilt in one way or two, by drawn strengths of which most are small."""
    for name in rng.choice(list(CORRUPTIONS), size=rng.integers(1, 3), replace=False):
        spoil, low, high = CORRUPTIONS[str(name)]
        clip = spoil(rng, clip, low + (high - low) * rng.random() ** 1.5)
    return clip


def pixels(decoded: torch.Tensor) -> np.ndarray:
    """An autoencoder's output (n, 3, t, h, w) in [-1, 1] as frames uint8 (n, t, h, w, 3)."""
    return (decoded.float().clamp(-1, 1).add(1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()


def statistics(vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and standard deviation (1, channels, 1, 1, 1) by which an autoencoder's latents are normalised."""
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std


def shown(vae: Any, z: torch.Tensor) -> np.ndarray:
    """The frames uint8 (n, t, h, w, 3) of normalised latents (n, channels, t', h', w')."""
    mean, std = statistics(vae)
    return pixels(vae.decode(z * std + mean).sample)


def decoded(rng: np.random.Generator, n: int, vae: Any) -> tuple[np.ndarray, list[Objects]]:
    """Render `n` clips and pass them through the autoencoder; returns frames and each clip's objects."""
    frames, objects = rendered(rng, n, spoilt=0.3)
    return redrawn(rng, frames, vae), objects


@torch.inference_mode()
def redrawn(rng: np.random.Generator, frames: np.ndarray, vae: Any) -> np.ndarray:
    """Clips (n, t, h, w, 3) after the autoencoder.

    A third of their latents stay as they are, a third are noised, a third are mixed with those of the next clip.
    """
    out = []
    _, std = statistics(vae)
    for i in range(0, len(frames), 20):
        z = vae.encode(to_model(frames[i : i + 20])).latent_dist.mode()
        way = torch.from_numpy(rng.integers(3, size=len(z))).view(-1, 1, 1, 1, 1)
        strength = torch.from_numpy(rng.random(len(z))).float().view(-1, 1, 1, 1, 1)
        noise = torch.from_numpy(rng.standard_normal(z.shape)).float() * std
        noise = torch.where(torch.from_numpy(rng.random(len(z)) < 0.5).view(-1, 1, 1, 1, 1), noise, noise[:, :, :1])
        mixed = z.lerp(z.roll(1, 0), strength * 0.6)
        z = torch.where(way == 1, z + strength * noise, torch.where(way == 2, mixed, z))
        out.append(pixels(vae.decode(z).sample))
    return np.concatenate(out)


@torch.inference_mode()
def predicted(
    pipe: Any,
    captions: list[str],
    seeds: list[int],
    *,
    steps: int,
    guidance: float,
    previews: tuple[int, ...],
    shape: tuple[int, int, int] = (5, 8, 8),
    text_length: int = TEXT_LENGTH,
) -> list[torch.Tensor]:
    """Sample one clip, whose latents have the `shape` (t', h', w'), for each caption and seed.

    Returns normalised latents (n, channels, t', h', w'): the x0 predictions at each of the steps `previews`, then the
    samples.
    """
    prompts, negative = pipe.encode_prompt(
        captions, do_classifier_free_guidance=guidance > 1, max_sequence_length=text_length
    )
    size = (pipe.transformer.config.in_channels, *shape)
    x = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds])
    pipe.scheduler.set_timesteps(steps)
    clips = []
    for i, t in enumerate(pipe.scheduler.timesteps):
        sigma = pipe.scheduler.sigmas[i]
        v = pipe.transformer(x, t.expand(len(x)), prompts).sample
        if guidance > 1:
            free = pipe.transformer(x, t.expand(len(x)), negative).sample
            v = free + guidance * (v - free)
        if i in previews:
            clips.append(x - sigma * v)
        x = pipe.scheduler.step(v, t, x).prev_sample
    return [*clips, x]


@torch.inference_mode()
def sampled(
    pipe: Any, captions: list[str], seeds: list[int], *, steps: int, guidance: float, previews: tuple[int, ...]
) -> list[np.ndarray]:
    """The latents of `predicted`, decoded: frames uint8 (n, t, h, w, 3)."""
    found = predicted(pipe, captions, seeds, steps=steps, guidance=guidance, previews=previews)
    return [shown(pipe.vae, z) for z in found]


def samples(rng: np.random.Generator, n: int, pipe: Any, *, batch: int = 25) -> tuple[np.ndarray, list[Objects]]:
    """`n` clips of the model, in batches of varied steps and guidance; three of four are x0 predictions."""
    frames: list[np.ndarray] = []
    objects: list[Objects] = []
    while len(objects) < n:
        own = [world.training_objects(rng, two=0.75) for _ in range(batch)]
        steps = int(8 + 23 * rng.random() ** 2)
        thirds = (np.arange(3) + rng.random(3)) / 3
        clips = sampled(
            pipe,
            [world.caption(o) for o in own],
            rng.integers(2**62, size=batch).tolist(),
            steps=steps,
            guidance=float(rng.choice(GUIDANCE)),
            previews=tuple(int(x) for x in thirds * steps),
        )
        frames += clips
        objects += own * len(clips)
    return np.concatenate(frames)[:n], objects[:n]


def source(kind: str, model: Path) -> Any:
    """What clips of a kind are made with: an autoencoder, a whole pipeline, or nothing."""
    if kind == "decoded":
        return pretrained(AutoencoderKLWan, model / "vae").eval()
    if kind == "rendered":
        return None
    pipe = pretrained(WanPipeline, model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(kind: str, n: int, *, work: Path, model: Path, seed: int) -> None:
    """Write clips of one kind to `work`; files that exist already are kept."""
    part = source(kind, model)

    def draw(rng: np.random.Generator) -> Clips:
        if kind == "rendered":
            return labelled(rng, *rendered(rng, CHUNK))
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "samples"):
            return labelled(rng, *(decoded if kind == "decoded" else samples)(rng, CHUNK, part))

    write(kind, -(-n // CHUNK), draw, work=work, seed=seed)


def write(kind: str, files: int, draw: Callable[[np.random.Generator], Clips], *, work: Path, seed: int) -> None:
    """Draw `files` files of clips of a kind and write them to `work`; those that exist already are kept."""
    work.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        path = work / f"{kind}-{seed}-{i:03}.npz"
        if path.exists():
            continue
        clips = draw(np.random.default_rng([seed, KINDS.index(kind), i]))
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, frames=clips.frames, captions=clips.captions, labels=clips.labels)
        partial.replace(path)
        print(f"wrote {path}: own captions' mean grades {clips.labels[:, 0].mean(0).round(3)}", flush=True)


def read(work: Path, kind: str) -> Clips | None:
    """The clips of one kind in `work`, None where there are none."""
    files = [np.load(p) for p in sorted(work.glob(f"{kind}-*[0-9].npz"))]
    if not files:
        return None
    return Clips(*(np.concatenate([f[k] for f in files]) for k in ("frames", "captions", "labels")))


_MIRROR = {"left": "right", "right": "left"}
_REVERSE = {**_MIRROR, "up": "down", "down": "up"}


def turned(
    frames: np.ndarray, captions: list[str], *, mirror: bool, reverse: bool
) -> tuple[np.ndarray, list[str]] | None:
    """The clip (t, h, w, 3) mirrored, or backwards, or both, and its captions changed to fit.

    None where a changed caption is held out.
    """
    rows = [world.parse(c) for c in captions]
    for apply, names in ((mirror, _MIRROR), (reverse, _REVERSE)):
        if apply:
            rows = [tuple(replace(o, motion=names.get(o.motion, o.motion)) for o in row) for row in rows]
    if not all(allowed(row) for row in rows):
        return None
    frames = frames[:, :, ::-1] if mirror else frames
    return frames[::-1] if reverse else frames, [world.caption(row) for row in rows]
