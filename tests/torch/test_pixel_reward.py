"""The shipped pixel reward: prefers true clips to wrong and spoilt ones, one view at a time, within its size."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.rewards import View, pixel
from actors.rewards.pixel import PixelReward
from actors.tiny import corruptions, world

N = 24
Objects = tuple[world.Object, ...]


@pytest.fixture(scope="module")
def reward() -> PixelReward:
    return PixelReward()


@pytest.fixture(scope="module")
def clips() -> list[tuple[np.ndarray, Objects]]:
    rng = np.random.default_rng(11)
    objects = [world.parse(c) for c in rng.permutation([*world.HELD_OUT_ONE, *world.HELD_OUT_TWO[:12]])[:N]]
    return [(world.draw(world.place(o, rng)), o) for o in objects]


def view(frames: np.ndarray, objects: Objects) -> View:
    return View(prompt=world.caption(objects), sigma=0.0, latent=None, frames=frames)


@pytest.fixture(scope="module")
def true(reward: PixelReward, clips: list[tuple[np.ndarray, Objects]]) -> np.ndarray:
    return reward([view(c, o) for c, o in clips])


def test_shape_and_range(reward: PixelReward, true: np.ndarray) -> None:
    assert true.shape == (N, 3) and true.dtype == np.float64
    assert np.isfinite(true).all() and (true >= 0).all() and (true <= 1).all()
    assert true.mean() > 0.85
    assert reward([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("attribute", "component", "drop"),
    [
        ("colour", "TA", 0.3),
        ("motion", "MQ", 0.3),
        # What the shipped weights do not tell apart yet; strict, so that better ones must take the mark away.
        pytest.param(
            "shape",
            "TA",
            0.05,
            marks=pytest.mark.xfail(strict=True, reason="the shipped pixel reward hardly reads shape words"),
        ),
    ],
)
def test_prefers_the_right_caption(
    attribute: str,
    component: str,
    drop: float,
    reward: PixelReward,
    clips: list[tuple[np.ndarray, Objects]],
    true: np.ndarray,
) -> None:
    rng = np.random.default_rng(2)
    wrong = reward([view(c, corruptions.swap(rng, o, attribute)) for c, o in clips])
    k = reward.components.index(component)
    assert (wrong[:, k] < true[:, k]).mean() >= 0.8
    assert wrong[:, k].mean() < true[:, k].mean() - drop


@pytest.mark.parametrize(
    ("name", "strength", "component"),
    [
        ("blur", 2.0, "VQ"),
        ("noise", 25.0, "VQ"),
        ("flicker", 0.9, "VQ"),
        ("fade", 0.8, "VQ"),
        ("wobble", 2.0, "VQ"),
        ("ghost", 0.7, "TA"),
        ("freeze", 0.9, "MQ"),
        ("shuffle", 0.9, "MQ"),
        ("shake", 2.5, "MQ"),
    ],
)
def test_prefers_clean_clips(
    name: str,
    strength: float,
    component: str,
    reward: PixelReward,
    clips: list[tuple[np.ndarray, Objects]],
    true: np.ndarray,
) -> None:
    rng = np.random.default_rng(3)
    spoil: Callable[..., np.ndarray] = corruptions.CORRUPTIONS[name][0]
    spoilt = reward([view(spoil(rng, c, strength), o) for c, o in clips])
    k = reward.components.index(component)
    assert (spoilt[:, k] < true[:, k]).mean() >= 0.9
    assert (spoilt.sum(1) < true.sum(1)).mean() >= 0.9


def test_rows_are_independent(reward: PixelReward, clips: list[tuple[np.ndarray, Objects]], true: np.ndarray) -> None:
    alone = np.concatenate([reward([view(c, o)]) for c, o in clips[::-1]])[::-1]
    np.testing.assert_array_equal(alone, true)


def test_the_order_of_phrases_does_not_matter(reward: PixelReward, clips: list[tuple[np.ndarray, Objects]]) -> None:
    two = [(c, o) for c, o in clips if len(o) == 2]
    there, back = reward([view(c, o) for c, o in two]), reward([view(c, o[::-1]) for c, o in two])
    np.testing.assert_allclose(there, back, atol=1e-5)


@pytest.mark.parametrize("frames", [5, 9, 33])
def test_other_lengths(frames: int, reward: PixelReward) -> None:
    rng = np.random.default_rng(4)
    objects = world.parse(world.HELD_OUT_TWO[0])
    scores = reward([view(world.draw(world.place(objects, rng, frames=frames)), objects)])
    assert scores.shape == (1, 3) and scores.mean() > 0.5


def test_bad_views(reward: PixelReward, clips: list[tuple[np.ndarray, Objects]]) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        reward([View(prompt="a cat", sigma=0.0, latent=None, frames=clips[0][0])])
    with pytest.raises(ValueError, match="needs frames"):
        reward([View(prompt="a red circle moving left", sigma=0.0, latent=None, frames=clips[0][0][:, :16])])


@pytest.mark.parametrize(
    ("components", "of"),
    [
        ((("TA", "both"), ("LAW", "phrases"), ("VQ", "clip")), {"of_phrase": [1, 0], "of_whole": [1, 0]}),
        ((("VQ", "clip"), ("LAW", "clip")), {"of_whole": [0, 0]}),
        ((("LAW", "phrases"),), {"of_phrase": [0]}),
    ],
)
def test_other_components(
    components: tuple[tuple[str, str], ...],
    of: dict[str, list[int]],
    reward: PixelReward,
    clips: list[tuple[np.ndarray, Objects]],
    true: np.ndarray,
    tmp_path: Path,
) -> None:
    """Heads that are copies of the shipped ones: LAW is what VQ or MQ is there."""
    net = pixel.PixelNet(replace(reward.net.config, components=components))
    heads = {f"{head}.{k}": (head, k) for head in ("of_phrase", "of_whole") for k in ("weight", "bias")}
    shipped = reward.net.state_dict()
    own = {name: shipped[name][of[head]] for name, (head, _) in heads.items() if head in of}
    net.load_state_dict({k: v for k, v in shipped.items() if k not in heads} | own)
    pixel.save(net, tmp_path)
    other, names = PixelReward(folder=tmp_path), tuple(name for name, _ in components)
    assert PixelReward.named(folder=tmp_path) == other.components == names
    law = {"clip": "VQ", "phrases": "MQ"}
    columns = [reward.components.index(law[how] if name == "LAW" else name) for name, how in components]
    scores = other([view(c, o) for c, o in clips[:4]])
    np.testing.assert_allclose(scores, true[:4, columns], atol=1e-6)


def test_size() -> None:
    assert sum(f.stat().st_size for f in PixelReward.files()) <= 5_000_000
