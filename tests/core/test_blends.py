"""How an ensemble's rewards become one number, by hand."""

import numpy as np
import pytest

from raysearch.recipe.reward import Blend, Reward


def reward(name: str, *weights: float, blend: Blend | None = None) -> Reward:
    names = tuple(f"{name}{i}" for i in range(len(weights)))
    return Reward(name, name.encode(), names, weights, "frames", blend=blend)


A, B = reward("a", 1.0), reward("b", 1.0, 2.0)
ROWS = [(1.0, 10.0, 0.0), (2.0, 4.0, 1.0), (4.0, 2.0, 1.0)]  # a is 1, 2, 4; b is 10, 6, 4
PLAIN = [(0.0, 1.0), (0.0, 1.0)]


def blend(shares=(1.0, 1.0), scales=PLAIN, **more) -> list[float]:
    return Blend((A, B), tuple(shares), tuple(scales), **more).totals(ROWS)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (blend(), [11, 8, 8]),
        (blend((2.0, 0.5)), [7, 7, 10]),
        (blend((2.0, -1.0)), [-8, -2, 4]),
        (blend(least=True), [1, 2, 4]),
        (blend(scales=[(2.0, 0.5), (6.0, 4.0)]), [-2 + 1, 0 + 0, 4 - 0.5]),
        (blend(scales=[(2.0, 0.5), (6.0, 4.0)], least=True), [-2, 0, -0.5]),
        (blend(ranks=True), [0 + 1, 0.5 + 0.5, 1 + 0]),
        (blend((3.0, 1.0), ranks=True), [1, 2, 3]),
        (blend(ranks=True, least=True), [0, 0.5, 0]),
    ],
)
def test_totals_by_hand(found, expected):
    assert found == pytest.approx(expected)


def test_equals_share_the_middle_rank_and_one_alone_has_none():
    b = Blend((A,), (1.0,), ((0.0, 1.0),), ranks=True)
    assert b.totals([(5.0,), (1.0,), (5.0,), (7.0,)]) == pytest.approx([0.5, 0.0, 0.5, 1.0])
    assert b.totals([(5.0,)]) == [0.5]
    assert b.totals([(3.0,), (3.0,)]) == [0.5, 0.5]


def test_ranks_are_counted_and_know_no_scale():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, 40).astype(float)
    b = Blend((A,), (1.0,), ((0.0, 1.0),), ranks=True)
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    expected = (below + (equal - 1) / 2) / 39
    assert np.allclose(b.totals(values[:, None]), expected)
    assert b.totals(np.exp(values)[:, None]) == b.totals(values[:, None])


def test_an_ensemble_is_known_to_scorers_by_its_members():
    whole = reward("e", blend=Blend((A, B), (1.0, 1.0), tuple(PLAIN)))
    assert (whole.keys, A.keys) == (("a", "b"), ("a",))
    assert whole.total(ROWS[0]) == 11
