"""A closed synthetic world: coloured shapes that move as their caption says. numpy only.

Captions read "a red circle moving left" or "a red circle moving left and a blue square moving up". A clip has one or
two objects of different colours on a dark background. Objects start apart, move at a constant speed, and never overlap
or leave the picture. A clip is a function of its caption and a numpy generator.

`HELD_OUT_ONE` and `HELD_OUT_TWO` are the captions of every measurement, fixed by a seed. No training clip shows an
object (colour, shape, motion) of `HELD_OUT_ONE`, nor the two objects of a caption of `HELD_OUT_TWO` in either order.
"""

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

COLOURS = {
    "red": (230, 50, 50),
    "green": (50, 200, 70),
    "blue": (60, 90, 240),
    "yellow": (240, 220, 60),
    "magenta": (220, 70, 220),
    "cyan": (60, 220, 230),
}
BACKGROUND = (16, 16, 24)
SHAPES = ("circle", "square", "triangle")
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x to the right, y downwards

SIZE = 32  # pixels
FRAMES = 17
RADIUS = (3.8, 4.6)  # pixels; a square's half side is 0.88 of it, a triangle's circumradius 1.25
SPEED = (0.5, 0.75)  # pixels a frame
MARGIN = 1.25  # least distance of a centre from the border, in radii
APART = 1.15  # least distance of two centres less one pixel, in sums of their radii


@dataclass(frozen=True, order=True)
class Object:
    """One moving shape; as a string, its phrase in a caption."""

    colour: str
    shape: str
    motion: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} moving {self.motion}"


def caption(objects: tuple[Object, ...]) -> str:
    """The caption of a clip of one or two objects."""
    return " and ".join(str(o) for o in objects)


def parse(text: str) -> tuple[Object, ...]:
    """The objects of a caption. Raises ValueError where the text is no caption of this world."""
    objects = []
    for phrase in text.strip().split(" and "):
        words = phrase.split()
        if (
            len(words) != 5
            or words[0] != "a"
            or words[3] != "moving"
            or words[1] not in COLOURS
            or words[2] not in SHAPES
            or words[4] not in MOTIONS
        ):
            raise ValueError(
                f"{text!r} is no caption of the synthetic world: 'a COLOUR SHAPE moving MOTION', once or twice joined "
                f"by ' and ', with COLOUR in {sorted(COLOURS)}, SHAPE in {sorted(SHAPES)}, MOTION in {sorted(MOTIONS)}"
            )
        objects.append(Object(words[1], words[2], words[4]))
    if len(objects) > 2 or len({o.colour for o in objects}) != len(objects):
        raise ValueError(f"{text!r}: the world holds one object, or two of different colours")
    return tuple(objects)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance in pixels of points (x, y) from the outline of a shape centred at 0, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    inradius = 1.25 * radius / 2  # an equilateral triangle that points up, with its centroid at 0
    return np.maximum(y - inradius, np.sqrt(3) / 2 * np.abs(x) - y / 2 - inradius)


@dataclass(frozen=True)
class Scene:
    """Where objects are: `centres` (frames, objects, 2) as (x, y) and `radii` (objects,), in pixels."""

    objects: tuple[Object, ...]
    centres: np.ndarray
    radii: np.ndarray


def place(objects: tuple[Object, ...], rng: np.random.Generator, *, frames: int = FRAMES, size: int = SIZE) -> Scene:
    """Draw a random scene in which `objects` move as they should, apart from each other and inside the picture.

    Raises RuntimeError where the picture has no room for them.
    """
    directions = np.array([MOTIONS[o.motion] for o in objects], dtype=float)
    for _ in range(10_000):
        radii = rng.uniform(*RADIUS, size=len(objects))
        speeds = rng.uniform(*SPEED, size=len(objects)) * (FRAMES - 1) / max(frames - 1, 1)
        path = directions * speeds[:, None] * np.arange(frames)[:, None, None]
        low = MARGIN * radii[:, None] - np.minimum(path[-1], 0)
        high = size - MARGIN * radii[:, None] - np.maximum(path[-1], 0)
        centres = rng.uniform(low, high) + path
        if len(objects) == 1:
            return Scene(objects, centres, radii)
        gaps = np.hypot(*(centres[:, 0] - centres[:, 1]).T)
        if gaps.min() >= APART * radii.sum() + 1:
            return Scene(objects, centres, radii)
    raise RuntimeError(f"no room for {caption(objects)!r} in {size} pixels")


def draw(scene: Scene, *, size: int = SIZE) -> np.ndarray:
    """The clip of a scene, anti-aliased: uint8 (frames, size, size, 3)."""
    grid = np.arange(size) + 0.5
    clip = np.broadcast_to(np.array(BACKGROUND, dtype=float), (len(scene.centres), size, size, 3))
    for i, o in enumerate(scene.objects):
        x = grid[None, None, :] - scene.centres[:, i, 0, None, None]
        y = grid[None, :, None] - scene.centres[:, i, 1, None, None]
        cover = np.clip(0.5 - signed_distance(o.shape, x, y, scene.radii[i]), 0, 1)[..., None]
        clip = clip * (1 - cover) + np.array(COLOURS[o.colour], dtype=float) * cover
    return np.rint(clip).astype(np.uint8)


def render(text: str, rng: np.random.Generator, *, frames: int = FRAMES, size: int = SIZE) -> np.ndarray:
    """A random clip that shows a caption: uint8 (frames, size, size, 3). Raises ValueError where it is no caption."""
    return draw(place(parse(text), rng, frames=frames, size=size), size=size)


TRIPLES = tuple(Object(c, s, m) for c, s, m in product(COLOURS, SHAPES, MOTIONS))


def _split() -> tuple[tuple[str, ...], tuple[str, ...], frozenset[tuple[Object, Object]]]:
    rng = np.random.default_rng(20260101)
    # Twelve triples: every colour twice, every shape four times, every motion three times.
    colours = rng.permutation(np.repeat(list(COLOURS), 2))
    shapes = np.tile(SHAPES, 4)
    motions = np.repeat(list(MOTIONS), 3)
    ones = tuple(Object(str(c), str(s), str(m)) for c, s, m in zip(colours, shapes, motions, strict=True))
    pairs = [(a, b) for a, b in permutations(TRIPLES, 2) if a.colour != b.colour and not {a, b} & set(ones)]
    chosen: list[tuple[Object, Object]] = []
    taken: set[tuple[Object, Object]] = set()
    for i in rng.permutation(len(pairs)):
        if len(chosen) == 240:
            break
        if pairs[i] not in taken:
            chosen.append(pairs[i])
            taken |= {pairs[i], pairs[i][::-1]}
    return tuple(str(o) for o in ones), tuple(caption(p) for p in chosen), frozenset(taken)


HELD_OUT_ONE, HELD_OUT_TWO, _HELD_OUT_PAIRS = _split()
_TRAINING = tuple(o for o in TRIPLES if str(o) not in HELD_OUT_ONE)


def training_objects(rng: np.random.Generator, *, two: float = 0.7) -> tuple[Object, ...]:
    """Draw the objects of one training clip, two with probability `two`; their caption is never held out."""
    first = _TRAINING[rng.integers(len(_TRAINING))]
    if rng.random() >= two:
        return (first,)
    while True:
        second = _TRAINING[rng.integers(len(_TRAINING))]
        if second.colour != first.colour and (first, second) not in _HELD_OUT_PAIRS:
            return (first, second)
