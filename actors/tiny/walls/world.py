"""A closed synthetic world with laws to break and identities to lose. numpy only.

Captions read "a red circle moving left then up and a blue square moving slowly down". A clip has one to three objects
of different colours on a dark background, which stand still or move at a constant speed. Half of the objects that move
turn once, in the middle of the clip. Objects never touch each other and never leave the picture. Where a caption ends
in "and a wall", a grey bar crosses the whole picture, and an object that reaches it bounces off.

No caption tells an object's identity: its exact hue, its radius, and where it has a notch. A model may lose it.

In `BROKEN` of the training clips with a wall, an object goes through the wall instead, and the caption does not say so.
So a model learns to break the law sometimes. A clip is a function of its caption and a numpy generator.

`HELD_OUT` holds the captions of every measurement, fixed by a seed. No training clip shows an object (colour, shape and
legs) of a held-out caption of one object, nor, in any order, the objects of another held-out caption; where that is one
object beside a wall, none shows that object alone beside a wall.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from actors.tiny import world as first

COLOURS, SHAPES, BACKGROUND = first.COLOURS, first.SHAPES, first.BACKGROUND
DIRECTIONS = first.MOTIONS  # x to the right, y downwards
GREY = (130, 130, 134)  # of a wall; the background plus equal parts of every channel
LEGS = (
    *((d,) for d in DIRECTIONS),
    *((a, b) for a, b in product(DIRECTIONS, DIRECTIONS) if np.dot(DIRECTIONS[a], DIRECTIONS[b]) == 0),
)
SPEEDS = {"": (0.35, 1.25), "slowly": (0.35, 0.55), "fast": (0.9, 1.25)}  # pixels a frame
NOTCHES = {"": (0, 0), **DIRECTIONS}  # the side of an object from which a dark disc is cut out

SIZE = 48  # pixels
FRAMES = 17
MOST_OBJECTS = 3
RADIUS = (3.6, 6.0)  # pixels; a square's half side is 0.88 of it, a triangle's circumradius 1.25
HUE = 12.0  # degrees by which an object's hue differs at most from its colour's
NOTCH = 0.5  # radius of a notch, in radii of its object; its centre lies on the outline
THICK = 3.0  # pixels of a wall
MARGIN = 1.25  # least distance of a centre from the border, in radii
APART = 1.15  # least distance of two centres less one pixel, in sums of their radii
BROKEN = 0.35  # share of the training clips with a wall in which an object goes through it
REACHED = (0.3, 0.7)  # when the wall is reached, as a share of the clip


@dataclass(frozen=True, order=True)
class Object:
    """One shape that moves along one leg or two, or stands still (no legs); as a string, its phrase in a caption."""

    colour: str
    shape: str
    legs: tuple[str, ...] = ()
    speed: str = ""

    def __str__(self) -> str:
        if not self.legs:
            return f"a {self.colour} {self.shape} standing still"
        words = [self.speed] if self.speed else []
        return " ".join([f"a {self.colour} {self.shape} moving", *words, " then ".join(self.legs)])

    @property
    def kind(self) -> tuple[str, str, tuple[str, ...]]:
        """What held-out captions are told by: the object but for its speed."""
        return (self.colour, self.shape, self.legs)


@dataclass(frozen=True, order=True)
class Caption:
    """What a clip shows; as a string, the text that a model is given."""

    objects: tuple[Object, ...]
    wall: bool = False

    def __str__(self) -> str:
        return " and ".join([*map(str, self.objects), *(["a wall"] if self.wall else [])])


def parse(text: str) -> Caption:
    """The caption that a text is. Raises ValueError where the text is no caption of this world."""
    phrases = text.strip().split(" and ")
    wall = phrases[-1] == "a wall"
    objects = tuple(_phrase(p, text) for p in phrases[: len(phrases) - wall])
    most = MOST_OBJECTS - wall
    if not 1 <= len(objects) <= most or len({o.colour for o in objects}) != len(objects):
        raise ValueError(f"{text!r}: there are one to {most} objects{' beside a wall' * wall}, of different colours")
    if wall and any(len(o.legs) > 1 for o in objects):
        raise ValueError(f"{text!r}: beside a wall no object says 'then', since it turns where it bounces")
    return Caption(objects, wall)


def _phrase(phrase: str, text: str) -> Object:
    words = phrase.split()
    if len(words) >= 5 and words[0] == "a" and words[1] in COLOURS and words[2] in SHAPES:
        if words[3:] == ["standing", "still"]:
            return Object(words[1], words[2])
        speed, legs = ("", words[4:]) if words[4] not in SPEEDS else (words[4], words[5:])
        if words[3] == "moving" and tuple(legs[::2]) in LEGS and legs[1::2] == ["then"] * (len(legs) // 2):
            return Object(words[1], words[2], tuple(legs[::2]), speed)
    raise ValueError(
        f"{text!r} is no caption of the synthetic world: {phrase!r} is neither 'a wall' at the end, nor 'a COLOUR "
        "SHAPE standing still', nor 'a COLOUR SHAPE moving [slowly or fast] DIRECTION [then another across it]', with "
        f"COLOUR in {sorted(COLOURS)}, SHAPE in {sorted(SHAPES)}, DIRECTION in {sorted(DIRECTIONS)}"
    )


@dataclass(frozen=True)
class Identity:
    """What no caption tells of an object: `hue` in degrees from its colour's, `radius` in pixels, its notch's side."""

    hue: float
    radius: float
    notch: str


@dataclass(frozen=True)
class Wall:
    """A bar across the picture: where the coordinate `axis` (0: x, 1: y) is within THICK / 2 pixels of `at`."""

    axis: int
    at: float


@dataclass(frozen=True)
class Scene:
    """What a clip shows where: `centres` (frames, objects, 2) as (x, y) in pixels; object `through` breaks the law."""

    caption: Caption
    centres: np.ndarray
    identities: tuple[Identity, ...]
    wall: Wall | None = None
    through: int | None = None


def extent(shape: str, direction: Sequence[int] | np.ndarray) -> float:
    """How far a shape of radius 1 reaches from its centre along a unit vector of DIRECTIONS."""
    if shape == "circle":
        return 1.0
    if shape == "square":
        return 0.88
    return {-1: 1.25, 0: 1.25 * np.sqrt(3) / 2, 1: 0.625}[int(direction[1])]


def covered(shape: str, notch: str, radius: np.ndarray | float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share, from 0 to 1, of the pixels at (x, y) from a shape's centre that it covers."""
    distance = first.signed_distance(shape, x, y, np.asarray(radius))
    if notch:
        side = NOTCHES[notch]
        reach = 1.25 / np.sqrt(3) if shape == "triangle" and side[0] else extent(shape, side)  # its slanted edge
        x, y = x - reach * radius * side[0], y - reach * radius * side[1]
        distance = np.maximum(distance, NOTCH * radius - np.hypot(x, y))
    return np.clip(0.5 - distance, 0, 1)


def colour(name: str, hue: float) -> np.ndarray:
    """The pixel (3,) of a colour whose hue is turned by `hue` degrees."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in COLOURS[name]))
    return 255 * np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, s, v))


def identity(rng: np.random.Generator) -> Identity:
    """Draw what no caption tells."""
    notch = str(rng.choice(list(NOTCHES)[1:])) if rng.random() < 0.5 else ""
    return Identity(float(rng.uniform(-HUE, HUE)), float(rng.uniform(*RADIUS)), notch)


def _path(o: Object, rng: np.random.Generator, frames: int) -> np.ndarray:
    """An object's displacement (frames, 2) from its place in the first frame."""
    speed = rng.uniform(*SPEEDS[o.speed])
    steps = np.zeros((frames - 1, 2))
    for part, leg in zip(np.array_split(np.arange(frames - 1), max(len(o.legs), 1)), o.legs, strict=False):
        steps[part] = np.multiply(speed, DIRECTIONS[leg])
    return np.concatenate([np.zeros((1, 2)), steps.cumsum(0)])


def _meet(scene: Scene, rng: np.random.Generator, *, size: int, broken: float) -> Scene | None:
    """Put a wall in the way of one object of a scene and let objects bounce off it; None where they do not fit."""
    objects, centres = scene.caption.objects, scene.centres
    moving = [i for i, o in enumerate(objects) if o.legs]
    one = int(rng.choice(moving)) if moving else 0
    way = np.array(DIRECTIONS[objects[one].legs[0]] if moving else (1, 0))
    axis = int(abs(way[1]))
    line, unit = centres[:, :, axis], np.eye(2, dtype=int)[axis]  # (frames, objects): towards the wall or from it
    when = np.interp(rng.uniform(*REACHED), np.linspace(0, 1, len(line)), line[:, one])
    at = when + way[axis] * (THICK / 2 + extent(objects[one].shape, way) * scene.identities[one].radius)
    if not THICK < at < size - THICK:
        return None
    bounced, deep = centres.copy(), []
    for i, (o, who) in enumerate(zip(objects, scene.identities, strict=True)):
        side = 1 if line[0, i] > at else -1  # of the wall on which the object is
        stop = at + side * (THICK / 2 + extent(o.shape, -side * unit) * who.radius)
        past = side * (stop - line[:, i])  # pixels beyond the place where it touches the wall
        if past[0] > -0.5:
            return None
        if past[-1] > max(3.0, who.radius):
            deep.append(i)
        bounced[:, i, axis] = np.where(past > 0, stop + side * past, line[:, i])
    if deep and rng.random() < broken:
        through = int(rng.choice(deep))
        bounced[:, through] = centres[:, through]
        return replace(scene, centres=bounced, wall=Wall(axis, float(at)), through=through)
    return replace(scene, centres=bounced, wall=Wall(axis, float(at)))


def _fits(scene: Scene, size: int) -> bool:
    """Whether the objects of a scene stay inside the picture and apart from each other."""
    radii = np.array([who.radius for who in scene.identities])
    room = MARGIN * radii[:, None] - 1e-9
    if (scene.centres < room).any() or (scene.centres > size - room).any():
        return False
    return all(
        np.hypot(*(scene.centres[:, i] - scene.centres[:, j]).T).min() >= APART * (radii[i] + radii[j]) + 1
        for i, j in combinations(range(len(radii)), 2)
    )


def place(
    caption: Caption, rng: np.random.Generator, *, frames: int = FRAMES, size: int = SIZE, broken: float = 0.0
) -> Scene:
    """Draw a random scene of a caption; beside a wall, with probability `broken`, an object goes through it.

    Raises RuntimeError where the picture has no room.
    """
    for _ in range(20_000):
        identities = tuple(identity(rng) for _ in caption.objects)
        path = np.stack([_path(o, rng, frames) for o in caption.objects], 1)
        margin = MARGIN * np.array([who.radius for who in identities])[:, None]
        low, high = margin - path.min(0), size - margin - path.max(0)
        if (low > high).any():
            continue
        scene: Scene | None = Scene(caption, rng.uniform(low, high) + path, identities)
        if scene and caption.wall:
            scene = _meet(scene, rng, size=size, broken=broken)
        if scene and _fits(scene, size):
            return scene
    raise RuntimeError(f"no room for {str(caption)!r} in {size} pixels and {frames} frames")


def draw(scene: Scene, *, size: int = SIZE) -> np.ndarray:
    """The clip of a scene, anti-aliased, objects before the wall: uint8 (frames, size, size, 3)."""
    grid = np.arange(size) + 0.5
    clip = np.broadcast_to(np.array(BACKGROUND, dtype=float), (len(scene.centres), size, size, 3))
    if scene.wall:
        bar = np.clip(0.5 + THICK / 2 - np.abs(grid - scene.wall.at), 0, 1)
        cover = (bar[None, :] if scene.wall.axis == 0 else bar[:, None])[None, ..., None]
        clip = clip * (1 - cover) + np.array(GREY, dtype=float) * cover
    for i, (o, who) in enumerate(zip(scene.caption.objects, scene.identities, strict=True)):
        x = grid[None, None, :] - scene.centres[:, i, 0, None, None]
        y = grid[None, :, None] - scene.centres[:, i, 1, None, None]
        cover = covered(o.shape, who.notch, who.radius, x, y)[..., None]
        clip = clip * (1 - cover) + colour(o.colour, who.hue) * cover
    return np.rint(clip).astype(np.uint8)


def render(text: str, rng: np.random.Generator, *, frames: int = FRAMES, size: int = SIZE) -> np.ndarray:
    """A random clip that shows a caption: uint8 (frames, size, size, 3). Raises ValueError where it is no caption."""
    return draw(place(parse(text), rng, frames=frames, size=size), size=size)


def any_caption(rng: np.random.Generator, *, counts: Sequence[float], wall: float) -> Caption:
    """Draw a caption: of one, two or three objects with probabilities `counts`, the first two with a wall at `wall`.

    A tenth of the objects stand still, of the others half turn (beside a wall none), and half say how fast they are.
    """
    n = 1 + int(rng.choice(len(counts), p=counts))
    walled = n < MOST_OBJECTS and rng.random() < wall
    objects = []
    for name in rng.permutation(list(COLOURS))[:n]:
        straight, turning = LEGS[:4], LEGS[4:]
        legs = straight if walled or rng.random() < 0.5 else turning
        way = () if rng.random() < 0.1 else legs[rng.integers(len(legs))]
        speed = str(rng.choice(["", "", "slowly", "fast"])) if way else ""
        objects.append(Object(str(name), str(rng.choice(SHAPES)), way, speed))
    if walled and not any(o.legs and o.speed != "slowly" for o in objects):
        objects[0] = Object(objects[0].colour, objects[0].shape, LEGS[rng.integers(4)])  # one of them reaches the wall
    return Caption(tuple(objects), bool(walled))


@dataclass(frozen=True)
class HeldOut:
    """Captions of one, two and three objects, and of one or two beside a wall."""

    one: tuple[str, ...]
    two: tuple[str, ...]
    three: tuple[str, ...]
    wall: tuple[str, ...]


# Of each list: shares of captions with one, two and three objects, share of those beside a wall, and how many.
LISTS = {
    "one": ((1, 0, 0), 0.0, 24),
    "two": ((0, 1, 0), 0.0, 120),
    "three": ((0, 0, 1), 0.0, 120),
    "wall": ((0.3, 0.7, 0), 1.0, 120),
}


def _group(caption: Caption) -> frozenset:
    """The kinds of a caption's objects, and beside the only one of them its wall."""
    kinds = frozenset(o.kind for o in caption.objects)
    return kinds | {"wall"} if caption.wall and len(kinds) == 1 else kinds


def _split() -> tuple[HeldOut, frozenset[tuple], frozenset[frozenset]]:
    rng = np.random.default_rng(20261201)
    kinds: set[tuple] = set()
    groups: set[frozenset] = set()
    lists: dict[str, list[str]] = {}
    for name, (counts, wall, n) in LISTS.items():
        lists[name] = []
        while len(lists[name]) < n:
            caption = any_caption(rng, counts=counts, wall=wall)
            group = _group(caption)
            if group in groups or group & kinds or (name == "one" and not caption.objects[0].legs):
                continue
            if name == "one":
                kinds |= group
            elif len(group) > 1:
                groups.add(group)
            lists[name].append(str(caption))
    return HeldOut(**{name: tuple(texts) for name, texts in lists.items()}), frozenset(kinds), frozenset(groups)


HELD_OUT, _KINDS, _GROUPS = _split()


def held_out(caption: Caption) -> bool:
    """Whether training may not see a caption, since it shows what a caption of `HELD_OUT` does."""
    kinds = [o.kind for o in caption.objects]
    groups = {_group(caption), *(frozenset(p) for n in (2, 3) for p in combinations(kinds, n))}
    return bool(_KINDS & set(kinds) or _GROUPS & groups)


def training_caption(
    rng: np.random.Generator, *, counts: Sequence[float] = (0.2, 0.4, 0.4), wall: float = 0.3
) -> Caption:
    """Draw the caption of one training clip, as `any_caption` does, and never a held-out one."""
    while True:
        caption = any_caption(rng, counts=counts, wall=wall)
        if not held_out(caption):
            return caption
