"""Ways to spoil a clip: what the verifier must notice and the pixel reward learns from. numpy only.

Each takes a generator, uint8 frames (T, H, W, 3) and a strength, and returns new uint8 frames.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from actors.tiny import world

Corruption = Callable[[np.random.Generator, np.ndarray, float], np.ndarray]
_DARK = np.array(world.BACKGROUND, dtype=np.float32)


def _pixels(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 255)).astype(np.uint8)


def gaussian(frames: np.ndarray, sigma: float) -> np.ndarray:
    """A blur in space, borders repeated; float32."""
    x = frames.astype(np.float32)
    reach = max(1, int(np.ceil(3 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(x, [(reach, reach) if i == axis else (0, 0) for i in range(4)], mode="edge")
        n = x.shape[axis]
        x = sum(w * padded.take(range(i, i + n), axis) for i, w in enumerate(kernel)).astype(np.float32)
    return x


def blur(rng: np.random.Generator, frames: np.ndarray, sigma: float) -> np.ndarray:
    return _pixels(gaussian(frames, sigma))


def noise(rng: np.random.Generator, frames: np.ndarray, sigma: float) -> np.ndarray:
    """Independent Gaussian grey levels on every channel."""
    return _pixels(frames + rng.normal(0, sigma, frames.shape))


def flicker(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """Each frame's brightness above the background is scaled by a factor of its own, 1 - strength at the least."""
    gain = 1 - strength * rng.random((len(frames), 1, 1, 1))
    return _pixels(_DARK + (frames - _DARK) * gain)


def freeze(rng: np.random.Generator, frames: np.ndarray, share: float) -> np.ndarray:
    """The last `share` of the clip stands still."""
    last = round((1 - share) * (len(frames) - 1))
    return frames[np.minimum(np.arange(len(frames)), last)]


def shake(rng: np.random.Generator, frames: np.ndarray, pixels: float) -> np.ndarray:
    """Each frame is shifted by whole pixels of its own."""
    shifts = np.rint(rng.normal(0, pixels, (len(frames), 2))).astype(int)
    return np.stack([np.roll(f, tuple(s), (0, 1)) for f, s in zip(frames, shifts, strict=True)])


def shuffle(rng: np.random.Generator, frames: np.ndarray, share: float) -> np.ndarray:
    """A `share` of the frames change places."""
    order = np.arange(len(frames))
    some = rng.permutation(len(frames))[: round(share * len(frames))]
    order[np.sort(some)] = some
    return frames[order]


def ghost(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """Another clip of the world shines through."""
    other = world.draw(world.place(world.training_objects(rng), rng, frames=len(frames)), size=frames.shape[1])
    return _pixels(frames + strength * (other - _DARK) * (1 - strength * 0.5))


def tint(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """The channels are mixed, the same way throughout."""
    mix = np.eye(3) * (1 - strength) + strength * rng.dirichlet(np.ones(3), 3)
    return _pixels(_DARK + (frames - _DARK) @ mix.T)


def fade(rng: np.random.Generator, frames: np.ndarray, share: float) -> np.ndarray:
    """Everything vanishes over the last (or first) `share` of the clip."""
    time = np.linspace(0, 1, len(frames))
    time = time if rng.random() < 0.5 else time[::-1]
    gain = np.clip((1 - time) / max(share, 1e-3), 0, 1)[:, None, None, None]
    return _pixels(_DARK + (frames - _DARK) * gain)


def morph(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """The clip dissolves into another one of the world up to `strength`."""
    other = world.draw(world.place(world.training_objects(rng), rng, frames=len(frames)), size=frames.shape[1])
    share = strength * np.linspace(0, 1, len(frames))[:, None, None, None]
    return _pixels(frames * (1 - share) + other * share)


def wobble(rng: np.random.Generator, frames: np.ndarray, pixels: float) -> np.ndarray:
    """Shapes bend: every row and column of a frame is shifted by a smooth random curve."""
    t, height, width, _ = frames.shape
    out = np.empty_like(frames)
    phase = rng.uniform(0, 2 * np.pi, (t, 2)) if rng.random() < 0.5 else np.tile(rng.uniform(0, 2 * np.pi, 2), (t, 1))
    rate = rng.uniform(0.5, 1.2, 2)
    y, x = np.arange(height), np.arange(width)
    for i in range(t):
        dx = np.rint(pixels * np.sin(rate[0] * y + phase[i, 0])).astype(int)
        dy = np.rint(pixels * np.sin(rate[1] * x + phase[i, 1])).astype(int)
        rows = np.clip(y[:, None] + dy, 0, height - 1)
        columns = np.clip(x + dx[:, None], 0, width - 1)
        out[i] = frames[i][rows, columns]
    return out


# Each with the strengths between which training draws.
CORRUPTIONS: dict[str, tuple[Corruption, float, float]] = {
    "blur": (blur, 0.3, 3.0),
    "noise": (noise, 2.0, 40.0),
    "flicker": (flicker, 0.1, 1.0),
    "freeze": (freeze, 0.1, 1.0),
    "shake": (shake, 0.3, 3.0),
    "shuffle": (shuffle, 0.1, 1.0),
    "ghost": (ghost, 0.1, 0.9),
    "tint": (tint, 0.1, 0.9),
    "fade": (fade, 0.1, 1.0),
    "morph": (morph, 0.2, 1.0),
    "wobble": (wobble, 0.5, 3.0),
}

Pairs = list[tuple[np.ndarray, tuple[world.Object, ...]]]
ATTRIBUTES = {"colour": tuple(world.COLOURS), "shape": world.SHAPES, "motion": tuple(world.MOTIONS)}


def swap(rng: np.random.Generator, objects: tuple[world.Object, ...], attribute: str) -> tuple[world.Object, ...]:
    """One attribute of one object changed; its colour to one that no object has."""
    i = int(rng.integers(len(objects)))
    taken = {getattr(o, attribute) for o in (objects if attribute == "colour" else objects[i : i + 1])}
    value = str(rng.choice([v for v in ATTRIBUTES[attribute] if v not in taken]))
    return (*objects[:i], replace(objects[i], **{attribute: value}), *objects[i + 1 :])


def alike(rng: np.random.Generator, objects: tuple[world.Object, ...]) -> np.ndarray:
    """A clip of two objects that both have the colour of the first."""
    scene = world.place(objects, rng)
    return world.draw(replace(scene, objects=tuple(replace(o, colour=objects[0].colour) for o in objects)))


def table(rng: np.random.Generator, n: int) -> Iterator[tuple[str, Pairs]]:
    """Named rows of (clip, the objects its caption names): true ones, wrong ones, spoilt ones."""
    ones = [world.training_objects(rng, two=0) for _ in range(n)]
    twos = [world.training_objects(rng, two=1) for _ in range(n)]
    mixed = [(ones, twos)[i % 2][i] for i in range(n)]
    clips = [world.draw(world.place(o, rng)) for o in mixed]
    yield "one object", [(world.draw(world.place(o, rng)), o) for o in ones]
    yield "two objects", [(world.draw(world.place(o, rng)), o) for o in twos]
    for attribute in ATTRIBUTES:
        yield f"wrong {attribute}", [(c, swap(rng, o, attribute)) for c, o in zip(clips, mixed, strict=True)]
    yield "missing object", [(world.draw(world.place(o[:1], rng)), o) for o in twos]
    yield "extra object", [(world.draw(world.place(o, rng)), o[:1]) for o in twos]
    yield "extra, same colour", [(alike(rng, o), o[:1]) for o in twos]
    yield "grey levels +-3", [(_pixels(c + rng.integers(-3, 4, c.shape)), o) for c, o in zip(clips, mixed, strict=True)]
    yield "blur 0.50", [(blur(rng, c, 0.5), o) for c, o in zip(clips, mixed, strict=True)]
    for name, (spoil, low, high) in CORRUPTIONS.items():
        for strength in np.linspace(low, high, 4):
            yield f"{name} {strength:.2f}", [(spoil(rng, c, strength), o) for c, o in zip(clips, mixed, strict=True)]
