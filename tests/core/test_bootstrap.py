"""The bootstrap: its weights, pairing, running means, and how often an interval holds the truth."""

import numpy as np
import pytest

from raysearch.bootstrap import DRAWS, RunningGains, RunningMean, draws, interval, shared, weights


def crossed(captions: int, seeds: int) -> tuple[list[str], list[int]]:
    """Captions and seeds of the searches of every caption with every seed."""
    return [f"caption {i}" for i in range(captions) for _ in range(seeds)], list(range(seeds)) * captions


def test_weights_are_poisson_numbers_of_their_names():
    w = np.stack([weights("caption", f"caption {i}") for i in range(500)])
    for k, chance in enumerate((0.3679, 0.3679, 0.1839, 0.0613)):
        assert (w == k).mean() == pytest.approx(chance, abs=0.003)
    assert abs(np.corrcoef(w[:40])[np.triu_indices(40, 1)]).max() < 0.1
    assert abs(np.corrcoef(weights("caption", 3), weights("seed", 3))[0, 1]) < 0.1
    assert weights("caption", "a red circle").tolist()[:12] == [2, 0, 0, 2, 3, 1, 0, 1, 1, 0, 1, 0]


def test_a_running_mean_has_the_interval_of_all_searches_at_once():
    captions, seeds = crossed(7, 3)
    values = np.random.default_rng(0).normal(size=(21, 2))
    for of in (seeds, None):
        running = RunningMean()
        for i, row in enumerate(values):
            assert len(running.half) == (2 if i > (1 if of else 3) else 0)  # of three seeds a caption
            running.add(row, captions[i], of and of[i])
        low, high = interval(draws(values, captions, of))
        assert running.mean == pytest.approx(values.mean(0))
        assert running.half == pytest.approx((high - low) / 2)
        assert (low < values.mean(0)).all() and (values.mean(0) < high).all()


def test_a_running_mean_of_one_caption_or_seed_has_an_interval_where_all_at_once_have_one():
    for captions, seeds, intervals in (("aa", None, 0), ("aab", None, 1), ("aa", [0, 1], 1), ("a", [0], 0)):
        running = RunningMean()
        for i, caption in enumerate(captions):
            running.add([float(i)], caption, seeds and seeds[i])
        ends = interval(draws(np.arange(len(captions)), list(captions), seeds))
        assert len(running.half) == intervals == np.isfinite(ends).all()


def test_a_missing_value_counts_in_no_mean_of_its_column():
    captions, seeds = crossed(900, 2)  # more captions than are drawn at once
    values = np.random.default_rng(0).normal(size=(1800, 2, 2))
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    values[1:, 0, 1] = np.nan  # of one caption and seed alone
    for of in (seeds, None):
        drawn = draws(values, captions, of)
        assert drawn.shape == (DRAWS, 2, 2) and np.isnan(drawn[:, 0, 1]).all()
        for i, j in ((0, 0), (1, 0), (1, 1)):
            there = np.flatnonzero(~np.isnan(values[:, i, j]))
            alone = draws(values[there, i, j], [captions[k] for k in there], of and [of[k] for k in there])
            assert drawn[:, i, j] == pytest.approx(alone, nan_ok=True)
            w = np.column_stack([weights("caption", captions[k]) for k in there])
            w = w * np.column_stack([weights("seed", seeds[k]) for k in there]) if of else w
            with np.errstate(invalid="ignore"):
                assert alone == pytest.approx((w @ values[there, i, j]) / w.sum(1), nan_ok=True)


def test_running_gains_are_those_of_the_pairs_that_both_have_in_any_order():
    """Of three arms on 6 captions x 2 seeds; one search in five fails."""
    rng = np.random.default_rng(0)
    captions, seeds = crossed(6, 2)
    values = rng.normal(size=(3, 12))
    values[rng.random((3, 12)) < 0.2] = np.nan
    for order in (np.arange(36), rng.permutation(36)):
        gains = RunningGains(["one", "base", "two"], "base")
        for i in order:
            arm, k = ("base", "one", "two")[i // 12], i % 12
            v = values[i // 12, k]
            gains.add(arm, (captions[k], seeds[k]), None if np.isnan(v) else float(v), captions[k], seeds[k])
        assert list(gains.of) == ["one", "two"] and not gains._open
        for arm, row in (("one", 1), ("two", 2)):
            there = np.isfinite(values[row] - values[0])
            assert 0 < there.sum() < 12 and gains.of[arm].n == there.sum()
            assert gains.of[arm].mean == pytest.approx((values[row] - values[0])[there].mean())
            of = [[c for c, t in zip(x, there, strict=True) if t] for x in (captions, seeds)]
            low, high = interval(draws((values[row] - values[0])[there], *of))
            assert gains.of[arm].half == pytest.approx((high - low) / 2)


def test_running_gains_remember_only_what_is_not_complete():
    gains = RunningGains(["base", "late"], "base")
    for i in range(1000):
        gains.add("base", i, 1.0, i)
        assert len(gains._open) == min(i + 1, 2)
        if i:
            gains.add("late", i - 1, None if i % 2 else 3.0, i - 1)
    assert gains.of["late"].mean == [2] and gains.of["late"].n == 499
    alone = RunningGains(["base"], "base")
    alone.add("base", 0, 1.0, "a")
    assert not alone.of and not alone._open


def test_arms_are_paired_and_the_order_of_searches_does_not_matter():
    captions, seeds = crossed(5, 4)
    values = np.random.default_rng(0).normal(size=20)
    one, other = draws(values, captions, seeds), draws(values + 0.5, captions, seeds)
    assert np.nanmax(abs(other - one - 0.5)) < 1e-12
    back = draws(values[::-1], captions[::-1], seeds[::-1])
    assert back == pytest.approx(one, nan_ok=True)


def test_seeds_are_drawn_if_two_captions_share_one():
    assert shared(["a", "a", "b", "b"], [0, 1, 0, 1]) == [0, 1, 0, 1]
    assert shared(["a", "a", "b", "b"], [0, 1, 1, 2]) == [0, 1, 1, 2]
    assert shared(["a", "a", "b", "b"], [0, 1, 2, 3]) is None
    assert shared(["a", "a"], [0, 1]) == [0, 1]


def test_one_search_has_no_interval_and_neither_has_none():
    for values in (np.zeros(0), np.ones(1), np.ones(2)):
        drawn = draws(values, ["a"] * len(values))
        assert drawn.shape == (DRAWS,) and np.isnan(interval(drawn)).all()


def test_an_interval_is_the_middle_95_percent():
    drawn = np.append(np.arange(1001) / 1000, np.nan)
    assert interval(drawn) == pytest.approx((0.025, 0.975))
    low, high = interval(np.stack([drawn, 2 * drawn], 1))
    assert low == pytest.approx([0.025, 0.05]) and high == pytest.approx([0.975, 1.95])


@pytest.mark.parametrize(
    ("spread", "low", "high"),
    [
        ((0.2, 0.02, 0.05), 0.89, 0.98),  # captions matter most: single searches drawn would cover 47%
        ((0.05, 0.2, 0.05), 0.85, 0.97),  # seeds do: captions drawn alone would cover 25%; 10 seeds are few
        ((0.02, 0.02, 0.2), 0.97, 1.0),  # neither does: on the wide side
    ],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(spread, low, high):
    captions, seeds = crossed(30, 10)
    rng, trials = np.random.default_rng(0), 300
    parts = zip(spread, ((30, 1), (1, 10), (30, 10)), strict=True)
    values = sum(rng.normal(0, s, (*shape, trials)) for s, shape in parts)
    ends = interval(draws(values.reshape(-1, trials), captions, seeds))
    assert low <= np.mean((ends[0] <= 0) & (ends[1] >= 0)) <= high  # 95%, with 3 standard errors of 300 trials
