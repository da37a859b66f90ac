"""Curves and laws over tables that are made up: intervals against what is known, fits against the law."""

import numpy as np
import pyarrow as pa
import pytest

from raysearch.bootstrap import draws, interval
from raysearch.sweep import curves, report


def made(points, prompts, seeds, value, cost=lambda c: c, **more):
    """Rows of one curve: value(rng-free caption index, seed, c)."""
    rows = [
        {
            **{"curve": "x", "policy": "p", "arm": f"x-{c:g}", "prompt": f"caption {i}", "seed": j, "status": "done"},
            "search_id": f"{i:06d}-s{j}-x-{c:g}",
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
    laws = curves.fits(curves.curves(table, "x-60"))
    (log,) = (f for f in laws if f.form == "log")
    for truth, (value, low, high) in zip((0.2, 0.15), log.parameters.values(), strict=True):
        assert low <= truth <= high
        assert low <= value <= high
        assert high - low < 0.3
    assert log.r2 > log.adjusted_r2 > 0.99
    assert log.adjusted_r2 == pytest.approx(1 - (1 - log.r2) * 6 / 5)  # 7 points, 2 parameters


def test_a_power_law_is_found_within_its_intervals_and_chosen():
    table = made(BUDGETS, 40, 3, noisy(lambda c: 2.0 - 8.0 * c**-0.6, 2))
    laws = curves.fits(curves.curves(table, "x-60"))
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
        laws = curves.fits(curves.curves(made(budgets, 20, 2, noisy(law, 0)), "x-60"))
        return [f.form for f in laws]

    assert forms([60, 120]) == []
    assert forms([60, 120, 240]) == ["log"]
    assert forms([60, 120, 240, 480]) == ["log", "power"]
    (flat, _) = curves.fits(curves.curves(made([60, 120, 240, 480], 20, 2, lambda i, j, k, c: 0.5), "x-60"))
    assert np.isnan(flat.r2) and not flat.chosen
    found = curves.curves(table := made([60, 120], 20, 2, lambda i, j, k, c: 0.5), "x-60")
    assert "none: a fit needs at least 3 budgets" in report.summary(table, found, [], "x-60")


def test_a_law_whose_exponent_is_at_the_end_of_the_grid_is_not_chosen():
    laws = curves.fits(curves.curves(made(BUDGETS, 20, 2, lambda i, j, k, c: float(k > 0)), "x-60"))
    log, power = laws
    assert curves.at_the_edge(power) and power.adjusted_r2 > log.adjusted_r2
    assert log.chosen and not power.chosen


def test_what_is_missing_is_left_out_and_counted():
    def value(i, j, k, c):
        return float("nan") if (i + k) % 4 == 0 else float(i)

    table = made([60, 120], 8, 2, value, status=lambda r: "failed" if r["prompt"] == "caption 7" else "done")
    (c,) = curves.curves(table, "x-60")
    assert c.means["reward_search"].n.tolist() == [10, 12]
    assert c.means["reward_search"].mean.tolist() == [np.mean([1, 2, 3, 5, 6]), np.mean([0, 1, 2, 4, 5, 6])]
    assert np.isfinite(interval(c.means["reward_search"].draws[:, 0])).all()
    assert "**4 searches failed" in report.summary(table, [c], [], "x-60")


def test_one_search_has_no_interval_and_one_caption_has_that_of_its_seeds():
    (c,) = curves.curves(made([60], 1, 1, lambda i, j, k, c: 0.5), "x-60")
    assert np.isnan(interval(c.means["reward_search"].draws[:, 0])).all()
    (c,) = curves.curves(made([60], 1, 8, lambda i, j, k, c: float(j)), "x-60")
    low, high = interval(c.means["reward_search"].draws[:, 0])
    assert 1 < low < 3.5 < high < 6


def test_equal_budgets_are_read_off_between_points_and_never_beyond_them():
    table = made([60, 240], 4, 2, lambda i, j, k, c: i + k * (1 + i / 10), cost=lambda c: c / 10)
    (c,) = curves.curves(table, "x-60")
    for cost, unit in (("replica_seconds", 1), ("nfe", 10)):
        assert curves.budgets([c], cost) == [6 * unit, 12 * unit, 24 * unit]
        at = [curves.at(c, "reward_search", budget * unit, cost) for budget in (3, 6, 12, 24, 48)]
        assert [a if a is None else round(a[0], 9) for a in at] == [None, 0, 0.575, 1.15, None]  # gains, not means
        assert at[2][1] < 0.575 < at[2][2]


def test_the_gap_is_of_the_same_winners():
    table = made(
        [60, 120], 4, 2, lambda i, j, k, c: k + 1.0, reward_holdout=lambda r: 0.5, holdout_success=lambda r: 1.0
    )
    for rows in (table, table.append_column("reward_final", table["reward_search"])):  # the held-out one judges
        (c,) = curves.curves(rows, "x-60")
        assert c.means["gap"].mean.tolist() == [0.5, 1.5]
        assert list(curves.shown([c])) == ["reward_search", "reward_holdout", "holdout_success", "gap"]


def test_searches_that_their_budget_ended_count():
    table = made([60], 4, 2, lambda i, j, k, c: float(i), status=lambda r: "budget" if r["seed"] else "done")
    (c,) = curves.curves(table, "x-60")
    assert c.means["reward_search"].n.tolist() == [8]
    assert "failed" not in report.summary(table, [c], [], "x-60")


def test_the_seed_of_the_bootstrap_is_fixed():
    table = made(BUDGETS, 10, 2, noisy(lambda c: np.log(c), 3, prompts=10))
    one, two = curves.curves(table, "x-60"), curves.curves(table, "x-60")
    assert curves.curve_table(one).equals(curves.curve_table(two))
    assert curves.fit_table(curves.fits(one)).equals(curves.fit_table(curves.fits(two)))


# -- gains -----------------------------------------------------------------------------------------------------------


def arms(values, seeds=(0,), apart=False):
    """Rows of arms with these judged rewards of captions and seeds, (captions, seeds) each; None is a failed search."""
    rows = [
        {
            **{"search_id": f"{i:06d}-s{s}-{arm}", "curve": arm, "policy": "p", "arm": arm, "prompt": f"caption {i}"},
            **{"seed": s, "status": "failed" if v is None else "done", "reward_holdout": v, "holdout_success": 1.0},
            **{"nfe": 10.0 * (k + 1), "nfe_alone": 10.0 * (k + 1), "nfe_spent": 10.0, "replica_seconds": 1.0 + k},
            **{"wall_seconds": 1.0},
        }
        for k, (arm, of) in enumerate(values.items())
        for i, caption in enumerate(of)
        for s, v in zip([s + i * len(seeds) * apart for s in seeds], caption, strict=True)
    ]
    return pa.Table.from_pylist(rows)


def gains(table, baseline="base"):
    """(gain in the judged reward, low, high, pairs) by arm."""
    found = {c.label: c.gains["reward_holdout"] for c in curves.curves(table, baseline)}
    return {arm: (*g.cell(0), int(g.n[0])) for arm, g in found.items()}


def test_gains_are_paired_differences_worked_out_by_hand():
    table = arms(
        {
            "base": [[1.0], [2.0], [4.0], [None]],
            "more": [[1.5], [3.0], [4.0], [9.0]],  # 0.5, 1 and 0; the baseline has no fourth
            "less": [[0.0], [None], [3.0], [0.0]],  # -1 and -1
            "lone": [[None], [None], [None], [5.0]],  # no pair
        }
    )
    found = gains(table)
    assert found["base"] == (0, 0, 0, 3)
    assert found["more"][0] == pytest.approx(0.5) and found["more"][3] == 3
    assert 0 <= found["more"][1] < 0.5 < found["more"][2] <= 1
    assert found["less"] == (-1, -1, -1, 2)  # captions differ much, and the arms by the same in each
    assert np.isnan(found["lone"][:3]).all() and found["lone"][3] == 0
    assert gains(table, "less")["more"][0] == pytest.approx(11.5 / 3)  # 1.5, 1 and 9
    means = {c.label: c.means["reward_holdout"].mean[0] for c in curves.curves(table, "base")}
    assert means["more"] == 17.5 / 4 and means["lone"] == 5
    rows = {r["arm"]: r for r in curves.curve_table(curves.curves(table, "base")).to_pylist()[::2]}
    assert {r["measure"] for r in rows.values()} == {"reward_holdout"}
    assert [rows["more"][k] for k in ("mean", "n", "difference", "pairs")] == [17.5 / 4, 4, 0.5, 3]
    assert rows["less"]["difference_low"] == rows["less"]["difference_high"] == -1
    text = report.summary(table, curves.curves(table, "base"), [], "base")
    assert "A gain is over `base`, paired" in text
    assert "| less | 3 | 30 | 10 | 3 | 2 | -1.000 [-1.000, -1.000] |" in text
    assert "## Gain in held-out reward at equal NFE" in text and "## Gain in success at equal replica-seconds" in text


@pytest.mark.parametrize("apart", [False, True])
def test_pairing_takes_the_luck_of_captions_and_noises_out_of_an_interval(apart):
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 1, (40, 1)) + rng.normal(0, 1, (40, 3) if apart else (1, 3))
    values = {"base": luck, "arm": luck + 0.2 + rng.normal(0, 0.05, (40, 3))}
    table = arms({k: v.tolist() for k, v in values.items()}, (0, 1, 2), apart)
    _, low, high, pairs = gains(table)["arm"]
    assert pairs == 120 and low < 0.2 < high and high - low < 0.06
    means = {c.label: c.means["reward_holdout"] for c in curves.curves(table, "base")}
    _, low, high = means["arm"].cell(0)
    assert high - low > 0.4
    captions, seeds = [f"caption {i}" for i in range(40) for _ in range(3)], None if apart else [0, 1, 2] * 40
    assert (low, high) == interval(draws(values["arm"].ravel(), captions, seeds))


def test_gains_of_one_caption_or_one_seed():
    one_caption = gains(arms({"base": [[0.0, 1.0, 2.0]], "arm": [[1.0, 1.0, 5.0]]}, (0, 1, 2)))["arm"]
    assert one_caption[0] == pytest.approx(4 / 3) and one_caption[1] < 4 / 3 < one_caption[2]
    one_seed = gains(arms({"base": [[0.0], [1.0], [2.0]], "arm": [[1.0], [1.0], [5.0]]}))["arm"]
    assert one_seed[0] == pytest.approx(4 / 3) and one_seed[1] < 4 / 3 < one_seed[2]
    (gain, low, high, pairs) = gains(arms({"base": [[0.0]], "arm": [[1.0]]}))["arm"]
    assert (gain, pairs) == (1, 1) and np.isnan([low, high]).all()


def test_without_the_baseline_the_summary_says_why_there_are_no_gains():
    table = arms({"base": [[None], [None]], "more": [[1.0], [2.0]]})
    text = report.summary(table, curves.curves(table, "base"), [], "base")
    assert "**No search of `base` has finished" in text and "2 captions x 1 seed." in text
    assert "| more | 2 | 20 | 10 | 2 | 0 | – | – | 1.500 [1.000, 2.000] | 1.000 [1.000, 1.000] |" in text
    assert "No search of" not in report.summary(table, curves.curves(table, "more"), [], "more")


def test_an_arm_with_another_reward_than_the_baseline_has_no_gain_in_it():
    table = arms({"base": [[1.0], [2.0]], "other": [[30.0], [40.0]], "same": [[2.0], [4.0]]})
    table = table.append_column("reward_search", pa.array([1.0] * 6))
    found = {c.label: c for c in curves.curves(table, "base", {("other", "holdout"), ("same", "search")})}
    judged = ("reward_holdout", "holdout_success", "gap")
    pairs = {arm: [int(c.gains[m].n[0]) for m in (*judged, "reward_search")] for arm, c in found.items()}
    assert pairs == {"base": [2, 2, 2, 2], "other": [0, 0, 0, 2], "same": [2, 2, 0, 0]}
    assert [int(found["other"].means[m].n[0]) for m in judged] == [2, 2, 2]


class Axes:
    """Remembers what is drawn."""

    def plot(self, x, y, **look):
        self.points = x, y

    def vlines(self, x, low, high, **look):
        self.bars = x, low, high


def test_a_curve_is_drawn_with_each_interval_at_its_point():
    (c,) = curves.curves(made([240, 60, 120], 12, 2, noisy(lambda c: np.log(c), 0)), "x-60")
    drawn = []
    for i in range(2):
        axes = Axes()
        report._draw(axes, c.means["reward_search"], c.costs["nfe"], "x", i, 2)
        (x, y), (at, low, high) = axes.points, axes.bars
        assert (x == at).all() and (np.diff(x) > 0).all() and y == pytest.approx(np.log([60, 120, 240]), abs=0.3)
        assert [(m, a, b) for m, a, b in zip(y, low, high, strict=True)] == [
            c.means["reward_search"].cell(k) for k in range(3)
        ]
        drawn.append(x)
    assert drawn[1] / drawn[0] == pytest.approx([2**report.APART] * 3)
    assert np.sqrt(drawn[0] * drawn[1]) == pytest.approx([60, 120, 240])


def test_pictures_have_gains_but_for_the_gap_between_both_rewards(monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "_draw", lambda axes, means, *more: drawn.append(means))
    table = arms({"base": [[1.0], [2.0]]}).append_column("reward_search", pa.array([1.0, 2.0]))
    (c,) = curves.curves(table, "base")
    report.plots([c], "base")
    wanted = [c.gains["reward_holdout"], c.gains["holdout_success"], c.means["gap"]]
    assert [id(m) for m in drawn] == [id(m) for m in wanted for _ in range(2)]


def test_what_is_compared_and_which_pictures_there_are():
    search = made([60, 120], 4, 2, lambda i, j, k, c: k + 1.0)
    found = curves.curves(search, "x-60")
    assert list(curves.compared(found)) == ["reward_search"] and list(report.plots(found, "x-60")) == ["curves.png"]
    both = curves.curves(arms({"base": [[1.0], [2.0]], "arm": [[2.0], [2.0]]}), "base")
    assert list(curves.compared(both)) == ["reward_holdout", "holdout_success"]
    pictures = report.plots(both, "base")
    assert list(pictures) == ["curves.png", "success.png"]
    assert all(p.startswith(b"\x89PNG") for p in pictures.values())
    assert list(report.plots([], "base")) == ["curves.png"]
