"""Clips of the world with walls, captions and the verifier's grades, in files of `CHUNK` clips that are made once.

There are three kinds, as for the world without walls (`actors/tiny/training/pixel_data.py`): clips of the world, most
of them spoilt, some lawless or of objects that change (`rendered`); such clips after the autoencoder (`decoded`); and
the model's own samples and x0 predictions (`samples`). Each clip comes with several captions, its own first. No
held-out caption is among them.

Shapes: n clips of t frames, h x w pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.tiny.training.pixel_data import (
    CAPTIONS,
    GUIDANCE,
    Clips,
    corrupted,
    predicted,
    redrawn,
    shown,
    source,
    write,
)
from actors.tiny.walls import reader, verifier, world
from actors.tiny.walls.corruptions import IDENTITIES, SWAPS, held, lose
from actors.tiny.walls.seeing import observe

CHUNK = 250
SHAPE = ((world.FRAMES + 3) // 4, world.SIZE // 4, world.SIZE // 4)  # of a clip's latents
COMPONENTS = verifier.Verifier.components[:-1]
_SWAPS, _WEIGHTS = zip(
    *{
        "colour": 0.12,
        "shape": 0.28,
        "legs": 0.24,
        "last leg": 0.12,
        "order of legs": 0.06,
        "speed": 0.12,
        "wall": 0.06,
    }.items(),
    strict=True,
)


def others(rng: np.random.Generator, own: world.Caption) -> Iterator[world.Caption]:
    """Endless wrong captions for a clip of `own`; most differ in one attribute, some in two, some in all."""
    while True:
        kind = rng.choice(("swap", "swaps", "fewer", "unrelated"), p=(0.7, 0.1, 0.1, 0.1))
        wrong: world.Caption | None = own
        if kind == "unrelated":
            wrong = world.training_caption(rng)
        elif kind == "fewer":
            wrong = replace(own, objects=own.objects[:-1]) if len(own.objects) > 1 else None
        else:
            for _ in range(1 if kind == "swap" else 2):
                wrong = SWAPS[str(rng.choice(_SWAPS, p=_WEIGHTS))](rng, wrong) if wrong else None
        if wrong and wrong != own and not world.held_out(wrong):
            yield wrong


def labelled(rng: np.random.Generator, frames: np.ndarray, captions: list[world.Caption]) -> Clips:
    """Grade clips (n, t, h, w, 3) by their own caption and by wrong ones, `CAPTIONS` in all."""
    texts, labels = [], []
    for clip, own in zip(frames, captions, strict=True):
        seen = observe(clip)
        wrong = others(rng, own)
        row = [own, *(next(wrong) for _ in range(CAPTIONS - 1))]
        texts.append([str(c) for c in row])
        labels.append([verifier.grade(seen, c)[: len(COMPONENTS)] for c in row])
    return Clips(frames, np.array(texts), np.array(labels, dtype=np.float32))


def _clip(rng: np.random.Generator, scene: world.Scene) -> np.ndarray:
    """The clip of a scene, (t, h, w, 3): as it is, or one object stays in the wall, or one loses its identity."""
    if scene.through is not None and rng.random() < 0.6:
        return world.draw(held(scene, rng.uniform(-0.3, 1.2), back=bool(rng.random() < 0.7)))
    if rng.random() < 0.25:
        return lose(rng, scene, str(rng.choice(IDENTITIES)), rng.uniform(0.2, 1))
    return world.draw(scene)


def rendered(rng: np.random.Generator, n: int, *, spoilt: float = 0.5) -> tuple[np.ndarray, list[world.Caption]]:
    """Render `n` clips, a share `spoilt` of them corrupted once or twice; returns frames and each clip's caption."""
    frames, captions = [], []
    for _ in range(n):
        own = world.training_caption(rng, wall=0.5)
        clip = _clip(rng, world.place(own, rng, broken=0.6))
        frames.append(corrupted(rng, clip) if rng.random() < spoilt else clip)
        captions.append(own)
    return np.stack(frames), captions


@torch.inference_mode()
def sampled(pipe: Any, caption: str, seeds: Sequence[int], *, steps: int, guidance: float) -> np.ndarray:
    """One clip of the model for each seed, uint8 (seeds, t, h, w, 3)."""
    (z,) = predicted(
        pipe,
        [caption] * len(seeds),
        list(seeds),
        steps=steps,
        guidance=guidance,
        previews=(),
        shape=SHAPE,
        text_length=reader.LENGTH,
    )
    return shown(pipe.vae, z)


@torch.inference_mode()
def samples(rng: np.random.Generator, n: int, pipe: Any, *, batch: int = 25) -> tuple[np.ndarray, list[world.Caption]]:
    """`n` clips of the model, in batches of varied steps and guidance; two of three are x0 predictions."""
    frames: list[np.ndarray] = []
    captions: list[world.Caption] = []
    while len(captions) < n:
        own = [world.training_caption(rng, wall=0.5) for _ in range(batch)]
        steps = int(8 + 17 * rng.random() ** 2)
        found = predicted(
            pipe,
            [str(c) for c in own],
            rng.integers(2**62, size=batch).tolist(),
            steps=steps,
            guidance=float(rng.choice(GUIDANCE)),
            previews=tuple(int(x) for x in (np.arange(2) + rng.random(2)) / 2 * steps),
            shape=SHAPE,
            text_length=reader.LENGTH,
        )
        frames += [shown(pipe.vae, z) for z in found]
        captions += own * len(found)
    return np.concatenate(frames)[:n], captions[:n]


def make(kind: str, n: int, *, work: Path, model: Path, seed: int) -> None:
    """Write clips of one kind to `work`; files that exist already are kept."""
    part = source(kind, model)

    def draw(rng: np.random.Generator) -> Clips:
        if kind == "samples":
            with torch.autocast("cpu", torch.bfloat16):
                return labelled(rng, *samples(rng, CHUNK, part))
        frames, captions = rendered(rng, CHUNK, spoilt=0.5 if kind == "rendered" else 0.3)
        return labelled(rng, redrawn(rng, frames, part) if kind == "decoded" else frames, captions)

    write(kind, -(-n // CHUNK), draw, work=work, seed=seed)


_MIRROR = {"left": "right", "right": "left"}
_REVERSE = {**_MIRROR, "up": "down", "down": "up"}


def turned(
    frames: np.ndarray, captions: list[str], *, mirror: bool, reverse: bool
) -> tuple[np.ndarray, list[str]] | None:
    """The clip (t, h, w, 3) mirrored, or backwards, or both, and its captions changed to fit.

    None where a changed caption is held out, and backwards beside a wall: what bounces says where it comes from.
    """
    rows = [world.parse(c) for c in captions]
    if reverse and any(row.wall for row in rows):
        return None
    if mirror:
        rows = [_with_legs(row, _MIRROR, backwards=False) for row in rows]
    if reverse:
        rows = [_with_legs(row, _REVERSE, backwards=True) for row in rows]
    if any(world.held_out(row) for row in rows):
        return None
    frames = frames[:, :, ::-1] if mirror else frames
    return frames[::-1] if reverse else frames, [str(row) for row in rows]


def _with_legs(caption: world.Caption, names: dict[str, str], *, backwards: bool) -> world.Caption:
    ways = [tuple(names.get(leg, leg) for leg in o.legs) for o in caption.objects]
    objects = zip(caption.objects, ways, strict=True)
    return replace(caption, objects=tuple(replace(o, legs=w[::-1] if backwards else w) for o, w in objects))
