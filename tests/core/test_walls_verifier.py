"""The verifier of the world with walls: what it measures is what was drawn, and its grades fall as clips get worse."""

import numpy as np
import pytest

from actors.tiny.corruptions import CORRUPTIONS
from actors.tiny.walls import corruptions, world
from actors.tiny.walls.seeing import NOTCHES, observe
from actors.tiny.walls.verifier import Verifier, depth, grade, measure, unfold

N = 20
VQ, MQ, TA, LAW, IDENTITY, SUCCESS = range(6)


def scenes(n: int, seed: int, *, wall: float = 0.3, frames: int = world.FRAMES, counts=(0.2, 0.4, 0.4)) -> list:
    rng = np.random.default_rng(seed)
    captions = [world.training_caption(rng, counts=counts, wall=wall) for _ in range(n)]
    return [world.place(c, rng, frames=frames) for c in captions]


def drawn(found: list) -> corruptions.Pairs:
    return [(world.draw(s), s.caption) for s in found]


def scores(pairs: corruptions.Pairs) -> np.ndarray:
    return np.array([measure(frames, caption) for frames, caption in pairs])


@pytest.fixture(scope="module")
def clips() -> corruptions.Pairs:
    return drawn(scenes(15, 1))


@pytest.fixture(scope="module")
def broken() -> list[world.Scene]:
    rng = np.random.default_rng(2)
    return [corruptions.through(rng) for _ in range(N)]


def test_what_is_seen_is_what_was_drawn():
    for scene in scenes(N, 0, counts=(0, 0.5, 0.5)):
        seen = observe(world.draw(scene))
        assert set(seen.tracks) == {o.colour for o in scene.caption.objects}
        for i, (o, who) in enumerate(zip(scene.caption.objects, scene.identities, strict=True)):
            track = seen.tracks[o.colour]
            s, n = track.look
            assert (world.SHAPES[s], NOTCHES[n]) == (o.shape, who.notch)
            assert np.abs(track.hues - who.hue).max() < 2
            assert abs(track.radius / who.radius - 1) < 0.04
            assert np.hypot(*(track.centres - scene.centres[:, i]).T).max() < 0.35
        if scene.wall:
            assert seen.wall.axis == scene.wall.axis and np.abs(seen.wall.at - scene.wall.at).max() < 0.1
        else:
            assert seen.wall is None


@pytest.mark.parametrize("frames", [world.FRAMES, 25])
@pytest.mark.parametrize(("wall", "counts"), [(0, (1, 0, 0)), (0, (0, 1, 0)), (0, (0, 0, 1)), (1, (0.3, 0.7, 0))])
def test_true_clips_succeed(frames, wall, counts):
    result = scores(drawn(scenes(N, frames, wall=wall, frames=frames, counts=counts)))
    assert (result[:, SUCCESS] == 1).all() and (result[:, [LAW, IDENTITY]] > 0.99).all()
    assert (result[:, [VQ, MQ, TA]].mean(0) > [0.93, 0.98, 0.98]).all()


@pytest.mark.parametrize("attribute", corruptions.SWAPS)
def test_one_wrong_attribute_fails(attribute):
    for frames in (world.FRAMES, 25):
        pairs = corruptions.swapped(np.random.default_rng(frames), attribute, N, frames=frames)
        assert scores(pairs)[:, SUCCESS].max() == 0


def test_missing_and_strange_objects_fail():
    rows = dict(zip(("missing object", "extra object", "extra, same colour"), [None] * 3, strict=True))
    for name, pairs in corruptions.table(np.random.default_rng(0), 12):
        if name in rows:
            rows[name] = scores(pairs)[:, [TA, SUCCESS]]
        if name == "extra, same colour":
            break
    assert all(r[:, 1].max() == 0 and r[:, 0].mean() < 0.8 for r in rows.values())


def test_going_through_a_wall_breaks_the_law_and_nothing_else(broken):
    result = scores(drawn(broken))
    assert result[:, LAW].max() < 0.05 and result[:, SUCCESS].max() == 0
    assert result[:, [MQ, TA]].min() > 0.95


def test_the_law_falls_with_the_depth_and_depths_are_true(broken):
    means = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        held = [corruptions.held(s, share) for s in broken]
        means.append(scores(drawn(held))[:, [LAW, MQ, SUCCESS]].mean(0))
        for scene in held:
            seen = observe(world.draw(scene))
            i = scene.through
            track, radius = seen.tracks[scene.caption.objects[i].colour], scene.identities[i].radius
            assert depth(track, seen.wall) == pytest.approx(share * radius, abs=0.5)
    laws, motions, success = np.array(means).T
    assert laws[0] == 1 and laws[1] > 0.9 and laws[-1] < 0.05 and (np.diff(laws) < 0).all()
    assert motions[0] < 0.8 and success[0] == 0 and success[3:].max() == 0  # what sticks to a wall moves badly


def test_what_turns_back_before_the_wall_does_not_bounce(broken):
    early, true = ([corruptions.held(s, share, back=True) for s in broken] for share in (-1.2, 0))
    result = scores(drawn(early))
    assert result[:, SUCCESS].max() == 0 and result[:, LAW].min() == 1 and result[:, MQ].mean() < 0.8
    assert scores(drawn(true))[:, SUCCESS].min() == 1


def test_going_away_from_a_wall_is_no_bounce():
    asked, shown = (world.parse(f"a red circle moving {way} and a wall") for way in ("left", "right"))
    centres = np.array([[[18.5 + 0.8 * t, 24]] for t in range(world.FRAMES)])
    scene = world.Scene(shown, centres, (world.Identity(0, 5, ""),), world.Wall(0, 11.5))  # 0.5 pixels from touching
    assert [measure(world.draw(scene), caption)[SUCCESS] for caption in (shown, asked)] == [1, 0]


def test_a_bounce_unfolds_to_a_straight_line():
    time = np.arange(17)
    for turn in (5.0, 6.3, 8.5, 11.9, 15.2):
        gap = 4 + 0.8 * np.abs(time - turn)
        np.testing.assert_allclose(unfold(gap), 4 + 0.8 * (turn - time), atol=1e-9)
    straight = 5 - 0.7 * time
    np.testing.assert_allclose(unfold(straight), straight, atol=1e-9)


@pytest.mark.parametrize("what", corruptions.IDENTITIES)
def test_a_lost_identity_is_noticed_and_is_no_failure(what):
    found, rng = scenes(N, 4), np.random.default_rng(4)
    strengths = (0.25, 0.5, 1.0) if what != "notch" else (1.0,)
    means = [
        scores([(corruptions.lose(rng, s, what, x), s.caption) for s in found])[:, [IDENTITY, SUCCESS]].mean(0)
        for x in strengths
    ]
    identity, success = np.array(means).T
    assert success[0] == 1
    assert identity[0] < 0.95 and (np.diff(identity) < 0).all() and identity[-1] < 0.3


def test_an_identity_is_measured_at_any_length(clips):
    for frames in (5, 9, 41):
        for scene in scenes(4, frames, frames=min(frames, 25)):
            clip = world.draw(scene)
            clip = np.concatenate([clip, clip[::-1]])[:frames]
            assert measure(clip, scene.caption)[IDENTITY] > 0.98


@pytest.mark.parametrize(
    ("name", "falling", "strengths"),
    [
        ("blur", (VQ,), (0, 0.6, 1.2, 2, 3)),
        ("noise", (VQ, MQ, TA), (0, 8, 16, 30, 60)),
        ("flicker", (VQ, MQ, TA, IDENTITY), (0, 0.4, 0.7, 1.0)),
        ("freeze", (MQ,), (0, 0.3, 0.6, 1.0)),
        ("fade", (VQ, TA, IDENTITY), (0, 0.3, 0.6, 1.0)),
        ("shake", (MQ,), (0, 0.5, 1, 2, 3)),
        ("ghost", (TA,), (0, 0.1, 0.3, 0.6)),
    ],
)
def test_mean_grades_fall(name, falling, strengths, clips):
    spoil, rng = CORRUPTIONS[name][0], np.random.default_rng(3)
    means = np.array([scores([(spoil(rng, c, s), o) for c, o in clips]).mean(0) for s in strengths])
    assert (np.diff(means[:, :3].sum(1)) < 0).all()
    assert (np.diff(means[:, :3], axis=0) < 0.01).all()
    assert (means[-1, list(falling)] < means[0, list(falling)] - 0.15).all()
    assert means[-1, SUCCESS] <= 0.1


def test_order_of_a_caption_does_not_matter(clips):
    turned = [(c, world.Caption(o.objects[::-1], o.wall)) for c, o in clips]
    np.testing.assert_allclose(scores(clips), scores(turned), atol=1e-12)


def test_the_beginning_of_a_clip_is_judged_by_the_legs_that_it_shows():
    for scene in scenes(N, 5, wall=0, frames=25):
        assert grade(observe(world.draw(scene)[:10]), scene.caption, 25)[SUCCESS] == 1


@pytest.mark.parametrize("value", [0, 24, 255])
def test_blank_clips_score_nothing(value):
    blank = np.full((world.FRAMES, world.SIZE, world.SIZE, 3), value, dtype=np.uint8)
    for text in ("a red circle moving left then up and a blue square moving up", "a red circle moving left and a wall"):
        result = measure(blank, world.parse(text))
        assert np.isfinite(result).all()
        assert result[[VQ, MQ, TA, IDENTITY, SUCCESS]].max() < 0.1
    assert len(result) == len(Verifier.components)
