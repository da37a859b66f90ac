"""Flicker and motion: values worked out by hand, textures that move by a known way, and mistakes."""

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.rewards import View
from actors.rewards.motion import Flicker, Motion
from actors.rewards.planning import reward
from raysearch.__main__ import main
from raysearch.errors import ConfigError

SHAPE = (1, 4, 3, 8, 8)


def view(frames, fps: int = 8) -> View:
    return View("a sea", 0.0, frames=np.asarray(frames, np.uint8), fps=fps)


def greys(*values: int, size: int = 16) -> np.ndarray:
    """Frames of one grey each, (len(values), size, size, 3)."""
    return np.array(values, np.uint8)[:, None, None, None].repeat(size, 1).repeat(size, 2).repeat(3, 3)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth texture that goes on over its edges, (height, width, 3): waves of whole numbers of periods."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.zeros((height, width))
    for _ in range(60):
        a, b = rng.integers(-12, 13, 2)
        waves += np.sin(2 * np.pi * (a * y / height + b * x / width) + rng.uniform(0, 7))
    waves = (waves - waves.min()) / (waves.max() - waves.min())
    return (255 * waves).astype(np.uint8)[..., None].repeat(3, 2)


def panned(step: int, frames: int, height: int = 128, width: int = 160) -> np.ndarray:
    """A texture that moves right by `step` pixels a frame."""
    still = texture(height, width)
    return np.stack([np.roll(still, i * step, axis=1) for i in range(frames)])


@pytest.fixture(scope="module")
def motion() -> Motion:
    return Motion()


def test_flicker_by_hand():
    rows = Flicker()([view(greys(0, 0, 0)), view(greys(0, 255, 0)), view(greys(10, 20, 61)), view(greys(61, 20, 10))])
    assert rows[:, 0] == pytest.approx([1, 0, 1 - 25.5 / 255, 1 - 25.5 / 255])
    half = greys(0, 100)
    half[1, :8] = 0  # half of the pixels do not change
    assert Flicker()([view(half)])[0, 0] == pytest.approx(1 - 50 / 255)
    assert Flicker()([]).shape == (0, 1)


def test_a_still_video_does_not_move(motion):
    frames = texture(64, 64)[None].repeat(9, 0)
    assert motion([view(frames)]).tolist() == [[0, 0, 1]]
    assert Flicker()([view(frames)]).tolist() == [[1]]
    assert motion([]).shape == (0, 3)


@pytest.mark.parametrize("step", [3, 12])
def test_a_pan_has_its_own_speed(motion, step):
    frames = panned(step, 3, 256, 320)
    flow = motion._flow.calc(motion._grey(frames[0]), motion._grey(frames[1]), None)
    assert np.median(flow[..., 0]) == pytest.approx(step, abs=0.1)
    assert np.median(flow[..., 1]) == pytest.approx(0, abs=0.1)
    dynamic, moves, _ = motion([view(frames)])[0]
    assert moves == (step > 6)
    largest = [np.sort(np.hypot(*flow.reshape(-1, 2).T))[-(256 * 320 // 20) :].mean()]
    assert dynamic == pytest.approx(np.mean(largest), rel=0.1)
    assert dynamic == pytest.approx(step, rel=0.35)  # the largest 5% are at the edges, where the texture goes round


def test_only_the_largest_five_percent_count(motion):
    frames = np.full((3, 100, 100, 3), 90, np.uint8)
    frames[:, 10:40, 10:40] = texture(30, 30)  # at rest
    for i in range(3):
        frames[i, 50:80, 50 + 2 * i : 80 + 2 * i] = texture(30, 30, seed=1)  # 9% of the pixels, 2 pixels a frame
    ((dynamic, _, _),) = motion([view(frames)])
    assert dynamic == pytest.approx(2 * 256 / 100, rel=0.15)


class Given(Motion):
    """Motion with lengths of flow vectors that are given: those of a pair are the first frame's own values."""

    def __init__(self):
        self._grey = lambda frame: frame[..., 0].astype(np.float32)
        self._flow = self

    def calc(self, a, b, none):
        return np.stack([a, np.zeros_like(a)], -1)


def test_units_and_pairs_by_hand():
    v = greys(8, 2, 7, 7, 7, 7, 9, 0, 0, size=16)  # in units of 16 / 256 pixels, so 16 times as much
    by_hand = [np.mean([8, 2, 7, 7, 7, 7, 9, 0]) * 16, np.mean([8, 7, 7, 9]) * 16, np.mean([8, 7]) * 16]
    assert Motion()._grey(np.full((1, 1, 3), (255, 0, 0), np.uint8)) == 76  # red counts 0.299
    for fps, expected in zip((8, 15, 16, 24), by_hand[:1] + by_hand[1:2] * 2 + by_hand[2:], strict=True):
        assert Given()([view(v, fps)])[0, 0] == pytest.approx(expected)
    assert Given()([view(v, 4)])[0, 0] == pytest.approx(by_hand[0] / 2)  # a pair is a quarter of a second apart
    (row,) = Given()([view(greys(*range(20), size=32)[:, :, :16])])
    assert row[0] == pytest.approx(np.mean(range(19)) * 256 / 16)  # the shorter side


@pytest.mark.parametrize(
    ("lengths", "moves"),
    [
        ([0] * 16, 0),
        ([7] * 4 + [0] * 12, 1),  # 16 frames: four pairs of fifteen are enough
        ([7] * 3 + [0] * 13, 0),
        ([6] * 16, 0),  # the threshold itself is no move
        ([7, 0, 0, 0, 0, 0], 0),  # round(6 / 4) = 2
        ([7, 7, 0, 0, 0, 0], 1),
        ([7, 0, 0], 1),
        ([0, 0, 0], 0),
    ],
)
def test_moves_by_vbenchs_rule(lengths, moves):
    assert Given()([view(greys(*lengths, size=256))])[0, 1] == moves


def test_smoothness_by_hand():
    def smooth(*values):
        return Given()([view(greys(*values))])[0, 2]

    assert smooth(0, 50, 100, 150) == 1
    assert smooth(0, 255, 0) == 0
    assert smooth(100, 100, 140, 100) == pytest.approx(1 - np.mean([20, 40]) / 255)


def test_motion_counts_only_with_weights_and_moves_weighs_nothing_by_default():
    r = reward("rewards.search", {"name": "motion"}, {}, (), SHAPE)
    assert r.components == ("dynamic", "moves", "smoothness") and r.total((2.0, 1.0, 0.5)) == 2.5
    r = reward("rewards.search", {"name": "motion", "weights": {"dynamic": 0, "moves": 3}}, {}, (), SHAPE)
    assert r.total((2.0, 1.0, 0.5)) == 3.5


def test_a_row_depends_on_its_view_alone(motion):
    views = [view(panned(2, 4, 32, 32)), view(panned(5, 4, 64, 48)), view(texture(32, 32)[None].repeat(4, 0))]
    together = motion(views)
    for i in (2, 0, 1):
        np.testing.assert_array_equal(motion([views[i]])[0], together[i])


@pytest.mark.parametrize("name", ["flicker", "motion"])
def test_one_frame_is_refused_before_anything_loads(name):
    with pytest.raises(ConfigError, match=r"^rewards.search.model.num_frames: 1 is not allowed; it must be at least 2"):
        reward("rewards.search", {"name": name}, {}, (), (1, 4, 1, 8, 8))


@pytest.mark.parametrize("size", [(16, 16), (16, 200), (1000, 16), (17, 999)])
def test_thin_frames_have_finite_scores(motion, size):
    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    assert np.isfinite(motion([view(frames)])).all()


def test_views_that_are_too_short_or_too_small_are_refused(motion):
    with pytest.raises(ConfigError, match="num_frames: 1 is not allowed; it must be at least 2"):
        Flicker()([view(greys(0))])
    with pytest.raises(ConfigError, match="num_frames: 2 is not allowed; it must be at least 3"):
        motion([view(greys(0, 0))])
    with pytest.raises(ConfigError, match="num_frames: 3 is not allowed; it must be at least 4"):
        motion([view(greys(0, 0, 0), fps=24)])
    for height, width in ((8, 200), (12, 200), (200, 15)):
        said = rf"height and width: '{height} x {width}' is not allowed; .* sides of 16 pixels or more"
        with pytest.raises(ConfigError, match=said):
            Given()([view(greys(0, 0, 0, size=200)[:, :height, :width])])


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"^rewards.search.name: .* needs cv2 .* pip install -e '.\[flow\]'$"):
        reward("rewards.search", {"name": "motion"}, {}, (), SHAPE)
    reward("rewards.search", {"name": "flicker"}, {}, (), SHAPE)  # needs nothing


def config(tiny, tmp_path, name: str, frames: int = 9):
    file = tmp_path / f"{name}.yaml"
    file.write_text(
        f"model: {{path: {tiny}, height: 32, width: 32, num_frames: {frames}, max_sequence_length: 40}}\n"
        "sampler: {num_steps: 2}\n"
        "policy: {name: best_of_n, n: 2}\n"
        f"rewards: {{search: {{name: {name}}}}}\n"
        "prompts: [a red circle moving left]\n"
        "fleet: {backend: local}\n"
        f"run_dir: {tmp_path / name}\n"
    )
    return str(file)


@pytest.mark.parametrize(("name", "components"), [("flicker", {"flicker"}), ("motion", set(Motion.components))])
def test_a_search_runs_from_the_command_line(tiny, tmp_path, name, components):
    assert main(["run", config(tiny, tmp_path, name)]) == 0
    (row,) = pq.read_table(tmp_path / name / "searches.parquet").to_pylist()
    assert np.isfinite(row["reward_search"]) and row["reason"] == ""
    table = pq.read_table(tmp_path / name / "candidates.parquet")
    assert components <= set(table.column_names)


def test_a_video_of_one_frame_is_one_line_on_the_command_line(tiny, tmp_path, capsys):
    assert main(["run", config(tiny, tmp_path, "flicker", frames=1)]) == 2
    assert "rewards.search.model.num_frames: 1 is not allowed" in capsys.readouterr().err
