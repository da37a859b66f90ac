"""Which rule gains most at a mean cost, and what it is expected to do.

The gain of a rule is the reward of its answer (rewards.search of the finished video) less that of one plain noise. Its
success is the share of searches in which a finished video reaches `enough`.

Shapes: S searches, N noises of each, E values of `enough`.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from raysearch.bars.rollouts import Rollouts
from raysearch.bars.rules import Fates, Rule, best_of, expected, latencies, measured
from raysearch.bootstrap import draws, interval, shared
from raysearch.errors import ConfigError
from raysearch.recipe.digests import digest

BARS = np.arange(1, 10) / 10  # quantiles of the rewards at a look that are tried as its bar
ENOUGH = np.append(np.arange(1, 20) / 20, 0.975)  # quantiles of the finished rewards
MOST_LOOKS = 2
FOLDS = 5
SAME = 1e-9  # of the gains' size: rules whose gains differ by less are told apart by their costs


class Choice:
    """The expected reward and cost of every rule that is tried, summed over the searches of each fold of captions.

    Whatever is chosen for a higher cost is expected to gain at least as much on the searches that it was chosen on.
    """

    def __init__(self, of: Rollouts, batch: int) -> None:
        self.of, self.batch = of, batch
        self.fold = folds(of.captions)  # (S,)
        self._within = np.equal.outer(np.arange(self.fold.max() + 1), self.fold).astype(float)  # (folds, S)
        self.enough: list[float | None] = [None, *reversed(_thresholds(of.reward, ENOUGH))]
        self.ways = list(_ways(of))
        sums = []
        for looks, bars in self.ways:
            e = expected(Fates(of, looks, bars), self.enough, batch)
            sums.append([np.tensordot(self._within, x, 1) for x in (e.reward, e.cost)])
        self._sums: np.ndarray = np.array(sums)  # (ways, 2, folds, E, N)

    def means(self, fold: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The mean reward and cost of every rule, (ways, E, N) each, over all searches but those of a fold."""
        kept = np.arange(len(self._within)) != fold
        reward, cost = self._sums[:, :, kept].sum(2).swapaxes(0, 1) / self._within[kept].sum()
        return reward, cost

    def rule(self, cost: float, fold: int | None = None) -> Rule:
        """The rule of the highest mean reward at this mean cost, over all searches but those of a fold.

        Of equals it is the cheapest one, and then the one of the fewest looks; if none is so cheap, it is the cheapest.
        """
        reward, costs = self.means(fold)
        allowed = costs <= max(cost, costs.min()) * (1 + SAME)
        most = reward[allowed].max()
        best = allowed & (reward >= most - SAME * (reward.max() - reward.min()))
        way, e, n = np.unravel_index(np.where(best, costs / costs.max(), np.inf).round(9).argmin(), costs.shape)
        return Rule(*self.ways[way], self.enough[e], int(n) + 1)


def folds(captions: Sequence[str]) -> np.ndarray:
    """The fold (S,) of each search: captions are dealt out in the order of their digests, so that all count alike."""
    order = sorted(set(captions), key=lambda c: digest("fold", c))
    places = {c: i % FOLDS for i, c in enumerate(order)}
    return np.array([places[c] for c in captions])


def _ways(of: Rollouts) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Looks with their bars, the fewest looks first."""
    tried = [_thresholds(of.seen[:, :, k], BARS) for k in range(len(of.looks))]
    for k in range(MOST_LOOKS + 1):
        for at in combinations(range(len(of.looks)), k):
            for bars in product(*(tried[i] for i in at)):
                yield tuple(of.looks[i] for i in at), bars


def _thresholds(values: np.ndarray, levels: np.ndarray) -> list[float]:
    """Quantiles that are values, each once, cut to the digits that matter; as many values are at least the cut one."""
    found = np.unique(np.quantile(values, levels, method="lower"))
    spread = values.std()
    if spread > 0:
        digits = max(3 - int(np.floor(np.log10(spread))), 0)
        cut = [np.floor(v * 10.0**digits) / 10.0**digits for v in found]
        found = np.unique(np.round(np.minimum(cut, found), digits))
    return [float(v) for v in found]


def chosen(of: Rollouts, *, cost: float, against: int, batch: int) -> dict[str, Any]:
    """The best rule at a mean cost, as a share of best-of-`against`'s; what it is expected to do; and the cross-fit.

    Raises ConfigError for a cost that no rule meets.
    """
    choice = Choice(of, batch)
    single = of.reward.mean(1)
    rival, dear = best_of(of, against)
    _, costs = choice.means()
    least, most = costs.min() / dear.mean(), costs.max() / dear.mean()
    if not cost >= least * (1 - SAME):
        allowed = f"at least {_up(least)} of best-of-{against}'s, what the cheapest rule costs; the dearest costs"
        raise ConfigError.of("--cost", cost, f"{allowed} {most:.3g}")
    rule = choice.rule(cost * dear.mean())
    on_all = measured(of, rule, batch)
    held = {k: np.zeros(len(single)) for k in ("reward", "cost", "success")}
    for fold in range(choice.fold.max() + 1):  # chosen on the other captions, measured on these
        here = choice.fold == fold
        found = measured(of, choice.rule(cost * dear[~here].mean(), fold), batch)
        for k, values in held.items():
            values[here] = getattr(found, k)[here]
    columns = np.column_stack([held["reward"] - single, rival - single, held["cost"], dear, held["success"]])
    drawn = draws(columns, of.captions, shared(of.captions, of.seeds))

    def shares(means: np.ndarray) -> np.ndarray:
        gain, rivals, paid, dears, success = np.moveaxis(means, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([gain, gain / rivals, paid, paid / dears, success], -1)

    names = ("gain", "gain_share", "cost", "cost_share", "success")
    low, high = interval(shares(drawn))
    fitted = zip(names, shares(columns.mean(0)), low, high, strict=True)
    whole = np.array([on_all.reward - single, rival - single, on_all.cost, dear, on_all.success]).mean(1)
    rounds, latency = latencies(of, rule, batch)
    return {
        "policy": block(of, rule, batch),
        "expected": dict(zip(names, map(float, shares(whole)), strict=True))
        | {"rounds": _spread(rounds), "latency": _spread(latency)},
        "cross_fitted": {k: [float(v) for v in values] for k, *values in fitted},
        "captions": len(set(of.captions)),
        "searches": len(of.ids),
        "noises": of.noises,
        "folds": int(choice.fold.max()) + 1,
        "against": against,
    }


def block(of: Rollouts, rule: Rule, batch: int) -> dict[str, Any]:
    """The rule as a config's block `policy`."""
    found: dict[str, Any] = {"name": "sequential", "n": rule.n, "batch": batch}
    found |= {"looks": list(rule.looks), "bars": list(rule.bars), "enough": rule.enough}
    return found | ({"early": True} if of.early and rule.looks else {})


def _spread(values: np.ndarray) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in (10, 50, 90)}


def _up(x: float) -> str:
    """A number with three digits that is not below it."""
    unit = 10.0 ** (np.floor(np.log10(x)) - 2)
    return f"{np.ceil(x / unit - SAME) * unit:.3g}"
