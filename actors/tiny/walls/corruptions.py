"""Ways in which a clip of the world with walls can be wrong, besides the spoilt pixels of `actors.tiny.corruptions`.

A wrong clip either has another caption than it shows (`SWAPS`), or a scene that breaks a law or loses an identity.
numpy only.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from actors.tiny.corruptions import CORRUPTIONS
from actors.tiny.walls import world

Pairs = list[tuple[np.ndarray, world.Caption]]  # clips, uint8 (T, H, W, 3), and what is asked of them
Swap = Callable[[np.random.Generator, world.Caption], world.Caption | None]


def _change(
    rng: np.random.Generator, caption: world.Caption, change: Callable[[world.Object], list[world.Object]]
) -> world.Caption | None:
    """The caption with one object changed to one of `change`; None where that has nothing for any object."""
    choices = [(i, o) for i, old in enumerate(caption.objects) for o in change(old)]
    if not choices:
        return None
    i, new = choices[rng.integers(len(choices))]
    return replace(caption, objects=(*caption.objects[:i], new, *caption.objects[i + 1 :]))


def colour(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """One object has a colour that none of them has."""
    free = sorted(set(world.COLOURS) - {o.colour for o in caption.objects})
    return _change(rng, caption, lambda o: [replace(o, colour=c) for c in free])


def shape(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """One object has another shape."""
    return _change(rng, caption, lambda o: [replace(o, shape=s) for s in world.SHAPES if s != o.shape])


def legs(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """One object moves otherwise, or stands still, or does not."""
    ways = world.LEGS[:4] if caption.wall else world.LEGS
    return _change(
        rng,
        caption,
        lambda o: [replace(o, legs=w, speed=o.speed if w else "") for w in ((), *ways) if w != o.legs],
    )


def last_leg(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """One object that turns takes the other turn, or goes on straight; one that moves straight turns."""

    def others(o: world.Object) -> list[world.Object]:
        same = [w for w in world.LEGS if o.legs and w[0] == o.legs[0] and w != o.legs]
        return [] if caption.wall else [replace(o, legs=w) for w in same]

    return _change(rng, caption, others)


def order(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """One object that turns takes its legs in the other order."""
    return _change(rng, caption, lambda o: [replace(o, legs=o.legs[::-1])] if len(o.legs) > 1 else [])


def speed(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """One object that says how fast it is says the contrary."""
    other = {"slowly": "fast", "fast": "slowly"}
    return _change(rng, caption, lambda o: [replace(o, speed=other[o.speed])] if o.speed else [])


def wall(rng: np.random.Generator, caption: world.Caption) -> world.Caption | None:
    """A wall is missing, or there is one that is not asked for."""
    fits = len(caption.objects) < world.MOST_OBJECTS and all(len(o.legs) < 2 for o in caption.objects)
    return replace(caption, wall=not caption.wall) if fits else None


SWAPS: dict[str, Swap] = {
    "colour": colour,
    "shape": shape,
    "legs": legs,
    "last leg": last_leg,
    "order of legs": order,
    "speed": speed,
    "wall": wall,
}
IDENTITIES = ("hue", "radius", "notch")


def through(rng: np.random.Generator, *, frames: int = world.FRAMES) -> world.Scene:
    """Draw a scene in which an object goes through a wall."""
    while True:
        scene = world.place(world.training_caption(rng, counts=(0.3, 0.7, 0), wall=1), rng, frames=frames, broken=1)
        if scene.through is not None:
            return scene


def held(scene: world.Scene, share: float, *, back: bool = False) -> world.Scene:
    """A scene in which what goes through the wall stays in it from a depth of `share` radii on, or turns `back` there.

    A negative depth is before the wall.
    """
    assert scene.wall is not None and scene.through is not None
    centres, i, axis = scene.centres.copy(), scene.through, scene.wall.axis
    line = centres[:, i, axis]
    side = 1 if line[0] > scene.wall.at else -1
    reach = world.extent(scene.caption.objects[i].shape, -side * np.eye(2, dtype=int)[axis])
    stop = scene.wall.at + side * (world.THICK / 2 + (reach - share) * scene.identities[i].radius)
    beyond = np.maximum(side * (stop - line), 0)
    centres[:, i, axis] = line + side * beyond * (2 if back else 1)
    return replace(scene, centres=centres)


def lose(rng: np.random.Generator, scene: world.Scene, what: str, strength: float) -> np.ndarray:
    """A clip, uint8 (T, H, W, 3), in whose middle one object loses its hue, radius or notch.

    A `strength` of 1 is 2 `world.HUE` of hue, and half of the radius. A notch goes wherever it was not.
    """
    i = int(rng.integers(len(scene.identities)))
    old = scene.identities[i]
    if what == "notch":
        new = replace(old, notch=str(rng.choice([n for n in world.NOTCHES if n != old.notch])))
    elif what == "radius":
        new = replace(old, radius=old.radius * (1 - 0.5 * strength))
    else:
        new = replace(old, hue=old.hue - np.copysign(2 * world.HUE * strength, old.hue))
    changed = replace(scene, identities=(*scene.identities[:i], new, *scene.identities[i + 1 :]))
    middle = len(scene.centres) // 2
    return np.concatenate([world.draw(scene)[:middle], world.draw(changed)[middle:]])


def swapped(rng: np.random.Generator, name: str, n: int, *, frames: int = world.FRAMES) -> Pairs:
    """`n` clips, each with a caption that differs from what it shows in one attribute."""
    pairs: Pairs = []
    while len(pairs) < n:
        shown = world.training_caption(rng)
        asked = SWAPS[name](rng, shown)
        if asked:
            pairs.append((world.draw(world.place(shown, rng, frames=frames)), asked))
    return pairs


def table(rng: np.random.Generator, n: int) -> Iterator[tuple[str, Pairs]]:
    """Named lists of `n` pairs, a clip and its caption: true, wrong, and spoilt clips."""

    def true(counts: tuple[float, float, float], wall: float, frames: int = world.FRAMES) -> list[world.Scene]:
        captions = [world.training_caption(rng, counts=counts, wall=wall) for _ in range(n)]
        return [world.place(c, rng, frames=frames) for c in captions]

    def pairs(scenes: list[world.Scene]) -> Pairs:
        return [(world.draw(s), s.caption) for s in scenes]

    three = true((0, 0, 1), 0)
    for frames in (world.FRAMES, 25):
        yield f"one object, {frames}", pairs(true((1, 0, 0), 0, frames))
        yield f"two objects, {frames}", pairs(true((0, 1, 0), 0, frames))
        yield f"three objects, {frames}", pairs(true((0, 0, 1), 0, frames))
        yield f"beside a wall, {frames}", pairs(true((0.3, 0.7, 0), 1, frames))
    for name in SWAPS:
        yield f"wrong {name}", swapped(rng, name, n)
    yield "missing object", [(world.draw(s), c.caption) for s, c in zip(map(_fewer, three), three, strict=True)]
    yield "extra object", [(world.draw(s), _fewer(s).caption) for s in three]
    yield "extra, same colour", [(world.draw(_alike(s)), _fewer(s).caption) for s in three]
    broken = [through(rng) for _ in range(n)]
    yield "through the wall", pairs(broken)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield f"held {share:.2f} deep", pairs([held(s, share) for s in broken])
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0):
        yield f"turns {share:.2f} deep", pairs([held(s, share, back=True) for s in broken])
    scenes = true((0.2, 0.4, 0.4), 0.3)
    for what in IDENTITIES:
        for strength in (0.25, 0.5, 1.0) if what != "notch" else (1.0,):
            yield f"lost {what} {strength:.2f}", [(lose(rng, s, what, strength), s.caption) for s in scenes]
    for name, (spoil, low, high) in CORRUPTIONS.items():
        for strength in np.linspace(low, high, 4):
            yield f"{name} {strength:.2f}", [(spoil(rng, c, strength), o) for c, o in pairs(scenes)]


def _fewer(scene: world.Scene) -> world.Scene:
    """The scene without its last object."""
    caption = replace(scene.caption, objects=scene.caption.objects[:-1])
    return replace(scene, caption=caption, centres=scene.centres[:, :-1], identities=scene.identities[:-1])


def _alike(scene: world.Scene) -> world.Scene:
    """The scene with the last object in the colour of the first."""
    *others, last = scene.caption.objects
    caption = replace(scene.caption, objects=(*others, replace(last, colour=others[0].colour)))
    return replace(scene, caption=caption)
