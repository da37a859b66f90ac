"""`sequential` on long videos: what is not good enough is drawn again, chunk by chunk and out of a queue."""

import asyncio

import pytest

from policies import sequential
from raysearch.errors import BudgetExhausted
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Prompt
from raysearch.recipe.long_video import Course, Fifo, Long
from raysearch.recipe.reward import Reward, Score
from raysearch.search.budget import Budget, Ledger, Meter
from raysearch.search.context import Context
from raysearch.testing import fake_sampler

SAMPLER = fake_sampler(10)


class Answers:
    """Answers given rewards in turn; `asked` has (part, draws of the part before it, step) of each candidate."""

    def __init__(self, rewards) -> None:
        self.rewards, self.asked = list(rewards), []

    async def answer(self, xs, reward):
        self.asked += [(x.part, x.origin.ordinal if x.parent else x.origin.index, x.step) for x in xs]
        return [Score((self.rewards.pop(0),)) for _ in xs]


def redrawn(rewards, course: Course = Course(3), turn=None, nfe=None, **arguments) -> tuple[Candidate, Answers]:
    """The answer of `sequential` on a long video, and what was asked."""
    world = Answers(rewards)
    ctx = Context(
        Prompt("a"),
        SAMPLER,
        0,
        reward=Reward("r", b"r", ("r",), (1.0,), "frames"),
        meter=Meter(Budget(nfe=nfe), Ledger(needs_velocity=True, decodes=True, course=course)),
        answer=world.answer,
        rng_key=(),
        long=course,
        turn=turn,
    )
    x = asyncio.run(sequential.search(ctx, **arguments))
    assert world.rewards == []
    return x, world


def way(x: Candidate) -> list[int]:
    """Which draw each part of a video is."""
    return [p.origin.ordinal if p.parent else p.origin.index for p in long_video.parts(x)]


def test_a_chunk_that_is_not_good_enough_is_drawn_again_at_most_n_times():
    # The second of the first chunk is enough, just so; of the second chunk none is, and the best goes on.
    x, world = redrawn([0.2, 0.5, 0.1, 0.3, 0.2, 0.9], n=3, looks=[], enough=0.5)
    assert world.asked == [(0, 0, 10), (0, 1, 10), (1, 0, 10), (1, 1, 10), (1, 2, 10), (2, 0, 10)]
    assert (way(x), x.step) == ([1, 1, 0], 10)


def test_chunks_are_looked_at_and_given_up():
    # Both of the first chunk are given up, and the better goes on; then one is given up, then none.
    rewards = [0.3, 0.4, 0.1, *(0.5, 0.6), *(0.7, 0.9)]
    x, world = redrawn(rewards, n=2, looks=[4], bars=[0.5], enough=0.6)
    assert world.asked == [(0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 4), (1, 1, 10), (2, 0, 4), (2, 0, 10)]
    assert way(x) == [1, 1, 0]
    assert long_video.before(long_video.before(x)).step == 10  # the look's candidate, finished


@pytest.mark.parametrize(("stride", "steps"), [(1, [0] * 4), (3, [2] * 2)])
def test_what_enters_a_queue_is_judged_at_the_last_evaluation_of_its_slide(stride, steps):
    """Two chunks: four frames enter, one or three at a time. Looks are for the clip that the queue begins with."""
    course = Long(chunks=2, fifo=Fifo(partitions=5, stride=stride)).course(SAMPLER.sigmas, 5)
    rewards = [0.9, 0.9, *[0.1, 0.2] * len(steps)]
    x, world = redrawn(rewards, course, n=2, looks=[4], bars=[0.5], enough=0.8)
    slides = [(part, i, step) for part, step in enumerate(steps, 1) for i in range(2)]
    assert world.asked == [(0, 0, 4), (0, 0, 10), *slides]
    assert way(x) == [0, *[1] * len(steps)]
    assert x.part == course.choices


def test_another_draw_is_a_trial_and_the_first_of_a_chunk_is_not():
    left = [True, True, False]

    async def turn(x: Candidate) -> bool:
        return left.pop(0)

    # Chosen again for the first chunk, then for the second, whose third draw is refused: the best goes on as it is.
    x, world = redrawn([0.1, 0.6, 0.2, 0.3], turn=turn, n=4, batch=1, looks=[], enough=0.5)
    assert [part for part, *_ in world.asked] == [0, 0, 1, 1]
    assert (way(x), left) == ([1, 1], [])


def test_a_budget_ends_redraws_with_the_best_so_far():
    chunk = 20
    # Two draws of the first chunk, two of the second, one of the third: another does not fit.
    rewards = {5 * chunk: [0.1, 0.3, 0.4, 0.2, 0.1], 5 * chunk - 1: [0.1, 0.3, 0.4], 4 * chunk - 1: [0.1]}
    for (nfe, given), draws in zip(rewards.items(), ([1, 0, 0], [1, 0], [0]), strict=True):
        x, _ = redrawn(given, nfe=nfe, n=2, looks=[], enough=0.5)
        assert (way(x), x.step) == (draws, 10)
    with pytest.raises(BudgetExhausted):
        redrawn([], nfe=3 * chunk - 1, n=2, looks=[], enough=0.5)
