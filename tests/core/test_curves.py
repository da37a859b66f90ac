"""Curves and laws over tables that are made up: intervals against what is known, fits against the law."""

import numpy as np
import pyarrow as pa
import pytest

from raysearch.bootstrap import interval
from raysearch.sweep import curves, report


def made(points, prompts, seeds, value, cost=lambda c: c, **more):
    """Rows of one curve: value(rng-free caption index, seed, c)."""
    rows = [
        {
            **{"curve": "x", "policy": "p", "arm": f"x-{c:g}", "prompt": f"caption {i}", "seed": j, "status": "done"},
            **{"nfe": float(c), "nfe_alone": float(c), "nfe_spent": 0.0, "wall_seconds": 1.0},
            **{"replica_seconds": float(cost(c)), "axis_policy.n": c, "reward_search": value(i, j, k, c)},
        }
        for k, c in enumerate(points)
        for i in range(prompts)
        for j in range(seeds)
    ]
    return pa.Table.from_pylist([r | {k: f(r) for k, f in more.items()} for r in rows])


def noisy(law, seed, prompts=40, seeds=3, spread=(0.2, 0.02, 0.05)):
    """A law seen through a caption's own level and a seed's, shared by all points, and noise of each search."""
    rng = np.random.default_rng(seed)
    caption, shared = rng.normal(0, spread[0], prompts), rng.normal(0, spread[1], seeds)
    noise = rng.normal(0, spread[2], (prompts, seeds, 16))
    return lambda i, j, k, c: float(law(c) + caption[i] + shared[j] + noise[i, j, k])


BUDGETS = [60, 120, 240, 480, 960, 1920, 3840]


def test_a_logarithmic_law_is_found_within_its_intervals():
    table = made(BUDGETS, 40, 3, noisy(lambda c: 0.2 + 0.15 * np.log(c), 1))
    laws = curves.fits(curves.curves(table))
    (log,) = (f for f in laws if f.form == "log")
    for truth, (value, low, high) in zip((0.2, 0.15), log.parameters.values(), strict=True):
        assert low <= truth <= high
        assert low <= value <= high
        assert high - low < 0.3
    assert log.r2 > log.adjusted_r2 > 0.99
    assert log.adjusted_r2 == pytest.approx(1 - (1 - log.r2) * 6 / 5)  # 7 points, 2 parameters


def test_a_power_law_is_found_within_its_intervals_and_chosen():
    table = made(BUDGETS, 40, 3, noisy(lambda c: 2.0 - 8.0 * c**-0.6, 2))
    laws = curves.fits(curves.curves(table))
    (chosen,) = (f for f in laws if f.chosen)
    assert chosen.form == "power"
    for truth, (value, low, high) in zip((2.0, 8.0, 0.6), chosen.parameters.values(), strict=True):
        assert low <= truth <= high
        assert low <= value <= high
    assert chosen.parameters["alpha"][2] - chosen.parameters["alpha"][1] < 0.4


@pytest.mark.parametrize(("form", "truth"), [("log", (1.0, 0.3)), ("power", (2.0, 30.0, 0.9))])
def test_without_noise_a_law_is_found_exactly(form, truth):
    c = np.array(BUDGETS, float)
    y = truth[0] + truth[1] * np.log(c) if form == "log" else truth[0] - truth[1] * c ** -truth[2]
    (values, _, _, r2, _, points) = curves.fit(c, y, np.tile(y, (5, 1)))[form]
    assert values == pytest.approx(truth, rel=0.05)  # the exponents tried are 2% apart
    assert (r2, points) == (pytest.approx(1, abs=1e-4), 7)


def test_nothing_is_fitted_to_too_few_or_equal_points():
    def forms(budgets, law=lambda c: np.log(c)):
        laws = curves.fits(curves.curves(made(budgets, 20, 2, noisy(law, 0))))
        return [f.form for f in laws]

    assert forms([60, 120]) == []
    assert forms([60, 120, 240]) == ["log"]
    assert forms([60, 120, 240, 480]) == ["log", "power"]
    (flat, _) = curves.fits(curves.curves(made([60, 120, 240, 480], 20, 2, lambda i, j, k, c: 0.5)))
    assert np.isnan(flat.r2) and not flat.chosen
    found = curves.curves(table := made([60, 120], 20, 2, lambda i, j, k, c: 0.5))
    assert "none: a fit needs at least 3 budgets" in report.summary(table, found, [])


def test_a_law_whose_exponent_is_at_the_end_of_the_grid_is_not_chosen():
    laws = curves.fits(curves.curves(made(BUDGETS, 20, 2, lambda i, j, k, c: float(k > 0))))
    log, power = laws
    assert curves.at_the_edge(power) and power.adjusted_r2 > log.adjusted_r2
    assert log.chosen and not power.chosen


def test_what_is_missing_is_left_out_and_counted():
    def value(i, j, k, c):
        return float("nan") if (i + k) % 4 == 0 else float(i)

    table = made([60, 120], 8, 2, value, status=lambda r: "failed" if r["prompt"] == "caption 7" else "done")
    (c,) = curves.curves(table)
    assert c.n["reward_search"].tolist() == [10, 12]
    assert c.means["reward_search"].tolist() == [np.mean([1, 2, 3, 5, 6]), np.mean([0, 1, 2, 4, 5, 6])]
    assert np.isfinite(interval(c.draws["reward_search"][:, 0])).all()
    assert "**4 searches failed" in report.summary(table, [c], [])


def test_one_search_has_no_interval_and_one_caption_has_that_of_its_seeds():
    (c,) = curves.curves(made([60], 1, 1, lambda i, j, k, c: 0.5))
    assert np.isnan(interval(c.draws["reward_search"][:, 0])).all()
    (c,) = curves.curves(made([60], 1, 8, lambda i, j, k, c: float(j)))
    low, high = interval(c.draws["reward_search"][:, 0])
    assert 1 < low < 3.5 < high < 6


def test_equal_budgets_are_read_off_between_points_and_never_beyond_them():
    (c,) = curves.curves(made([60, 240], 4, 2, lambda i, j, k, c: float(k) + i / 10, cost=lambda c: c / 10))
    assert curves.budgets([c]) == [6, 12, 24]
    at = [curves.at(c, "reward_search", budget) for budget in (3, 6, 12, 24, 48)]
    assert [a if a is None else round(a[0], 9) for a in at] == [None, 0.15, 0.65, 1.15, None]
    assert at[2][1] < 0.65 < at[2][2]


def test_the_gap_is_of_the_same_winners():
    table = made(
        [60, 120], 4, 2, lambda i, j, k, c: k + 1.0, reward_holdout=lambda r: 0.5, holdout_success=lambda r: 1.0
    )
    for rows in (table, table.append_column("reward_final", table["reward_search"])):  # the held-out one judges
        (c,) = curves.curves(rows)
        assert c.means["gap"].tolist() == [0.5, 1.5]
        assert list(curves.shown([c])) == ["reward_search", "reward_holdout", "holdout_success", "gap"]


def test_searches_that_their_budget_ended_count():
    table = made([60], 4, 2, lambda i, j, k, c: float(i), status=lambda r: "budget" if r["seed"] else "done")
    (c,) = curves.curves(table)
    assert c.n["reward_search"].tolist() == [8]
    assert "failed" not in report.summary(table, [c], [])


def test_the_seed_of_the_bootstrap_is_fixed():
    table = made(BUDGETS, 10, 2, noisy(lambda c: np.log(c), 3, prompts=10))
    one, two = curves.curves(table), curves.curves(table)
    assert curves.curve_table(one).equals(curves.curve_table(two))
    assert curves.fit_table(curves.fits(one)).equals(curves.fit_table(curves.fits(two)))
