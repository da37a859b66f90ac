"""What the model for queues is trained on: videos that go to and fro, and the noise levels of windows in a queue."""

import numpy as np
import torch

from actors.rewards import View
from actors.shipped import find
from actors.tiny import world
from actors.tiny.training import long


def test_every_chunk_of_a_training_video_shows_its_caption():
    judge = find("verifier")()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        captions, frames = long.to_and_fro(long.objects(rng), rng, 3)
        assert frames.shape == (49, 32, 32, 3)
        assert np.array_equal(frames[:17], frames[16:33][::-1])
        assert np.array_equal(frames[:17], frames[32:])
        views = [View(c, 0.0, frames=frames[16 * i : 16 * i + 17]) for i, c in enumerate(captions)]
        success = judge(views)[:, judge.components.index("success")]
        assert success.tolist() == [1, 1, 1]
        wrong = judge([View(captions[1], 0.0, frames=frames[:17])])
        assert wrong[0, judge.components.index("success")] == 0


def test_held_out_captions_are_not_trained_on_there_or_back():
    held = {*world.HELD_OUT_ONE, *world.HELD_OUT_TWO}
    rng = np.random.default_rng(0)
    for _ in range(300):
        captions, _ = long.to_and_fro(long.objects(rng), rng, 2)
        for text in captions:
            swapped = " and ".join(text.split(" and ")[::-1])
            assert not held & {text, swapped, *text.split(" and ")}


def test_levels_are_neighbours_on_a_grid_and_rise_to_the_tail():
    sigma = long.queue_levels(np.random.default_rng(0), 500, 5)
    assert sigma.shape == (500, 5) and sigma.dtype == torch.float32
    assert (sigma.diff(dim=1) >= 0).all() and (sigma[:, -1] > 0).all() and sigma.max() == 1
    clean = (sigma == 0).sum(1)
    assert set(clean.tolist()) == {0, 1, 2, 3, 4}
    # Unshifted, the noisy frames' levels are equally far apart, 1 over a number of steps.
    u = (sigma / (long.SHIFT - (long.SHIFT - 1) * sigma)).double()
    for row in u:
        noisy = row[row > 0]
        if len(noisy) > 2:
            gaps = noisy.diff()
            assert gaps.max() - gaps.min() < 1e-5
            steps = 1 / gaps[0].item()
            assert abs(steps - round(steps)) < 0.01 * steps and long.STEPS[0] - 1 < steps < long.STEPS[1] + 1
