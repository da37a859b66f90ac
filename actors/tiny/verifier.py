"""The programmatic verifier of the synthetic world: it measures a decoded clip against its caption. numpy only.

Pixels are read as coverage by one of the world's six colours. Every colour has at most one object, which is tracked
with sub-pixel centres and matched with the three shapes. Nothing is learned and nothing is random.
`python -m actors.tiny.verifier` prints the table that the tests check at smaller n.

Shapes: T frames of H x W pixels, K colours.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from actors.tiny import world

if TYPE_CHECKING:
    from actors.rewards import View

_NAMES = tuple(world.COLOURS)
_BACKGROUND = np.array(world.BACKGROUND, dtype=np.float32)
_AXES = np.array(list(world.COLOURS.values()), dtype=np.float32) - _BACKGROUND  # (6, 3)
_ENERGY = (_AXES**2).sum(1)  # (6,)
_UNIT_AREA = np.array([np.pi, (2 * 0.88) ** 2, 0.75 * np.sqrt(3) * 1.25**2])  # of each shape at radius 1
_SOFTER = 3  # how often a shape is blurred at most to match a clip with soft edges; one blur has a sigma of 0.7 pixels
_HALF = 8  # pixels from a centre to the border of its window
_SMALL = 22.0  # pixels; the smallest triangle covers 29
_VISIBLE = 2.0  # pixels a frame; a colour that covers fewer is taken for noise


@dataclass(frozen=True)
class Track:
    """One colour through a clip: `mass` (T,) and `centres` (T, 2) in pixels, `likeness` (T, shapes) from 0 to 1.

    `tint` is the sine of the angle between its mean colour and the world's, both less the background.
    """

    colour: str
    mass: np.ndarray
    centres: np.ndarray
    likeness: np.ndarray
    tint: float

    @property
    def radii(self) -> np.ndarray:
        """The radius (shapes,), in pixels, that gives each shape this area, kept near the radii of the world."""
        low, high = world.RADIUS
        return np.clip(np.sqrt(np.median(self.mass) / _UNIT_AREA), 0.85 * low, 1.15 * high)

    @property
    def shape(self) -> str:
        """The shape that it is most like."""
        return world.SHAPES[int(self.likeness.mean(0).argmax())]

    @property
    def radius(self) -> float:
        """The radius, in pixels, of the shape that it is most like."""
        return float(self.radii[world.SHAPES.index(self.shape)])


def ramp(x: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, linear between."""
    return np.clip((np.asarray(x, dtype=float) - low) / (high - low), 0, 1)


def coverage(frames: np.ndarray, axes: np.ndarray = _AXES) -> np.ndarray:
    """The share of each pixel that each colour covers: frames uint8 (T, H, W, 3) to float32 (T, K, H, W).

    `axes` (K, 3) are the colours less the background. At most one colour covers a pixel.
    """
    energy = (axes**2).sum(1)
    d = frames.astype(np.float32) - _BACKGROUND
    along = d @ axes.T  # (T, H, W, K)
    best = (along / np.sqrt(energy)).argmax(-1)[..., None]
    share = np.clip(np.take_along_axis(along / energy, best, -1), 0, 1)
    share = share * np.clip((share - 0.04) / 0.08, 0, 1)  # noise on the background is no object
    cover = np.zeros(along.shape, dtype=np.float32)
    np.put_along_axis(cover, best, share, -1)
    return np.ascontiguousarray(cover.transpose(0, 3, 1, 2))


def locate(cover: np.ndarray, half: int = _HALF) -> tuple[np.ndarray, np.ndarray]:
    """Find each colour in each frame of a coverage (T, K, H, W) by mean shift from where it is densest.

    Returns the mass (T, K), in pixels, within a window, whose border is `half` pixels from its centre, and that centre
    (T, K, 2) as (x, y).
    """
    t, k, height, width = cover.shape
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    near_x, near_y = (np.abs(s[:, None] - s) <= half / 2 for s in (xs, ys))
    dense = (near_y.astype(np.float32) @ cover @ near_x.astype(np.float32)).reshape(t, k, -1)
    top = dense.argmax(-1)
    x, y = xs[top % width], ys[top // width]
    for _ in range(4):
        wx = np.clip(half - np.abs(xs - x[..., None]), 0, 1).astype(np.float32)  # (T, K, W)
        wy = np.clip(half - np.abs(ys - y[..., None]), 0, 1).astype(np.float32)
        columns = (wy[:, :, None] @ cover)[:, :, 0] * wx
        rows = (cover @ wx[..., None])[..., 0] * wy
        mass = columns.sum(-1)
        x = (columns @ xs + 1e-3 * x) / (mass + 1e-3)
        y = (rows @ ys + 1e-3 * y) / (mass + 1e-3)
    return mass.astype(float), np.stack([x, y], -1)


def soften(x: np.ndarray) -> np.ndarray:
    """A binomial blur over the last two axes, whose outside counts as 0."""
    for axis in (-2, -1):
        x = np.moveaxis(x, axis, -1)
        y = 0.5 * x
        y[..., 1:] += 0.25 * x[..., :-1]
        y[..., :-1] += 0.25 * x[..., 1:]
        x = np.moveaxis(y, -1, axis)
    return x


def cut(cover: np.ndarray, centres: np.ndarray, half: int = _HALF) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The window (T, 2 half, 2 half) of a coverage (T, H, W) at each centre, and its pixels' x and y from there."""
    corner = np.floor(centres).astype(int)  # of the window, in the padded picture
    steps = np.arange(2 * half)
    padded = np.pad(cover, ((0, 0), (half, half), (half, half)))
    rows, columns = corner[:, 1, None] + steps, corner[:, 0, None] + steps
    patch = padded[np.arange(len(cover))[:, None, None], rows[:, :, None], columns[:, None, :]]
    x = columns[:, None, :] - half + 0.5 - centres[:, 0, None, None]
    y = rows[:, :, None] - half + 0.5 - centres[:, 1, None, None]
    return patch, x, y


def likeness(cover: np.ndarray, mass: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The overlap (T, 3), up to 1, of one colour's coverage (T, H, W) with each shape of equal area at its centre.

    The shape is blurred as often as gives the best overlap, up to `_SOFTER` times.
    """
    patch, x, y = cut(cover, centres)
    energy = (patch**2).sum((1, 2))
    overlaps = []
    for shape, unit in zip(world.SHAPES, _UNIT_AREA, strict=True):
        radius = np.sqrt(np.maximum(mass, 1) / unit)[:, None, None]
        distance = world.signed_distance(shape, x, y, radius)
        drawn = np.clip(0.5 - distance, 0, 1)
        fits = []
        for times in range(_SOFTER + 1):
            drawn = soften(drawn) if times else drawn
            fits.append(2 * (drawn * patch).sum((1, 2)) / ((drawn**2).sum((1, 2)) + energy))
        overlaps.append(np.max(fits, 0))
    return np.stack(overlaps, -1)


def shown(track: Track, size: tuple[int, int]) -> np.ndarray:
    """The coverage (T, H, W), for frames of `size` (H, W), of the perfect object nearest to a track."""
    x = np.arange(size[1])[None, None, :] + 0.5 - track.centres[:, 0, None, None]
    y = np.arange(size[0])[None, :, None] + 0.5 - track.centres[:, 1, None, None]
    return np.clip(0.5 - world.signed_distance(track.shape, x, y, np.asarray(track.radius)), 0, 1)


def motion(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """The straight, even motion nearest to a track, in pixels: displacement (2,) over the clip, deviations (T,)."""
    weight = ramp(track.mass, 0, _SMALL) + 1e-6
    time = np.linspace(-0.5, 0.5, len(track.mass))
    time = time - (weight * time).sum() / weight.sum()
    middle = (weight[:, None] * track.centres).sum(0) / weight.sum()
    slope = (weight * time) @ (track.centres - middle) / (weight * time**2).sum()
    return slope, np.hypot(*(track.centres - middle - time[:, None] * slope).T) * ramp(track.mass, 0, _SMALL)


def halves(track: Track, direction: np.ndarray) -> np.ndarray:
    """The displacement in pixels along `direction` in the first and the second half of the clip: (2,)."""
    ahead = track.centres @ direction
    middle = len(ahead) // 2
    return np.array([ahead[middle] - ahead[0], ahead[-1] - ahead[middle]])


def judge(track: Track, wanted: world.Object) -> tuple[float, float, bool]:
    """MQ and TA, from 0 to 1, of one object, and whether it is as wanted in the whole clip."""
    direction = np.array(world.MOTIONS[wanted.motion])
    travel, deviation = motion(track)
    along, across = travel @ direction, abs(travel @ direction[::-1])
    straight = 1 / (1 + (across / 3) ** 2)
    steady = 1 / (1 + (deviation**2).mean())
    extent = ramp(along, 0, 7) * (1 - ramp(along, 14, 24))
    present = ramp(track.mass, 4, _SMALL).mean()
    s = world.SHAPES.index(wanted.shape)
    unlike, others = 1 - track.likeness[:, s], 1 - np.delete(track.likeness, s, 1).max(1)
    lead = (others - unlike).mean() / ((others + unlike).mean() + 1e-3)  # over the next best shape, in -1 .. 1
    shape = ramp(lead, -0.6, 0.3) * ramp(1 - unlike.mean(), 0.6, 0.9)
    pure = 1 - ramp(track.tint, 0.15, 0.6)
    success = (
        track.mass.min() > 0.6 * _SMALL
        and np.ptp(track.mass) < 0.6 * np.median(track.mass)
        and track.tint < 0.3
        and lead > 0.05
        and (others > unlike).mean() >= 0.7
        and unlike.mean() < 0.15
        and 5 < along < 18
        and across < 0.35 * along
        and deviation.max() < 2
        and halves(track, direction).min() > 0.3 * along
    )
    mq = present * straight * steady * extent
    ta = present * (pure + shape + ramp(along, 0, 6) * straight) / 3
    return float(mq), float(ta), bool(success)


@dataclass(frozen=True)
class Observation:
    """What a clip shows, whatever its caption: a track for each visible colour, VQ, and the covered pixels (T,)."""

    tracks: dict[str, Track]
    vq: float
    mass: np.ndarray


def observe(frames: np.ndarray) -> Observation:
    """Find the objects of a clip, uint8 (T, H, W, 3), and compare it with the perfect clip nearest to it."""
    cover = coverage(frames)
    mass, centres = locate(cover)
    tracks: dict[str, Track] = {}
    ideal: np.ndarray = np.broadcast_to(_BACKGROUND, frames.shape)
    area = 0.0
    for c, name in enumerate(_NAMES):
        if mass[:, c].mean() < _VISIBLE:
            continue
        found = likeness(cover[:, c], mass[:, c], centres[:, c])
        seen = (cover[:, c, ..., None] * (frames - _BACKGROUND)).sum((0, 1, 2)) + 1e-3 * _AXES[c]
        tint = np.sqrt(max(0, 1 - (seen @ _AXES[c]) ** 2 / ((seen @ seen) * _ENERGY[c])))
        tracks[name] = track = Track(name, mass[:, c], centres[:, c], found, float(tint))
        drawn = shown(track, frames.shape[1:3])
        if (2 * drawn * cover[:, c] - drawn**2).sum() > 0:  # painting it brings the ideal nearer to the clip
            ideal = ideal + drawn[..., None] * (np.array(world.COLOURS[name]) - ideal)
            area += drawn.sum() / len(drawn)
    error = ((frames - ideal) ** 2).sum((1, 2, 3)) / _ENERGY.mean() / max(area, _SMALL)  # (T,)
    vq = np.exp(-2.5 * np.sqrt(error)).mean() * ramp(area, 0, _SMALL)
    return Observation(tracks, float(vq), cover.sum((1, 2, 3)))


def grade(seen: Observation, objects: tuple[world.Object, ...]) -> np.ndarray:
    """VQ, MQ, TA and success (4,) of an observed clip as a picture of `objects`."""
    tracks = [seen.tracks.get(o.colour) for o in objects]
    stray = seen.mass - sum(t.mass for t in tracks if t)  # pixels of nothing asked for: (T,)
    verdicts = [judge(t, o) if t else (0.0, 0.0, False) for t, o in zip(tracks, objects, strict=True)]
    mq, ta, right = np.array(verdicts).T
    extra = 1 / (1 + stray.clip(0).mean() / 30)
    success = right.all() and seen.vq > 0.3 and stray.mean() < 6 and stray.max() < 14
    return np.array([seen.vq, mq.mean(), ta.mean() * extra, float(success)])


def measure(frames: np.ndarray, objects: tuple[world.Object, ...]) -> np.ndarray:
    """VQ, MQ, TA and success (4,) of a clip, uint8 (T, H, W, 3), as a picture of `objects`."""
    return grade(observe(frames), objects)


def readable(frames: np.ndarray | None) -> np.ndarray:
    """The frames, if they are uint8 (T, H, W, 3); raises ValueError else."""
    if frames is None or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError("the verifier needs frames: uint8 (frames >= 2, height, width, 3)")
    return frames


class Verifier:
    """The reward whose components are VQ, MQ and TA, from 0 to 1, and success, 0 or 1.

    VQ: objects are clean, sharp and steady. MQ: they move evenly, and as the caption says. TA: the clip shows the
    caption's objects and no others. Success: everything is as the caption says in the whole clip.
    """

    components: tuple[str, ...] = ("VQ", "MQ", "TA", "success")
    needs: Literal["latent", "estimate", "frames"] = "frames"
    weights: ClassVar[dict[str, float]] = {"success": 0.0}

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """The components (n, 4) of n views. Raises ValueError where frames or caption are not of this world."""
        rows = []
        for view in views:
            rows.append(measure(readable(view.frames), world.parse(view.prompt)))
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.components))


def print_table(
    components: tuple[str, ...], measure: Callable, rows: Iterable[tuple[str, list[tuple[np.ndarray, Any]]]], n: int
) -> None:
    """Print the mean scores of `n` clips and what is asked of them, for each named row of a table."""
    print(f"{'clip':24} " + " ".join(f"{c:>8}" for c in components) + f"   (n = {n})")
    for name, pairs in rows:
        scores = np.array([measure(frames, asked) for frames, asked in pairs]).mean(0)
        print(f"{name:24} " + " ".join(f"{x:8.3f}" for x in scores), flush=True)


def main() -> None:
    """Print the mean scores of true, wrong and spoilt clips."""
    import argparse

    from actors.tiny import corruptions

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--n", type=int, default=500, help="clips in each row")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print_table(Verifier.components, measure, corruptions.table(np.random.default_rng(args.seed), args.n), args.n)


if __name__ == "__main__":
    main()
