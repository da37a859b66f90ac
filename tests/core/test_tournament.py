"""Flash-BoN's tournament: who plays whom, and what a game is worth, against tables written by hand."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from scripted import DUEL, context, sampler

from policies import tournament
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.reward import Pair, Question, Reward, Score


@dataclass
class Judge:
    """Scores by a noise's index, and for each pair of indices the probability that the first one is better."""

    scores: Sequence[float]
    wins: dict[tuple[int, int], float]
    met: list[tuple[int, int]] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)

    async def answer(self, xs: Sequence[Question], reward: Reward) -> list[Score]:
        return [Score((self._total(x, reward),)) for x in xs]

    def _total(self, x: Question, reward: Reward) -> float:
        if isinstance(x, Candidate):
            self.scored.append(x.origin.index)
            return self.scores[x.origin.index]
        assert isinstance(x, Pair) and reward == DUEL
        i, j = x.first.origin.index, x.second.origin.index
        self.met.append((min(i, j), max(i, j)))
        p = self.wins.get((i, j))
        return 1 - self.wins[j, i] if p is None else p


def play(judge: Judge, **given) -> Candidate:
    ctx = context(sampler(8), world=judge, turn=given.pop("turn", None))
    return asyncio.run(tournament.search(ctx, **given))


@pytest.mark.parametrize(
    ("own", "other", "won", "expected"),
    [
        (1500, 1500, 1.0, 32 * 1.2 / 2),
        (1500, 1500, 0.84, 32 * 1.2 / 2),  # a margin of 0.68
        (1500, 1500, 0.8, 32 / 2),
        (1500, 1500, 0.68, 32 / 2),  # a margin of 0.36
        (1500, 1500, 0.6, 32 * 0.7 / 2),
        (1500, 1500, 0.5, 0.0),
        (1500, 1500, 0.25, -32 / 2),
        (1500, 1500, 0.0, -32 * 1.2 / 2),
        (1700, 1300, 0.9, 32 * 1.2 * (1 - 10 / 11)),  # 400 points are ten to one
        (1700, 1300, 0.3, 32 * (0 - 10 / 11)),
        (1300, 1700, 0.5, 32 * 0.7 * (1 / 2 - 1 / 11)),
    ],
)
def test_a_game_moves_ratings_as_in_the_table(own, other, won, expected):
    assert tournament.gain(own, other, won, 32.0) == pytest.approx(expected)
    assert tournament.gain(other, own, 1 - won, 32.0) == pytest.approx(-expected)
    assert tournament.gain(own, other, won, 8.0) == pytest.approx(expected / 4)


def test_two_batches_by_hand():
    # Of 0..3 go on 1 and 2, and 1 wins surely: 1519.2 and 1480.8. Of 4..7 go on 4 and 6, and 6 wins narrowly: 1488.8
    # and 1511.2. Then 6 plays 1 and 2: it loses to 1 and wins against 2, both clearly, and 1 stays ahead.
    scores = [0.1, 0.9, 0.5, 0.2, 0.7, 0.3, 0.7, 0.1]
    wins = {(1, 2): 0.95, (4, 6): 0.4, (1, 6): 0.8, (2, 6): 0.2}
    judge = Judge(scores, wins)
    assert play(judge, n=8, batch=4).origin.index == 1
    assert (judge.met, judge.scored) == ([(1, 2), (4, 6), (1, 6), (2, 6)], list(range(8)))
    # If 6 beats 1 as well, it has passed it: 1511.2 + 32 (1 - E) + ... is above 1519.2 - 32 (1 - E).
    assert play(Judge(scores, wins | {(1, 6): 0.2}), n=8, batch=4).origin.index == 6
    # With one rival it meets only 1, and with none nobody: 1519.2 is above 1511.2.
    one, none = Judge(scores, wins), Judge(scores, wins)
    assert play(one, n=8, batch=4, rivals=1).origin.index == 1
    assert play(none, n=8, batch=4, rivals=0).origin.index == 1
    assert (one.met[2:], none.met[2:]) == ([(1, 6)], [])


def strongest(n: int) -> dict[tuple[int, int], float]:
    """The higher index always wins."""
    return {(i, j): 0.0 for i in range(n) for j in range(i + 1, n)}


def test_of_a_batch_of_sixteen_four_play_each_other():
    judge = Judge([-abs(i - 9.5) for i in range(16)], strongest(16))  # 6..13 go on by score
    assert play(judge, batch=16).origin.index == 13
    first, elo = judge.met[:12], dict.fromkeys(range(6, 14), 1500.0)  # 1.5 games for each of 8
    assert len(set(first)) == 12 and {i for pair in first for i in pair} <= set(elo)
    for i, j in first:
        moved = tournament.gain(elo[i], elo[j], 0.0, 32.0)
        elo[i], elo[j] = elo[i] + moved, elo[j] - moved
    left = sorted(sorted(elo, key=lambda i: -elo[i])[:4])
    assert judge.met[12:] == [pair for pair in combinations(left, 2) if pair not in first]


def test_random_pairs_are_the_searchs_own():
    found = []
    for seed in (0, 0, 1):
        judge = Judge([-abs(i - 9.5) for i in range(16)], strongest(16))
        asyncio.run(tournament.search(context(sampler(8), world=judge, seed=seed), batch=16))
        found.append(judge.met[:12])
    assert found[0] == found[1] != found[2]


def test_at_least_two_go_on_and_one_alone_wins_unmet():
    judge = Judge([0.1, 0.4, 0.3], strongest(3))
    assert play(judge, n=3, keep=0.01).origin.index == 2
    assert judge.met == [(1, 2)]
    alone = Judge([0.1], {})
    assert (play(alone, n=1).origin.index, alone.met) == (0, [])
    assert play(Judge([0.2, 0.1], {(0, 1): 0.5}), n=2).origin.index == 0  # of equals the first


def test_an_allocators_trials_are_batches_of_one():
    left = [True, True, False]

    async def turn(x: Candidate) -> bool:
        return left.pop(0)

    judge = Judge([0.5, 0.1, 0.3], strongest(3))
    assert play(judge, turn=turn).origin.index == 2
    assert judge.met == [(0, 1), (1, 2), (0, 2)]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"n": 0}, "policy.n: 0 is not allowed; it must be at least 1"),
        ({"batch": 0}, "policy.batch: 0 is not allowed; it must be at least 1"),
        ({"games": -1.0}, "policy.games: -1.0 is not allowed; it must be at least 0"),
        ({"rivals": -1}, "policy.rivals: -1 is not allowed; it must be at least 0"),
        ({"keep": 0.0}, "policy.keep: 0.0 is not allowed; it must be above 0 and at most 1"),
        ({"keep": 1.5}, "policy.keep: 1.5 is not allowed; it must be above 0 and at most 1"),
        ({"k": 0.0}, "policy.k: 0.0 is not allowed; it must be above 0"),
    ],
)
def test_mistakes_are_one_line(given, line):
    with pytest.raises(ConfigError) as raised:
        play(Judge([], {}), **given)
    assert str(raised.value) == line
