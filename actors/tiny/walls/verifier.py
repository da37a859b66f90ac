"""The programmatic verifier of the world with walls: it measures a decoded clip against its caption. numpy only.

`seeing.py` finds what a clip shows; here it is judged. Nothing is learned and nothing is random.
`python -m actors.tiny.walls.verifier` prints the table that the tests check at smaller n.

T are frames, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from actors.tiny.verifier import print_table, ramp, readable
from actors.tiny.walls import world
from actors.tiny.walls.seeing import SMALL, Bar, Observation, Track, observe

if TYPE_CHECKING:
    from actors.rewards import View

_CHUNK = 5  # frames, about, over which an identity is measured
_SLOW, _FAST = world.SPEEDS[""]  # pixels a frame
_NEAR = 2.0  # pixels from a wall at which a turn is a bounce; the frame nearest to it is up to half a step before it
_LOOSE = 0.12  # pixels a frame by which a speed may leave the range of its word


@dataclass(frozen=True)
class Move:
    """How a track moves: `velocity` (parts, 2) in pixels a frame, `deviation` (T,) in pixels from even motion.

    A part is a quarter of the clip, so that a turn lies between two, and motion is even in each half.
    """

    velocity: np.ndarray
    deviation: np.ndarray

    @property
    def steady(self) -> float:
        """1 where a track moves evenly in each half, less where it shakes."""
        return float(1 / (1 + (self.deviation**2).mean()))


def unfold(gap: np.ndarray) -> np.ndarray:
    """The distance (T,) of an object from a wall as if it went on through it: mirrored where it turns back.

    It turns at its nearest approach or, between two frames, up to a pixel nearer, where that makes the track straight.
    """
    near, time = int(gap.argmin()), np.arange(len(gap))
    best, found = np.inf, gap
    for last in (near - 1, near) if near else ():  # the last frame before the turn; what never came nearer did not turn
        back = time > last
        if not back.any():
            continue
        columns = np.stack([np.ones(len(gap)), time, -2.0 * back], 1)
        turn = np.linalg.lstsq(columns, np.where(back, -gap, gap), rcond=None)[0][2]
        straight = np.where(back, 2 * np.clip(turn, gap[near] - 1, gap[near]) - gap, gap)
        line = np.polyval(np.polyfit(time, straight, 1), time)
        if ((straight - line) ** 2).sum() < best:
            best, found = ((straight - line) ** 2).sum(), straight
    return found


def fit(centres: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The even motion nearest to `centres` (T, 2): pixels a frame (2,), and how far it is from each: (T,)."""
    time = np.arange(len(centres)) - (weight @ np.arange(len(centres))) / weight.sum()
    middle = weight @ centres / weight.sum()
    slope = (weight * time) @ (centres - middle) / (weight @ time**2)
    return slope, np.hypot(*(centres - middle - time[:, None] * slope).T)


def move(track: Track, centres: np.ndarray, frames: int) -> Move:
    """How `centres` (T, 2) move, fitted where the track is visible, in the first T of a clip of `frames`."""
    visible = ramp(track.mass, 0, SMALL)
    last, turn = frames - 1, frames // 2
    velocity, deviation = [], np.zeros(len(centres))
    for first, end in ((0, turn // 2), (turn // 2, turn), (turn, (turn + last) // 2), ((turn + last) // 2, last)):
        part = slice(first, end + 1)
        if first < end and first + 1 < len(centres):
            velocity.append(fit(centres[part], visible[part] + 1e-6)[0])
    for part in (slice(0, turn + 1), slice(turn, None)):
        if len(centres[part]) > 1:
            deviation[part] = np.maximum(deviation[part], fit(centres[part], visible[part] + 1e-6)[1])
    return Move(np.array(velocity), deviation * visible)


def judge_still(found: Move) -> tuple[float, float, bool]:
    """Motion as quality and as text, from 0 to 1, and whether it is right, of an object that shall stand still."""
    speed = np.hypot(*found.velocity.T)
    right = speed.max() < 0.4 * _SLOW and found.deviation.max() < 1.5
    return found.steady / (1 + (speed.mean() / 0.1) ** 2), float(1 - ramp(speed.mean(), 0.1, _SLOW)), bool(right)


def judge_moving(found: Move, wanted: world.Object) -> tuple[float, float, bool]:
    """The same of an object that shall move."""
    first, last = wanted.legs[0], wanted.legs[-1]
    ways = np.array([world.DIRECTIONS[d] for d in (first, first, last, last)])[: len(found.velocity)]
    along = (found.velocity * ways).sum(1)
    across = np.abs((found.velocity * ways[:, ::-1]).sum(1))
    straight, pace = 1 / (1 + (across / 0.2) ** 2), along.mean()
    moving = ramp(along, 0, 0.8 * max(pace, _SLOW)) * (1 - ramp(along, 1.2 * _FAST, 2 * _FAST))
    low, high = world.SPEEDS[wanted.speed]
    beyond = max(low - pace, pace - high, 0)
    right = (
        beyond < _LOOSE
        and along.min() > 0.35 * pace  # an autoencoder delays a bounce
        and across.max() < max(0.35 * pace, 0.2)
        and found.deviation.max() < 1.5
    )
    as_said = (ramp(along, 0, 0.8 * _SLOW) * straight).mean() * (1 - ramp(beyond, 0, 0.5))
    return float((moving * straight).mean() * found.steady), float(as_said), bool(right)


def touch(track: Track, wall: Bar, side: int) -> float:
    """The distance in pixels, on a `side` (-1 or 1) of a wall, of an object's centre from its middle as they touch."""
    normal = np.eye(2, dtype=int)[wall.axis]
    return float(world.extent(world.SHAPES[track.look[0]], -side * normal) * track.radius + world.THICK / 2)


def motion(track: Track, wanted: world.Object, wall: Bar | None, frames: int) -> tuple[float, float, bool]:
    """Judge the motion of an object as if what bounces off a wall went on; it turns back where it touches the wall."""
    centres = track.centres
    if not wanted.legs:
        return judge_still(move(track, centres, frames))
    if wall:
        at, way = np.median(wall.at), world.DIRECTIONS[wanted.legs[0]][wall.axis]
        side = 1 if centres[0, wall.axis] > at else -1
        gap = side * (centres[:, wall.axis] - at)
        if side * way < 0 and gap.min() < touch(track, wall, side) + _NEAR:
            centres = centres.copy()
            centres[:, wall.axis] = at + side * unfold(gap)
    return judge_moving(move(track, centres, frames), wanted)


def judge(track: Track, wanted: world.Object, wall: Bar | None, frames: int) -> tuple[float, float, bool]:
    """MQ and TA, from 0 to 1, of one object, and whether it is as wanted in the whole clip."""
    quality, as_said, moves = motion(track, wanted, wall, frames)
    present = ramp(track.mass, 0.2 * SMALL, SMALL).mean()
    s = world.SHAPES.index(wanted.shape)
    alike = track.likeness.max(2)
    unlike, others = 1 - alike[:, s], 1 - np.delete(alike, s, 1).max(1)
    lead = (others - unlike).mean() / ((others + unlike).mean() + 1e-3)  # over the next best shape, in -1 .. 1
    shape = ramp(lead, -0.6, 0.3) * ramp(1 - unlike.mean(), 0.6, 0.9)
    pure = 1 - ramp(track.tint, 0.1, 0.5)
    success = (
        moves
        and track.mass.min() > max(0.6 * SMALL, 0.2 * np.median(track.mass))
        and track.tint < 0.25
        and lead > 0.05
        and (others > unlike).mean() >= 0.7
        and unlike.mean() < 0.15
    )
    return float(present * quality), float(present * (pure + shape + as_said) / 3), bool(success)


def depth(track: Track, wall: Bar) -> float:
    """How many pixels, at most, an object reaches into a wall from the side where it starts; below 0, never.

    An object that cannot be seen is as deep as can be.
    """
    gap = (track.centres[:, wall.axis] - np.median(wall.at))[track.mass > 0.5 * SMALL]
    if not len(gap):
        return np.inf
    side = 1 if gap[0] > 0 else -1
    return touch(track, wall, side) - float((side * gap).min())


def same(track: Track) -> float:
    """How far an object keeps hue, radius and notch as in its first chunk, from 0 to 1: the mean over later chunks."""
    chunks = np.array_split(np.arange(len(track.mass)), max(round(len(track.mass) / _CHUNK), 2))
    hues, radii = (np.array([np.median(x[c]) for c in chunks]) for x in (track.hues, track.radii))
    alike = np.array([track.likeness[c, track.look[0]].mean(0) for c in chunks])  # (chunks, notches)
    worse = alike.max(1) - alike[:, alike[0].argmax()]  # of the first chunk's notch than of the best
    kept = (
        (1 - ramp(np.abs(hues - hues[0]), 3, 15))
        * (1 - ramp(np.abs(radii / max(radii[0], 1e-3) - 1), 0.06, 0.3))
        * (1 - ramp(worse, 0.005, 0.03))
        * [ramp(track.mass[c], 0.2 * SMALL, SMALL).mean() for c in chunks]
    )
    return float(kept[1:].mean())


def law(tracks: list[Track | None], wall: Bar | None) -> tuple[float, bool]:
    """LAW of a caption with a wall, and whether no object is half a radius deep in it.

    LAW is 1 up to a pixel, which is what the measuring may err, and 0 from a radius on; the deepest object counts.
    What is not there obeys no law.
    """
    if wall is None or not all(tracks):
        return 0.0, False
    deep = [(depth(t, wall), t.radius) for t in tracks if t]
    return min(float(1 - ramp(d, 1, r)) for d, r in deep), all(d < r / 2 for d, r in deep)


def grade(seen: Observation, caption: world.Caption, frames: int = 0) -> np.ndarray:
    """VQ, MQ, TA, LAW, IDENTITY and success (6,) of an observed clip as a video of `caption`.

    `frames` is the length of the whole clip, of which what is observed may be the beginning; 0 if it is the whole.
    """
    frames = frames or len(seen.mass)
    wall = seen.wall if caption.wall else None
    tracks = [seen.tracks.get(o.colour) for o in caption.objects]
    objects = list(zip(tracks, caption.objects, strict=True))
    mq, ta, right = np.array([judge(t, o, wall, frames) if t else (0.0, 0.0, False) for t, o in objects]).T
    stray = seen.mass - sum(t.mass for t in tracks if t) + seen.grey  # pixels of nothing asked for: (T,)
    obeyed, lawful = law(tracks, wall) if caption.wall else (1.0, True)
    if wall:
        stray = stray - wall.mass
    clear = [wall.clear if wall else np.zeros(1)] if caption.wall else []
    ta = np.array([*ta, *(c.mean() for c in clear)])
    extra = 1 / (1 + stray.clip(0).mean() / (2 * SMALL))
    identity = min(same(t) if t else 0.0 for t in tracks)
    success = (
        right.all()
        and lawful
        and all(c.min() > 0.5 for c in clear)
        and seen.vq > 0.3
        and stray.mean() < 0.45 * SMALL
        and stray.max() < SMALL
    )
    return np.array([seen.vq, mq.mean(), ta.mean() * extra, obeyed, identity, float(success)])


def measure(frames: np.ndarray, caption: world.Caption) -> np.ndarray:
    """VQ, MQ, TA, LAW, IDENTITY and success (6,) of a clip, uint8 (T, H, W, 3), as a video of `caption`."""
    return grade(observe(frames), caption)


class Verifier:
    """The reward whose components are VQ, MQ, TA, LAW and IDENTITY, from 0 to 1, and success, 0 or 1.

    VQ: the clip is clean, sharp and steady. MQ: objects move evenly, and as the caption says. TA: the clip shows the
    caption's objects and wall, and nothing else. LAW: no object goes into the wall. IDENTITY: every object keeps its
    hue, its radius and its notch. Success: everything is as the caption says in the whole clip and the law is kept.
    """

    components: tuple[str, ...] = ("VQ", "MQ", "TA", "LAW", "IDENTITY", "success")
    needs: Literal["latent", "estimate", "frames"] = "frames"
    weights: ClassVar[dict[str, float]] = {"success": 0.0}

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """The components (n, 6) of n views. Raises ValueError where frames or caption are not of this world."""
        rows = []
        for view in views:
            frames = readable(view.frames)
            rows.append(grade(observe(frames), world.parse(view.prompt), view.num_frames))
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.components))


def main() -> None:
    """Print the mean scores of true, wrong and spoilt clips."""
    import argparse

    from actors.tiny.walls import corruptions

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--n", type=int, default=200, help="clips in each row")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print_table(Verifier.components, measure, corruptions.table(np.random.default_rng(args.seed), args.n), args.n)


if __name__ == "__main__":
    main()
