"""Allocators against plain loops, and the rounds in which they share a total out: whatever is done first."""

import random
from math import ceil, erf, exp, inf, pi, sqrt
from statistics import NormalDist

import numpy as np
import pytest

from policies.allocators import expected_improvement, lowest_best, threshold, uniform
from raysearch.config.allocation import Standing
from raysearch.session.allocation import MARGIN, Rounds


def standing(trials, best, cost=None, open_=None) -> Standing:
    n = len(trials)
    cost = [60.0 * k for k in trials] if cost is None else cost
    return Standing(*map(np.array, (trials, best, cost, [True] * n if open_ is None else open_)))


# -- each allocator once more, as a plain loop over lists ------------------------------------------------------------


def plain_uniform(s):
    return [i for i in range(len(s.trials)) if s.open[i]]


def plain_lowest_best(s, *, cap=12, share=0.1):
    left = [i for i in range(len(s.trials)) if s.open[i] and s.trials[i] < cap]
    picks = []
    while left and len(picks) < ceil(share * len(s.trials)):
        lowest = left[0]
        for i in left:
            if s.best[i] < s.best[lowest]:
                lowest = i
        picks.append(lowest)
        left.remove(lowest)
    return picks


def plain_threshold(s, *, enough, cap=12):
    return [i for i in range(len(s.trials)) if s.open[i] and s.best[i] < enough and s.trials[i] < cap]


def plain_expected_improvement(s, *, cap=12, share=0.1, within=0.8):
    n = len(s.trials)
    e = [NormalDist().inv_cdf((k - 0.375) / (k + 0.25)) for k in s.trials]
    seen = [i for i in range(n) if s.best[i] > -inf]
    able = [i for i in range(n) if s.open[i] and s.trials[i] < cap]
    scale = 0.0
    for _ in range(20):
        x = {i: s.best[i] - e[i] * sqrt(within) * scale for i in seen}
        mean = sum(x.values()) / len(seen) if seen else 0.0
        if seen:
            spread = sqrt(sum((v - mean) ** 2 for v in x.values()) / len(seen))
            scale = spread / sqrt(sum(1 - within + within / sqrt(s.trials[i]) for i in seen) / len(seen))
    if not scale:
        return able[: ceil(share * n)]

    def worth(i):
        if i not in x:
            return inf
        rho = (1 - within) / (1 - within + within / sqrt(s.trials[i]))
        v = scale**2 * (within + (1 - rho) * (1 - within))
        z = (mean + rho * (x[i] - mean) - s.best[i]) / sqrt(v)
        cumulative, density = (1 + erf(z / sqrt(2))) / 2, exp(-(z**2) / 2) / sqrt(2 * pi)
        return sqrt(v) * (z * cumulative + density) / (s.cost[i] / s.trials[i])

    return sorted(able, key=lambda i: -worth(i))[: ceil(share * n)]


TWINS = [
    (uniform, plain_uniform, [{}]),
    (lowest_best, plain_lowest_best, [{}, {"cap": 3}, {"share": 1.0}, {"share": 0.01}]),
    (threshold, plain_threshold, [{"enough": 0.5}, {"enough": 2.0, "cap": 3}, {"enough": -9.0}]),
    (
        expected_improvement,
        plain_expected_improvement,
        [{}, {"within": 0.2}, {"cap": 2, "share": 0.6}, {"within": 1.0}],
    ),
]


@pytest.mark.parametrize(("module", "plain", "arguments"), TWINS, ids=lambda v: getattr(v, "__name__", ""))
def test_an_allocator_picks_what_a_plain_loop_does(module, plain, arguments):
    rng = random.Random(0)
    for case in range(150):
        n = rng.choice([1, 2, 5, 30])
        best = [rng.choice([-inf, 0.5, rng.gauss(0, 1), rng.gauss(0, 1)]) for _ in range(n)]
        trials = [rng.randint(1, 5) for _ in range(n)]
        cost = [k * rng.choice([24.0, 60.0]) for k in trials]
        s = standing(trials, best, cost, [rng.random() < 0.8 for _ in range(n)])
        for given in arguments:
            assert list(module.allocate(s, **given)) == plain(s, **given), (case, given)


def test_tables_by_hand():
    s = standing([1, 2, 3, 1, 4], [0.9, 0.1, 0.5, 0.1, -inf], open_=[True, True, True, True, False])
    assert list(uniform.allocate(s)) == [0, 1, 2, 3]
    assert list(lowest_best.allocate(s, share=0.4)) == [1, 3]  # of equals the first
    assert list(lowest_best.allocate(s, share=0.4, cap=2)) == [3, 0]
    assert list(threshold.allocate(s, enough=0.5)) == [1, 3]
    assert list(threshold.allocate(s, enough=0.9, cap=3)) == [1, 3]


def test_expected_improvement_prefers_the_low_the_little_tried_and_the_cheap():
    share = {"share": 1.0}
    assert list(expected_improvement.allocate(standing([1, 1, 1], [0.9, 0.1, 0.5]), **share)) == [1, 2, 0]
    same = standing([1, 4, 1, 2], [0.4, 0.4, 1.0, 1.2])
    assert expected_improvement.allocate(same, **share)[0] == 0  # four trials without more say that it is hard
    cheap = standing([1, 1, 1], [0.1, 0.1, 0.9], [60.0, 30.0, 60.0])
    assert list(expected_improvement.allocate(cheap, **share)) == [1, 0, 2]


# -- rounds ----------------------------------------------------------------------------------------------------------


def world(rng, n, *, most=15):
    """What each search's trials bring: (best, cost) after each, and with how many it ends by itself."""
    states, ends = [], []
    for _ in range(n):
        best, cost, own = -inf, 0.0, []
        for _ in range(most):
            best, cost = max(best, rng.choice([rng.gauss(0, 1), 0.25])), cost + rng.choice([24, 60, 60])
            own.append((best, cost))
        states.append(own)
        ends.append(rng.choice([1, 3, most, most, most]))
    return states, ends


def synchronous(states, ends, allocate, total, least):
    """The trials of each search, decided round by round, with everything known in between."""
    n = len(states)
    trials, price, covered = [1] * n, least, None
    while True:
        now = [states[i][trials[i] - 1] for i in range(n)]
        spent = sum(cost for _, cost in now)
        if covered is None:
            first = states[0][0][1]
            covered = 2 * n * (least if first <= least else MARGIN * first) <= total
        for i in range(n):
            for before, after in zip([(0, 0.0), *states[i]], states[i][: trials[i]], strict=False):
                price = max(price, after[1] - before[1])
        open_ = [trials[i] < ends[i] for i in range(n)]
        s = standing(trials, [best for best, _ in now], [cost for _, cost in now], open_)
        picks = [i for i in allocate(s) if open_[i]]
        if not covered:
            picks = picks[: max(int((total - spent) // price), 0)]
        if not picks:
            return trials
        for i in picks:
            trials[i] += 1
        covered = spent + price * (len(picks) + sum(trials[i] < ends[i] for i in range(n))) <= total


def driven(states, ends, allocate, total, least, order, *, early):
    """The same by `Rounds`, where trials are done in a random order."""
    n = len(states)
    rounds = Rounds(n, lambda s: np.array([i for i in allocate(s) if s.open[i]], int), total, least, early)
    running, ahead = set(range(n)), 0
    while running:
        i = order.choice(sorted(running))
        running.remove(i)
        done = rounds.made[i] + 1
        begin = rounds.report(i, *states[i][done - 1], left=bool(done == ends[i]))
        assert not running & set(begin)
        running |= set(begin)
        ahead += int((rounds.granted > rounds.settled).sum())
    assert rounds.over
    return rounds, ahead


ALLOCATORS = [
    (uniform, {}),
    (lowest_best, {"share": 0.3}),
    (lowest_best, {"share": 0.3, "cap": 3}),
    (threshold, {"enough": 1.0, "cap": 5}),
    (expected_improvement, {}),
]


@pytest.mark.parametrize(("module", "given"), ALLOCATORS, ids=lambda v: getattr(v, "__name__", ""))
def test_rounds_give_what_synchronous_ones_would_whatever_is_done_first(module, given):
    early = getattr(module.allocate, "steady", False)
    ahead = 0
    for seed in range(60):
        rng = random.Random(seed)
        n = rng.choice([1, 2, 7, 12])
        states, ends = world(rng, n)
        total = n * 60 * rng.choice([1, 1.5, 2, 3, 4, 8])
        decided = synchronous(states, ends, lambda s: module.allocate(s, **given), total, 60)
        for again in {False, early}:
            rounds, begun = driven(states, ends, lambda s: module.allocate(s, **given), total, 60, rng, early=again)
            assert rounds.made.tolist() == decided, (seed, again)
            ahead += begun
        assert rounds.cost.sum() <= total
        if module is uniform and any(t < e for t, e in zip(decided, ends, strict=True)):
            assert total - rounds.cost.sum() < 60  # to within one trial
    assert bool(ahead) == early


def test_the_price_is_the_dearest_trial_so_far_and_what_cannot_be_paid_is_cut_off():
    rounds = Rounds(3, lambda s: np.array([2, 0, 1]), 300, 60, False)
    for i, cost in enumerate((60, 90, 60)):
        rounds.report(i, 0.0, cost)
    assert rounds.granted.tolist() == [1, 1, 2]  # 90 are left, the price of one
    rounds.report(2, 0.0, 130)
    assert rounds.over and rounds.decided == 2


def granted_after(first, total):
    """The trials granted to two searches, each at least 60 NFE, when the first has made one that cost `first`."""
    rounds = Rounds(2, lambda s: np.flatnonzero(s.open), total, 60, True)
    rounds.report(0, 0.0, first)
    return rounds.granted.tolist()


def test_no_early_start_before_the_next_round_is_certainly_paid():
    assert granted_after(60, 240) == [2, 1]
    assert granted_after(60, 239) == [1, 1]


@pytest.mark.parametrize("early", [False, True])
def test_a_round_that_was_certainly_paid_is_paid_even_if_a_trial_becomes_dearer(early):
    """Early starts or not: what may have begun must not depend on when it was asked."""
    rounds = Rounds(2, lambda s: np.flatnonzero(s.open), 240, 60, early)
    rounds.report(0, 0.0, 60)
    rounds.report(1, 0.0, 150)
    assert rounds.granted.tolist() == [2, 2]


def test_a_restored_search_is_open_as_it_was():
    seen = []
    rounds = Rounds(3, lambda s: seen.append(s.open.tolist()) or np.array([], int), 999, 60, False)
    rounds.restore(0, [(0.0, 60.0)], left=False)
    rounds.restore(1, [(0.0, 60.0)], left=True)
    rounds.report(2, 0.0, 60)
    assert seen == [[True, False, True]]


def test_a_dear_first_trial_has_a_margin():
    assert granted_after(100, 600) == [2, 1]
    assert granted_after(100, 599) == [1, 1]


def test_a_search_that_has_left_is_not_open_again_and_one_that_asks_twice_made_one_trial():
    rounds = Rounds(2, lambda s: np.flatnonzero(s.open), 999, 60, False)
    assert rounds.report(0, 0.0, 60) == rounds.report(0, 1.0, 90) == []
    assert (rounds.made[0], rounds.states[0]) == (1, [(0.0, 60)])
    assert rounds.report(1, 0.0, 60, left=True) == [0]
    assert rounds.report(1, 1.0, 90) == [] and rounds.left(1)
    assert rounds.report(0, 0.0, 120) == [0] and rounds.settled.tolist() == [3, 1]


def test_best_never_falls():
    seen = []
    rounds = Rounds(1, lambda s: seen.append(s.best[0]) or np.array([0]), 200, 60, False)
    rounds.report(0, 1.0, 60)
    rounds.report(0, 0.5, 120)
    assert seen == [1.0, 1.0]


def test_restored_searches_take_part_and_are_not_granted_more_than_they_made():
    states, ends = world(random.Random(1), 6)
    whole, _ = driven(states, ends, lowest_best.allocate, 1000, 60, random.Random(2), early=True)
    for kept in range(64):
        rounds = Rounds(6, lowest_best.allocate, 1000, 60, True)
        for i in range(6):
            if kept >> i & 1:
                rounds.restore(i, whole.states[i], left=whole.left(i))
        live = [i for i in range(6) if not kept >> i & 1]
        for i in live:  # each runs as far as it may, in turns
            rounds.report(i, *states[i][0], left=ends[i] == 1)
        while ready := [i for i in live if rounds.granted[i] > rounds.made[i]]:
            k = rounds.made[ready[-1]]
            rounds.report(ready[-1], *states[ready[-1]][k], left=bool(k + 1 == ends[ready[-1]]))
        assert rounds.made.tolist() == whole.made.tolist()
        assert rounds.over or not live
