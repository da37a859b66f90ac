"""Losses of learned rewards, against values by hand."""

from math import exp, log

import pytest
import torch

from actors.training import losses


def softplus(x: float) -> float:
    return log(1 + exp(x))


def test_regression() -> None:
    assert losses.regression(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])) == 2.5


def test_preference_by_hand() -> None:
    scores, grades = torch.tensor([[[2.0], [0.0], [1.0]]]), torch.tensor([[[0.9], [0.5], [0.5]]])
    # 0 beats 1 and 2 by 2 and 1; 1 and 2 tie
    assert losses.preference(scores, grades).item() == pytest.approx((softplus(-2) + softplus(-1)) / 2)
    assert losses.preference(-scores, grades).item() == pytest.approx((softplus(2) + softplus(1)) / 2)


def test_regression_at_a_temperature() -> None:
    found = losses.regression(torch.tensor([[10.0, 2.0]]), torch.tensor([[0.0, 0.4]]), temperature=0.1)
    assert found.item() == pytest.approx((1.0**2 + 0.2**2) / 2)


def test_preference_is_per_component_and_within_groups() -> None:
    scores = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[5.0, 7.0], [5.0, 7.0]]])
    grades = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 0.5]]])
    wanted = (softplus(-1) + softplus(3) + log(2)) / 3
    assert losses.preference(scores, grades).item() == pytest.approx(wanted)
    rows, ids = (x.flatten(0, 1) for x in (scores, grades)), torch.tensor([4, 4, 7, 7])
    assert losses.preference(*rows, ids).item() == pytest.approx(wanted)


def test_preference_is_bradley_terry() -> None:
    winner, loser = torch.randn(5, 1, 3), torch.randn(5, 1, 3)
    scores, grades = torch.cat([loser, winner], 1), torch.tensor([0.0, 1.0])[None, :, None].expand(5, 2, 3)
    expected = -torch.log(torch.sigmoid(winner - loser)).mean()
    torch.testing.assert_close(losses.preference(scores, grades), expected)


def test_nothing_to_compare() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    losses.preference(scores, torch.ones(2, 3)).backward()
    assert scores.grad is not None and not scores.grad.any()
    assert losses.preference(torch.randn(1, 3), torch.ones(1, 3)) == 0


def test_binary() -> None:
    found = losses.binary(torch.tensor([2.0, 1.0]), torch.tensor([0.9, 0.5])).item()
    assert found == pytest.approx((softplus(-2) + softplus(1)) / 2)
    assert losses.binary(torch.tensor([1.0]), torch.tensor([0.5]), threshold=0.4).item() == pytest.approx(softplus(-1))
