"""The loop of every training: what it learns, its averaged weights, and trainings that are stopped and go on."""

import numpy as np
import pytest
import torch
from torch import nn

from actors.training.config import Schedule
from actors.training.loop import Means, Training, learning_rate, train
from raysearch.errors import ConfigError

SCHEDULE = Schedule(steps=8, learning_rate=0.1, warm_up=2, ema=0.9, every=2)


def net_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))


def fit_a_sum(net, stop_at=None):
    """A loss that reads the batch's generator and torch's own (by dropout); it raises at the step `stop_at`."""

    def loss(step: int, rng: np.random.Generator, means: Means) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(rng.standard_normal((16, 3))).float()
        value = (net(x)[:, 0] - x.sum(1)).square().mean()
        means.add({"loss": value.item()})
        return value

    return loss


def test_numbers_near_zero_are_whole_again_after_a_training(tmp_path):
    """A training flushes them to zero, which is the process's setting and not the training's."""
    net = net_of()
    train(net, fit_a_sum(net), SCHEDULE, checkpoint=tmp_path / "state.pt")
    assert float(np.float64(1e-320) + np.float64(1e-320)) > 0


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, ema):
    schedule = Schedule(steps=8, learning_rate=0.1, warm_up=2, ema=ema, every=2)
    whole, halves, again = net_of(), net_of(), net_of(seed=1)
    train(whole, fit_a_sum(whole), schedule, checkpoint=tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):  # after step 5, of which the checkpoint knows four
        train(halves, fit_a_sum(halves, stop_at=5), schedule, checkpoint=tmp_path / "halves.pt")
    assert torch.load(tmp_path / "halves.pt")["step"] == 4
    train(again, fit_a_sum(again), schedule, checkpoint=tmp_path / "halves.pt")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    assert any(not torch.equal(v, whole.state_dict()[k]) for k, v in net_of().state_dict().items())


def test_a_finished_training_gives_its_averaged_weights_again(tmp_path):
    first, second = net_of(), net_of(seed=1)
    train(first, fit_a_sum(first), SCHEDULE, checkpoint=tmp_path / "state.pt")
    train(second, fit_a_sum(second, stop_at=0), SCHEDULE, checkpoint=tmp_path / "state.pt")
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def test_averaged_weights_by_hand():
    net = net_of()
    training, wanted = Training(net, SCHEDULE), {}
    batches = (np.random.default_rng(k) for k in range(8))
    for _ in training.run(fit_a_sum(net), batches):
        k = training.step - 1
        decay = min(0.9, (1 + k) / (10 + k)) if k else 0.0
        for name, p in net.state_dict().items():
            wanted[name] = torch.lerp(wanted.get(name, p), p, 1 - decay)
    last = {name: p.clone() for name, p in net.state_dict().items()}
    with training.averaged():
        assert not net.training
        for name, p in net.state_dict().items():
            torch.testing.assert_close(p, wanted[name])
            assert not torch.equal(p, last[name])
    assert net.training and all(torch.equal(p, last[name]) for name, p in net.state_dict().items())


def test_frozen_parameters_stay_and_are_not_kept():
    net = net_of()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    training = Training(net, SCHEDULE)
    list(training.run(fit_a_sum(net), (np.random.default_rng(k) for k in range(8))))
    assert torch.equal(net[0].weight, before)
    assert training.state()["net"].keys() == {"3.weight", "3.bias"}


def test_a_loss_that_is_not_finite_ends_the_training():
    net = net_of()
    training = Training(net, SCHEDULE)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        next(training.run(lambda step, batch, means: net[0].weight.sum() * float("nan"), [None]))


def test_a_checkpoint_of_an_earlier_version_is_refused():
    with pytest.raises(ConfigError, match="an earlier version"):
        Training(net_of(), SCHEDULE).resume({"net": {}, "optimizer": {}, "average": {}, "step": 2, "seconds": 1.0})


def test_learning_rate_by_hand():
    schedule = Schedule(steps=10, warm_up=2, learning_rate=1.0)
    found = [learning_rate(step, schedule) for step in (0, 1, 2, 6, 10)]
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.51, 0.02])


def test_means_are_of_each_name_alone():
    means = Means()
    for values in ({"a": 1.0}, {"a": 3.0, "b": 5.0}):
        means.add(values)
    assert means.values() == {"a": 2.0, "b": 5.0}
    means.clear()
    assert means.values() == {}
