"""What a clip of the world with walls shows, whatever its caption: objects, their identities, and a wall. numpy only.

Pixels are read as coverage by one of the six colours, each in the hue that it has in this clip, or by a wall's grey.
Every colour has at most one object, which is tracked with sub-pixel centres and matched with every shape and notch.

Shapes: T frames of H x W pixels, K colours.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actors.tiny.verifier import coverage, cut, locate, ramp, soften
from actors.tiny.walls import world

BACKGROUND = np.array(world.BACKGROUND, dtype=np.float32)
NOTCHES = tuple(world.NOTCHES)
_NAMES = tuple(world.COLOURS)
_GREY = np.array([world.GREY], dtype=np.float32) - BACKGROUND  # (1, 3)
_CHROMA = np.array([(2, -1, -1), (0, 3**0.5, -(3**0.5))]).T / 6**0.5  # (3, 2): the plane across grey
_TURNS = np.arange(-90.0, 91.0)  # degrees of hue from a colour's own
_SOFTER = 3  # how often a shape is blurred at most to match a clip with soft edges; one blur has a sigma of 0.7 pixels
_HALF = int(np.ceil(1.25 * world.RADIUS[1])) + 2  # pixels from a centre to the border of its window
_SHARP = 100.0  # a notch that is 0.01 more like another counts e times as much
_VISIBLE = 2.0  # pixels a frame; a colour that covers fewer is taken for noise


def axis(name: str, hue: float = 0.0) -> np.ndarray:
    """A colour, turned by `hue` degrees, less the background: (3,)."""
    return (world.colour(name, hue) - BACKGROUND).astype(np.float32)


def _angle(seen: np.ndarray, name: str) -> np.ndarray:
    """The angle, in radians and the plane across grey, of colours (..., 3) from a colour of the world."""
    u, v = seen @ _CHROMA, axis(name) @ _CHROMA
    return np.arctan2(u[..., 1] * v[0] - u[..., 0] * v[1], u @ v)


_ANGLES = {name: np.array([_angle(axis(name, h), name) for h in _TURNS]) for name in _NAMES}


def hue(seen: np.ndarray, name: str) -> np.ndarray:
    """The hue, in degrees from a colour's own, of colours less the background, of any brightness: (..., 3) to (...)."""
    return np.interp(_angle(seen, name), _ANGLES[name], _TURNS)


def _moments() -> tuple[np.ndarray, np.ndarray]:
    """The area (shapes, notches) and the centroid (shapes, notches, 2), from its centre, of each shape of radius 1."""
    grid = np.arange(-130, 131)
    x, y = np.meshgrid(grid, grid)
    drawn = np.array([[world.covered(s, n, 100.0, x, y) for n in NOTCHES] for s in world.SHAPES])
    area = drawn.sum((2, 3))
    return area / 1e4, np.stack([(drawn * g).sum((2, 3)) / area / 100 for g in (x, y)], -1)


_AREA, _CENTROID = _moments()
SMALL = 0.75 * float(_AREA.min()) * world.RADIUS[0] ** 2  # pixels that are most of the smallest object


@dataclass(frozen=True)
class Track:
    """One colour through a clip: `mass` (T,) and `centroids` (T, 2) in pixels, `likeness` (T, shapes, notches) up to 1.

    `hues` (T,) are degrees from the colour's own. `tint` is the sine of the angle between its mean colour and the
    nearest that the world allows, both less the background.
    """

    colour: str
    mass: np.ndarray
    centroids: np.ndarray
    likeness: np.ndarray
    hues: np.ndarray
    tint: float

    @cached_property
    def look(self) -> tuple[int, int]:
        """The indices of the shape and the notch that it is most like."""
        mean = self.likeness.mean(0)
        return divmod(int(mean.argmax()), mean.shape[1])

    @property
    def radii(self) -> np.ndarray:
        """The radius (T,), in pixels, that gives what it is most like its area in each frame."""
        return np.sqrt(self.mass / _AREA[self.look])

    @property
    def radius(self) -> float:
        """Its radius in pixels, kept near the radii of the world."""
        low, high = world.RADIUS
        return float(np.clip(np.median(self.radii), 0.85 * low, 1.15 * high))

    @cached_property
    def centres(self) -> np.ndarray:
        """The centres (T, 2), from which a notch, be it where it may in each frame, takes the centroids away."""
        alike = self.likeness[:, self.look[0]]
        share = np.exp(_SHARP * (alike - alike.max(1, keepdims=True)))  # (T, notches)
        share /= share.sum(1, keepdims=True)
        return self.centroids - share @ _CENTROID[self.look[0]] * self.radius

    def shown(self, size: tuple[int, int]) -> np.ndarray:
        """The coverage (T, H, W), for frames of `size` (H, W), of the perfect object nearest to it."""
        x = np.arange(size[1])[None, None, :] + 0.5 - self.centres[:, 0, None, None]
        y = np.arange(size[0])[None, :, None] + 0.5 - self.centres[:, 1, None, None]
        s, n = self.look
        return world.covered(world.SHAPES[s], NOTCHES[n], self.radius, x, y)


def likeness(cover: np.ndarray, mass: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The overlap (T, shapes, notches), up to 1, of a colour's coverage (T, H, W) with each shape of equal area.

    All are blurred alike, as often as gives the best overlap of a shape without a notch, up to `_SOFTER` times.
    """
    patch, x, y = (a.astype(np.float32) for a in cut(cover, centroids, _HALF))
    energy = (patch**2).sum((1, 2))

    def drawn(s: int, n: int) -> np.ndarray:
        radius = np.sqrt(np.maximum(mass, 1) / _AREA[s, n]).astype(np.float32)[:, None, None]
        dx, dy = _CENTROID[s, n].astype(np.float32)
        return world.covered(world.SHAPES[s], NOTCHES[n], radius, x + dx * radius, y + dy * radius)

    def overlap(shape: np.ndarray) -> np.ndarray:
        return 2 * (shape * patch).sum((1, 2)) / ((shape**2).sum((1, 2)) + energy)

    def softened(shape: np.ndarray, times: int) -> np.ndarray:
        for _ in range(times):
            shape = soften(shape)
        return shape

    plain = [drawn(s, 0) for s in range(len(world.SHAPES))]
    fits = []  # (softness, shapes)
    for times in range(_SOFTER + 1):
        plain = [softened(p, min(times, 1)) for p in plain]
        fits.append([overlap(p).mean() for p in plain])
    times = int(np.max(fits, 1).argmax())
    shapes, notches = _AREA.shape
    rows = [[overlap(softened(drawn(s, n), times)) for n in range(notches)] for s in range(shapes)]
    return np.array(rows).transpose(2, 0, 1)


@dataclass(frozen=True)
class Bar:
    """The wall of a clip: its `axis` as in `world.Wall`, and in each frame its place `at` and thickness, in pixels.

    `thick` (T,) is the mean of what no object hides, `filled` from 0 to 1 the least share of the clip in which any
    pixel along it is covered, and `mass` (T,) its grey pixels.
    """

    axis: int
    at: np.ndarray
    thick: np.ndarray
    filled: float
    mass: np.ndarray

    @property
    def clear(self) -> np.ndarray:
        """How much of a wall it is in each frame, from 0 to 1: (T,)."""
        thick = self.thick / world.THICK
        still = 1 / (1 + (self.at - np.median(self.at)) ** 2)
        return ramp(thick, 0.2, 0.8) * (1 - ramp(thick, 1.3, 2)) * still * ramp(self.filled, 0.2, 0.7)

    def shown(self, size: tuple[int, int]) -> np.ndarray:
        """The coverage (1, H or 1, 1 or W), for frames of `size` (H, W), of the perfect wall nearest to it."""
        grid = np.arange(size[1 - self.axis]) + 0.5
        bar = np.clip(0.5 + world.THICK / 2 - np.abs(grid - np.median(self.at)), 0, 1)
        return bar[None, None, :] if self.axis == 0 else bar[None, :, None]


def find_wall(cover: np.ndarray) -> Bar | None:
    """Find the wall in a coverage (T, 7, H, W) whose last class is grey: where lines of pixels are greyest."""
    best, found = 0.0, None
    for direction in (0, 1):
        lines = cover if direction else cover.swapaxes(2, 3)  # (T, 7, across the wall, along it)
        grey, hidden = lines[:, -1], lines[:, :-1].sum(1)
        profile = grey.sum(-1) / np.maximum(grey.shape[-1] - hidden.sum(-1), 1)  # (T, across)
        total = np.convolve(profile.mean(0), np.ones(5), "same")
        middle = int(total.argmax())
        if total[middle] <= best:
            continue
        best = float(total[middle])
        near = slice(max(middle - 4, 0), middle + 5)
        place = np.arange(profile.shape[1])[near] + 0.5
        thick = profile[:, near].sum(-1)
        at = (profile[:, near] @ place + 1e-3 * (middle + 0.5)) / (thick + 1e-3)
        along = (grey + hidden)[:, near].sum(1).clip(max=world.THICK) / world.THICK  # (T, along)
        found = Bar(direction, at, thick, float(along.mean(0).min()), grey[:, near].sum((1, 2)))
    return found if best > 0.15 * world.THICK else None


@dataclass(frozen=True)
class Observation:
    """What a clip shows: a track for each visible colour, a wall, VQ, and the covered pixels (T,), grey ones apart."""

    tracks: dict[str, Track]
    wall: Bar | None
    vq: float
    mass: np.ndarray
    grey: np.ndarray


def _axes(frames: np.ndarray) -> np.ndarray:
    """The colours as their hues are in a clip, and grey, less the background: (7, 3)."""
    few = frames[:, ::2, ::2]
    own = np.stack([axis(name) for name in _NAMES])
    cover = coverage(few, np.concatenate([own, _GREY]))
    seen = np.tensordot(cover[:, :-1], few - BACKGROUND, ([0, 2, 3], [0, 1, 2])) + 1e-3 * own
    hues = [np.clip(hue(v, name), -world.HUE, world.HUE) for v, name in zip(seen, _NAMES, strict=True)]
    return np.concatenate([[axis(name, h) for name, h in zip(_NAMES, hues, strict=True)], _GREY]).astype(np.float32)


def _track(name: str, axis: np.ndarray, cover: np.ndarray, seen: np.ndarray, mass: np.ndarray, at: np.ndarray) -> Track:
    """The track of a colour from its coverage (T, H, W), what is seen of it (T, 3), and its mass and centroids."""
    total = seen.sum(0) + 1e-3 * axis
    tint = np.sqrt(max(0, 1 - (total @ axis) ** 2 / ((total @ total) * (axis @ axis))))
    return Track(name, mass, at, likeness(cover, mass, at), hue(seen + 1e-3 * axis, name), float(tint))


def _painted(ideal: np.ndarray, drawn: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The ideal with one thing painted over it, if that brings it nearer to the clip."""
    if (2 * drawn * cover - drawn**2).sum() <= 0:
        return ideal
    return ideal + drawn.astype(np.float32)[..., None] * (colour - ideal)


def observe(frames: np.ndarray) -> Observation:
    """Find the objects and the wall of a clip, uint8 (T, H, W, 3), and compare it with the nearest perfect clip."""
    axes, above = _axes(frames), frames - BACKGROUND
    cover = coverage(frames, axes)
    mass, centroids = locate(cover[:, :-1], _HALF)
    wall, size = find_wall(cover), frames.shape[1:3]
    ideal = np.zeros_like(above)
    if wall:
        ideal = _painted(ideal, wall.shown(size), cover[:, -1], _GREY[0])
    tracks: dict[str, Track] = {}
    for c, name in enumerate(_NAMES):
        if mass[:, c].mean() < _VISIBLE:
            continue
        seen = np.einsum("thw,thwc->tc", cover[:, c], above, optimize=True)
        tracks[name] = track = _track(name, axes[c], cover[:, c], seen, mass[:, c], centroids[:, c])
        ideal = _painted(ideal, track.shown(size), cover[:, c], axes[c])
    energy, least = float((ideal**2).sum() / len(frames)), SMALL * (axes**2).sum(1).mean()
    error = ((above - ideal) ** 2).sum((1, 2, 3)) / max(energy, least)  # (T,)
    vq = np.exp(-2.5 * np.sqrt(error)).mean() * ramp(energy, 0, 0.5 * least)
    return Observation(tracks, wall, float(vq), cover[:, :-1].sum((1, 2, 3)), cover[:, -1].sum((1, 2)))
