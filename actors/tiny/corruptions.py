"""Ways to spoil a clip, which the verifier must notice and from which the pixel reward learns. numpy only.

Each corruption takes a generator, frames uint8 (T, H, W, 3) and a strength, and returns new frames uint8 (T, H, W, 3).
T are frames, H x W pixels.
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
    """Frames (T, H, W, 3) blurred in space by `sigma` pixels, borders repeated; float32."""
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
    """Every frame is blurred by `sigma` pixels."""
    return _pixels(gaussian(frames, sigma))


def noise(rng: np.random.Generator, frames: np.ndarray, sigma: float) -> np.ndarray:
    """Independent Gaussian noise of `sigma` grey levels on every channel."""
    return _pixels(frames + rng.normal(0, sigma, frames.shape))


def flicker(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """Each frame's brightness above the background is scaled by its own factor, between 1 - strength and 1."""
    gain = 1 - strength * rng.random((len(frames), 1, 1, 1))
    return _pixels(_DARK + (frames - _DARK) * gain)


def freeze(rng: np.random.Generator, frames: np.ndarray, share: float) -> np.ndarray:
    """Nothing moves in the last `share` of the clip."""
    last = round((1 - share) * (len(frames) - 1))
    return frames[np.minimum(np.arange(len(frames)), last)]


def shake(rng: np.random.Generator, frames: np.ndarray, pixels: float) -> np.ndarray:
    """Each frame is shifted by its own whole number of pixels, of standard deviation `pixels`."""
    shifts = np.rint(rng.normal(0, pixels, (len(frames), 2))).astype(int)
    return np.stack([np.roll(f, tuple(s), (0, 1)) for f, s in zip(frames, shifts, strict=True)])


def shuffle(rng: np.random.Generator, frames: np.ndarray, share: float) -> np.ndarray:
    """A `share` of the frames change places."""
    order = np.arange(len(frames))
    some = rng.permutation(len(frames))[: round(share * len(frames))]
    order[np.sort(some)] = some
    return frames[order]


def ghost(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """Another clip of the world is seen through this one."""
    other = world.draw(world.place(world.training_objects(rng), rng, frames=len(frames)), size=frames.shape[1])
    return _pixels(frames + strength * (other - _DARK) * (1 - strength * 0.5))


def tint(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """The colour channels are mixed, alike in all frames."""
    mix = np.eye(3) * (1 - strength) + strength * rng.dirichlet(np.ones(3), 3)
    return _pixels(_DARK + (frames - _DARK) @ mix.T)


def fade(rng: np.random.Generator, frames: np.ndarray, share: float) -> np.ndarray:
    """Everything vanishes over the last (or first) `share` of the clip."""
    time = np.linspace(0, 1, len(frames))
    time = time if rng.random() < 0.5 else time[::-1]
    gain = np.clip((1 - time) / max(share, 1e-3), 0, 1)[:, None, None, None]
    return _pixels(_DARK + (frames - _DARK) * gain)


def morph(rng: np.random.Generator, frames: np.ndarray, strength: float) -> np.ndarray:
    """The clip turns, frame by frame, into another clip of the world, up to a share of `strength` in the last frame."""
    other = world.draw(world.place(world.training_objects(rng), rng, frames=len(frames)), size=frames.shape[1])
    share = strength * np.linspace(0, 1, len(frames))[:, None, None, None]
    return _pixels(frames * (1 - share) + other * share)


def wobble(rng: np.random.Generator, frames: np.ndarray, pixels: float) -> np.ndarray:
    """Shapes bend: the rows and columns of a frame are shifted by smooth random curves of up to `pixels`."""
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


# Each corruption with the least and the greatest strength that training draws.
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
    """The objects with one attribute of one of them changed; a colour changes to one that none of them has."""
    i = int(rng.integers(len(objects)))
    taken = {getattr(o, attribute) for o in (objects if attribute == "colour" else objects[i : i + 1])}
    value = str(rng.choice([v for v in ATTRIBUTES[attribute] if v not in taken]))
    return (*objects[:i], replace(objects[i], **{attribute: value}), *objects[i + 1 :])


def alike(rng: np.random.Generator, objects: tuple[world.Object, ...]) -> np.ndarray:
    """Draw a clip of two objects that both have the colour of the first; uint8 (T, H, W, 3)."""
    scene = world.place(objects, rng)
    return world.draw(replace(scene, objects=tuple(replace(o, colour=objects[0].colour) for o in objects)))


def table(rng: np.random.Generator, n: int) -> Iterator[tuple[str, Pairs]]:
    """Named lists of `n` pairs, a clip and the objects that its caption names: true, wrong, and spoilt clips."""
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
