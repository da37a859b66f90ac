"""The verifier's table: true clips succeed, wrong ones do not, and its grades fall as clips get worse."""

import numpy as np
import pytest

from actors.rewards import View
from actors.tiny import corruptions, world
from actors.tiny.verifier import Verifier, measure
from actors.tiny.walls import world as walls_world
from actors.tiny.walls.verifier import Verifier as WallsVerifier

N = 40


def scores(pairs: corruptions.Pairs) -> np.ndarray:
    return np.array([measure(frames, objects) for frames, objects in pairs])


@pytest.fixture(scope="module")
def clips() -> corruptions.Pairs:
    rng = np.random.default_rng(1)
    objects = [world.training_objects(rng, two=i % 2) for i in range(24)]
    return [(world.draw(world.place(o, rng)), o) for o in objects]


@pytest.mark.parametrize(
    ("row", "low", "high"),
    [
        ("one object", 0.99, 1),
        ("two objects", 0.99, 1),
        ("grey levels +-3", 0.97, 1),
        ("blur 0.50", 0.97, 1),
        ("wrong colour", 0, 0.01),
        ("wrong shape", 0, 0.01),
        ("wrong motion", 0, 0.01),
        ("missing object", 0, 0.01),
        ("extra object", 0, 0.01),
        ("extra, same colour", 0, 0.01),
        ("freeze 1.00", 0, 0.01),
        ("fade 0.40", 0, 0.01),
        ("shuffle 1.00", 0, 0.01),
    ],
)
def test_success(row: str, low: float, high: float, table: dict[str, corruptions.Pairs]) -> None:
    assert low <= scores(table[row])[:, 3].mean() <= high


@pytest.fixture(scope="module")
def table() -> dict[str, corruptions.Pairs]:
    return dict(corruptions.table(np.random.default_rng(0), N))


@pytest.mark.parametrize(
    ("name", "falling", "strengths"),
    [
        ("blur", ("VQ",), (0, 0.6, 1.2, 2, 3)),
        ("noise", ("VQ", "MQ", "TA"), (0, 8, 16, 30, 60)),
        ("flicker", ("VQ", "MQ", "TA"), (0, 0.4, 0.7, 1.0)),
        ("freeze", ("MQ",), (0, 0.3, 0.6, 1.0)),
        ("fade", ("VQ", "MQ", "TA"), (0, 0.3, 0.6, 1.0)),
        ("shake", ("MQ",), (0, 0.5, 1, 2, 3)),
        ("ghost", ("TA",), (0, 0.1, 0.3, 0.6)),
    ],
)
def test_mean_grades_fall(
    name: str, falling: tuple[str, ...], strengths: tuple[float, ...], clips: corruptions.Pairs
) -> None:
    spoil, rng = corruptions.CORRUPTIONS[name][0], np.random.default_rng(3)
    means = np.array([scores([(spoil(rng, c, s), o) for c, o in clips]).mean(0) for s in strengths])
    assert (np.diff(means[:, :3].sum(1)) < 0).all()
    assert (np.diff(means[:, :3], axis=0) < 0.01).all()
    for component in falling:
        column = means[:, Verifier.components.index(component)]
        assert column[-1] < column[0] - 0.15


@pytest.mark.parametrize("frames", [5, 9, 33])
def test_other_lengths(frames: int) -> None:
    rng = np.random.default_rng(frames)
    objects = [world.training_objects(rng) for _ in range(20)]
    clips = [world.draw(world.place(o, rng, frames=frames)) for o in objects]
    assert scores(list(zip(clips, objects, strict=True)))[:, 3].mean() >= 0.95
    still = [(np.repeat(c[:1], frames, 0), o) for c, o in zip(clips, objects, strict=True)]
    assert scores(still)[:, 1].max() < 0.05


def test_order_of_a_caption_does_not_matter(clips: corruptions.Pairs) -> None:
    np.testing.assert_allclose(scores(clips), scores([(c, o[::-1]) for c, o in clips]), atol=1e-12)


def test_views(clips: corruptions.Pairs) -> None:
    verifier = Verifier()
    views = [View(prompt=world.caption(o), sigma=0.0, latent=None, frames=c) for c, o in clips[:4]]
    together = verifier(views)
    assert together.shape == (4, len(verifier.components)) and together.dtype == np.float64
    assert ((together >= 0) & (together <= 1)).all()
    np.testing.assert_array_equal(together, np.concatenate([verifier([v]) for v in views]))
    assert verifier([]).shape == (0, 4)


def test_bad_views(clips: corruptions.Pairs) -> None:
    with pytest.raises(ValueError, match="no caption"):
        Verifier()([View(prompt="a cat", sigma=0.0, latent=None, frames=clips[0][0])])
    with pytest.raises(ValueError, match="needs frames"):
        Verifier()([View(prompt="a red circle moving left", sigma=0.0, latent=None, frames=None)])


def test_views_of_the_world_with_walls() -> None:
    text, rng = "a red circle moving left then up and a blue square standing still", np.random.default_rng(0)
    whole = walls_world.render(text, rng, frames=25)
    views = [
        View(prompt=text, sigma=0.0, latent=None, frames=whole),
        View(prompt=text, sigma=0.0, latent=None, frames=whole[:9], num_frames=25),
    ]
    together = WallsVerifier()(views)
    assert together.shape == (2, 6) and (together[:, 5] == 1).all()
    np.testing.assert_array_equal(together[1:], WallsVerifier()(views[1:]))
    assert WallsVerifier()([]).shape == (0, 6)
    with pytest.raises(ValueError, match="no caption"):
        WallsVerifier()([View(prompt="a cat", sigma=0.0, latent=None, frames=whole)])
    with pytest.raises(ValueError, match="needs frames"):
        WallsVerifier()([View(prompt=text, sigma=0.0, latent=None, frames=None)])


@pytest.mark.parametrize("value", [0, 24, 255])
def test_blank_clips_score_nothing(value: int) -> None:
    blank = np.full((world.FRAMES, 32, 32, 3), value, dtype=np.uint8)
    result = measure(blank, world.parse("a red circle moving left and a blue square moving up"))
    assert np.isfinite(result).all() and result.max() < 0.1
