"""What a rule of `sequential` would have done with a tuning run's noises, on average over their orders.

Expectations are over all orders in which a search may draw its noises, in closed form. A noise that is given up at a
look costs what it took to make it so far, and the scores of its looks so far; one that is finished costs all its steps
and scores; an answer that was given up is finished.

Shapes: S searches, N noises of each, K looks, E values of `enough`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from raysearch.bars.rollouts import Rollouts
from raysearch.recipe.digests import digest

ORDERS = 200  # of a search's noises, for the distribution of its latency


@dataclass(frozen=True)
class Rule:
    """Arguments of `sequential`."""

    looks: tuple[int, ...]
    bars: tuple[float, ...]
    enough: float | None
    n: int


@dataclass(frozen=True)
class Expected:
    """What rules are expected to do with searches: reward of the answer, cost, chance that one reaches `enough`."""

    reward: np.ndarray
    cost: np.ndarray
    success: np.ndarray


class Fates:
    """What becomes of each noise under some looks and bars, whatever `enough` and n are."""

    def __init__(self, of: Rollouts, looks: Sequence[int], bars: Sequence[float]) -> None:
        at = [of.looks.index(t) for t in looks]
        seen = of.seen[:, :, at]  # (S, N, looks)
        poor = np.concatenate([seen < np.array(bars), np.ones((*of.reward.shape, 1), bool)], 2)
        self.end = poor.argmax(2)  # (S, N): the look that gives it up; the number of looks if none does
        self.finished = self.end == len(at)
        self.reward, self.closing = of.reward, of.closing
        looking = np.concatenate([of.looking[:, :, at].cumsum(2), np.zeros((*of.reward.shape, 1))], 2)
        looking[:, :, -1] = looking[:, :, -2] if at else 0
        until = np.concatenate([of.until[:, :, at], of.made[:, :, None]], 2)
        pick = self.end[:, :, None]
        made = np.take_along_axis(until, pick, 2)[:, :, 0]
        self.cost = made + np.take_along_axis(looking, pick, 2)[:, :, 0] + np.where(self.finished, of.judging, 0)
        self.rest = np.maximum(of.made - made, 0)  # to finish it as the answer
        last = np.take_along_axis(np.concatenate([seen, of.reward[:, :, None]], 2), pick, 2)[:, :, 0]
        # The answer is the first of this order among the noises that were tried: see `sequential`.
        self.order = np.lexsort((-last, -self.end))  # (S, N)
        self.key = np.stack([self.end, last], 2)

    def ranked(self, values: np.ndarray) -> np.ndarray:
        """Values (S, N) of the noises, the best noise first; noises that tie have the mean of theirs.

        Which of them is asked first, and so is the answer, is as likely for each.
        """
        key = np.take_along_axis(self.key, self.order[:, :, None], 1)
        new = np.ones(self.order.shape, bool)
        new[:, 1:] = (key[:, 1:] != key[:, :-1]).any(2)
        group = new.ravel().cumsum() - 1
        sums = np.bincount(group, np.take_along_axis(values, self.order, 1).ravel())
        means: np.ndarray = (sums / np.bincount(group))[group].reshape(values.shape)
        return means


def expected(f: Fates, enough: Sequence[float | None], batch: int) -> Expected:
    """The means over all orders of the noises, (S, E, N): [s, e, n - 1] is of at most n noises.

    With noises ranked from the best on, the s that reach `enough` come first. The search ends with a round of d noises
    after m others if none of the m reaches it and one of the d does; else with n noises of which none does.
    """
    size = f.reward.shape[1]
    n = np.arange(1, size + 1)
    m = (n - 1) // batch * batch  # noises before the last round of each n
    d = n - m
    level = np.array([np.inf if e is None else e for e in enough])
    s = (f.finished[:, :, None] & (f.reward[:, :, None] >= level)).sum(1)  # (S, E)
    none_before = _ratios(size, m)[s]  # (S, E, N): no noise before the last round reaches `enough`
    none = _ratios(size, n)[s]
    j = np.arange(1, size + 1)
    best_of_all = _chance([[comb(size - r, k - 1) / comb(size, k) for r in j] for k in n])
    best_of_round = _chance(
        [[comb(max(size - b - r, 0), k - 1) / comb(size - b, k) for r in j] for b, k in zip(m, d, strict=True)]
    )
    reward, rest = f.ranked(f.reward), f.ranked(f.rest)
    ended = none_before * _below(best_of_round, reward, s)
    cost = np.take_along_axis(f.cost, f.order, 1)
    good = np.concatenate([np.zeros((len(cost), 1)), cost.cumsum(1)], 1)
    dear = np.take_along_axis(good, s, 1)[:, :, None]  # the cost of all that reach `enough`, (S, E, 1)
    others = cost.sum(1)[:, None, None] - dear
    left = np.maximum(size - s[:, :, None] - m, 0) / np.maximum(size - s[:, :, None], 1)  # of the others
    paid = none_before * d / (size - m) * (dear + others * left)
    return Expected(
        _rounds(ended, batch) + _above(best_of_all, reward, s),
        _rounds(paid, batch) + _above(best_of_all, rest, s) + f.closing[:, None, None],
        1 - none,
    )


def _chance(rows: list[list[float]]) -> np.ndarray:
    """A table of chances: [n - 1, r - 1] that the noise of rank r is the best one of a random choice."""
    return np.array(rows, float)


def _ratios(size: int, drawn: np.ndarray) -> np.ndarray:
    """(N + 1, N): the chance that a random choice of so many noises holds none of s."""
    return np.array([[comb(size - s, k) / comb(size, k) for k in drawn.tolist()] for s in range(size + 1)])


def _below(chance: np.ndarray, values: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Sums of chance times value over the first s ranks, (S, E, N)."""
    sums = np.zeros((values.shape[1] + 1, len(values), len(chance)))
    sums[1:] = (values[:, None, :] * chance).transpose(2, 0, 1).cumsum(0)
    found: np.ndarray = sums[s, np.arange(len(values))[:, None]]
    return found


def _above(chance: np.ndarray, values: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Sums of chance times value over all ranks but the first s, (S, E, N)."""
    found: np.ndarray = (values @ chance.T)[:, None, :] - _below(chance, values, s)
    return found


def _rounds(last: np.ndarray, batch: int) -> np.ndarray:
    """Sums over the rounds of each n, where `last` (S, E, N) has its last round."""
    whole = last[:, :, batch - 1 :: batch].cumsum(2)
    before = np.concatenate([np.zeros((*last.shape[:2], 1)), whole], 2)
    summed: np.ndarray = last + before[:, :, np.arange(last.shape[2]) // batch]
    return summed


def measured(of: Rollouts, rule: Rule, batch: int) -> Expected:
    """What one rule is expected to do with each search, (S,) each."""
    e = expected(Fates(of, rule.looks, rule.bars), [rule.enough], batch)
    return Expected(*(x[:, 0, rule.n - 1] for x in (e.reward, e.cost, e.success)))


def best_of(of: Rollouts, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The expected reward and cost (S,) of best-of-n."""
    everything = expected(Fates(of, (), ()), [None], 1)
    return everything.reward[:, 0, n - 1], everything.cost[:, 0, n - 1]


def latencies(of: Rollouts, rule: Rule, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rounds of noises, and the cost of what is done one after the other, (S, ORDERS) each, for orders of the noises.

    The noises of a round are made at the same time, and the dearest one counts.
    """
    f = Fates(of, rule.looks, rule.bars)
    size = of.noises
    orders = np.stack([_generator(i).permuted(np.tile(np.arange(size), (ORDERS, 1)), axis=1) for i in of.ids])
    orders = orders[:, :, : rule.n]  # (S, ORDERS, n)

    def drawn(values: np.ndarray) -> np.ndarray:
        taken: np.ndarray = np.take_along_axis(np.broadcast_to(values[:, None], (*orders.shape[:2], size)), orders, 2)
        return taken

    def in_rounds(values: np.ndarray) -> np.ndarray:
        whole = np.zeros((*orders.shape[:2], -(-rule.n // batch) * batch))
        whole[:, :, : rule.n] = drawn(values)
        dearest: np.ndarray = whole.reshape(*orders.shape[:2], -1, batch).max(3)
        return dearest

    good = in_rounds(f.finished & (of.reward >= (np.inf if rule.enough is None else rule.enough))) > 0
    rounds = np.where(good.any(2), good.argmax(2) + 1, good.shape[2])
    gone = in_rounds(f.cost).cumsum(2)
    rest = drawn(f.rest)
    rank = drawn(f.order.argsort(1))
    answer = np.take_along_axis(rest, rank.argmin(2)[:, :, None], 2)[:, :, 0]  # 0 if any was finished
    one_by_one = np.take_along_axis(gone, rounds[:, :, None] - 1, 2)[:, :, 0]
    return rounds, one_by_one + np.where(good.any(2), 0, answer) + of.closing[:, None]


def _generator(search_id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(digest("orders", search_id), "big"))
