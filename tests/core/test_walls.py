"""The world with walls: captions, scenes and their law, and what is held out."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from actors.tiny.walls import world


def captions(n: int, seed: int = 0, *, wall: float = 0.3, counts: tuple = (0.2, 0.4, 0.4)) -> list[world.Caption]:
    rng = np.random.default_rng(seed)
    return [world.training_caption(rng, counts=counts, wall=wall) for _ in range(n)]


def depths(scene: world.Scene) -> np.ndarray:
    """How many pixels (frames, objects) each object reaches into the wall from the side where it starts."""
    line = scene.centres[:, :, scene.wall.axis] - scene.wall.at
    side = np.sign(line[0])
    normal = np.eye(2, dtype=int)[scene.wall.axis]
    objects = zip(side, scene.caption.objects, scene.identities, strict=True)
    reach = [world.extent(o.shape, int(-s) * normal) * who.radius for s, o, who in objects]
    return np.array(reach) + world.THICK / 2 - side * line


def test_a_caption_is_read_as_it_is_written():
    for caption in captions(300):
        assert world.parse(str(caption)) == caption
    text = "a red circle moving left then up and a blue square moving slowly down and a cyan triangle standing still"
    assert world.parse(text).objects == (
        world.Object("red", "circle", ("left", "up")),
        world.Object("blue", "square", ("down",), "slowly"),
        world.Object("cyan", "triangle"),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a cat", "no caption of the synthetic world"),
        ("a red circle", "no caption of the synthetic world"),
        ("a red circle moving", "no caption of the synthetic world"),
        ("a red circle moving left up", "no caption of the synthetic world"),
        ("a red circle moving left then right", "no caption of the synthetic world"),
        ("a red circle moving left then up then right", "no caption of the synthetic world"),
        ("a red circle slowly standing still", "no caption of the synthetic world"),
        ("a wall and a red circle moving left", "no caption of the synthetic world"),
        ("a wall", "one to 2 objects beside a wall"),
        ("a red circle moving left and a red square moving up", "of different colours"),
        (" and ".join(f"a {c} circle standing still" for c in ("red", "blue", "cyan", "green")), "one to 3 objects"),
        ("a red circle moving left then up and a wall", "no object says 'then'"),
    ],
)
def test_what_is_no_caption_is_refused_in_one_line(text, why):
    with pytest.raises(ValueError, match=why) as error:
        world.parse(text)
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("frames", [world.FRAMES, 25])
def test_objects_stay_inside_and_apart(frames):
    rng = np.random.default_rng(frames)
    grid = np.arange(world.SIZE) + 0.5
    for caption in captions(25, frames, counts=(0, 0.5, 0.5)):
        scene = world.place(caption, rng, frames=frames)
        painted = []
        for i, (o, who) in enumerate(zip(caption.objects, scene.identities, strict=True)):
            for direction in world.DIRECTIONS.values():
                ahead = scene.centres[:, i] + np.multiply(world.extent(o.shape, direction) * who.radius, direction)
                assert (ahead >= -1e-9).all() and (ahead <= world.SIZE + 1e-9).all()
            x = grid[None, None, :] - scene.centres[:, i, 0, None, None]
            y = grid[None, :, None] - scene.centres[:, i, 1, None, None]
            painted.append(world.covered(o.shape, who.notch, who.radius, x, y))
        assert all((a * b).max() == 0 for a, b in combinations(painted, 2))


def test_objects_move_as_their_phrases_say():
    rng = np.random.default_rng(0)
    for caption in captions(60, wall=0):
        steps = np.diff(world.place(caption, rng).centres, axis=0)
        for i, o in enumerate(caption.objects):
            legs = [np.array(world.DIRECTIONS[leg]) for leg in o.legs] or [np.zeros(2)]
            low, high = world.SPEEDS[o.speed] if o.legs else (0, 0)
            pace = np.hypot(*steps[0, i])
            assert low - 1e-9 <= pace <= high + 1e-9
            np.testing.assert_allclose(steps[:8, i], np.tile(pace * legs[0], (8, 1)), atol=1e-9)
            np.testing.assert_allclose(steps[8:, i], np.tile(pace * legs[-1], (8, 1)), atol=1e-9)


def test_what_bounces_touches_the_wall_and_stays_out_of_it():
    rng = np.random.default_rng(1)
    bounced = 0
    for caption in captions(60, wall=1, counts=(0.4, 0.6, 0)):
        scene = world.place(caption, rng)
        deep = depths(scene)
        assert deep.max() <= 1e-9
        steps = np.diff(scene.centres, axis=0)
        for i in np.flatnonzero(np.abs(np.diff(np.sign(steps[:, :, scene.wall.axis]), axis=0)).any(0)):
            bounced += 1
            assert deep[:, i].max() >= -np.hypot(*steps[0, i])  # at most a frame's way from touching
            speeds = np.hypot(*steps[:, i].T)
            assert np.sum(np.abs(speeds - speeds[0]) > 1e-9) <= 1  # but in the frame in which it turns
    assert bounced >= 50


def test_what_breaks_the_law_goes_through_straight():
    rng = np.random.default_rng(2)
    broken = [world.place(c, rng, broken=1) for c in captions(60, wall=1, counts=(0.4, 0.6, 0))]
    broken = [s for s in broken if s.through is not None]
    assert len(broken) >= 30
    for scene in broken:
        deep = depths(scene)
        assert deep[-1, scene.through] > scene.identities[scene.through].radius
        assert np.delete(deep, scene.through, 1).max(initial=-1) <= 1e-9
        np.testing.assert_allclose(np.diff(scene.centres[:, scene.through], 2, axis=0), 0, atol=1e-9)
    assert all(world.place(s.caption, rng).through is None for s in broken)


def test_no_training_caption_shows_what_is_held_out():
    held = world.HELD_OUT
    assert [len(x) for x in (held.one, held.two, held.three, held.wall)] == [24, 120, 120, 120]
    texts = [*held.one, *held.two, *held.three, *held.wall]
    assert len(set(texts)) == len(texts)
    asked = [world.parse(t) for t in texts]
    assert len({(frozenset(o.kind for o in c.objects), c.wall) for c in asked}) == len(asked)
    ones = {c.objects[0].kind for c in asked[:24]}
    alone = {c.objects[0].kind for c in asked[24:] if len(c.objects) == 1}
    several = [{o.kind for o in c.objects} for c in asked if len(c.objects) > 1]
    for caption in captions(3000, 3):
        kinds = {o.kind for o in caption.objects}
        assert not kinds & ones and not any(g <= kinds for g in several)
        assert not (caption.wall and len(kinds) == 1 and kinds & alone)


def test_a_clip_is_a_function_of_caption_and_generator():
    text = "a red circle moving left and a wall"
    a, b, c = (world.render(text, np.random.default_rng(seed), frames=25) for seed in (0, 0, 1))
    assert a.dtype == np.uint8 and a.shape == (25, world.SIZE, world.SIZE, 3)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_notch_takes_pixels_from_its_side_alone(shape):
    o = world.Object("red", shape)
    whole = world.Scene(world.Caption((o,)), np.full((1, 1, 2), 24.0), (world.Identity(0, 6, ""),))
    x, y = np.meshgrid(np.arange(world.SIZE) - 23.5, np.arange(world.SIZE) - 23.5)
    for notch, side in list(world.NOTCHES.items())[1:]:
        cut = replace(whole, identities=(world.Identity(0, 6, notch),))
        gone = (world.draw(whole)[0] - world.draw(cut)[0].astype(int))[..., 0] / 214
        assert 3 < gone.sum() < 15
        assert (gone * (x * side[0] + y * side[1] <= 0)).sum() == 0
