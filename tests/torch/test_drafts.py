"""Draft and commit on the exact mixture: what is carried over, what it costs, and what a budget holds back."""

import pytest
from exact import Interpreter, context, sampler, search

from policies import best_of_n, draft_commit, rgrp, zero_order
from raysearch.recipe.candidate import denoise

FULL, DRAFT = 12, 4  # steps; guided, so two NFE each


def commit(explore: dict, **given):
    return search(draft_commit.search, sampler(FULL), draft_steps=DRAFT, explore=explore, **given)


@pytest.mark.parametrize("seed", range(4))
def test_the_winner_is_the_drafts_noise_rendered_in_full(seed):
    x0, winner, _ = commit({"name": "best_of_n", "n": 6}, seed=seed)
    _, draft, _ = search(best_of_n.search, sampler(DRAFT), seed=seed, n=6)
    assert (winner.origin, winner.step, winner.sampler) == (draft.origin, FULL, sampler(FULL))
    world = Interpreter()
    x, _ = world.state(denoise(winner, FULL))
    assert x0.tolist() == x.numpy().ravel().astype(float).tolist()


def test_origins_at_step_0_are_carried_over_and_later_ones_dropped():
    _, winner, _ = commit({"name": "zero_order", "n": 3, "iterations": 3, "cosine": 0.9})
    _, draft, _ = search(zero_order.search, sampler(DRAFT), n=3, iterations=3, cosine=0.9)
    assert winner.origin.lineage == draft.origin.lineage
    _, winner, _ = commit({"name": "fk_steering", "k": 6, "lam": 8.0, "interval": 0.25, "duplicates": "renoise"})
    kinds = [o.describe()["kind"] for o in (winner.origin, *(a.origin for a in winner.ancestors()))]
    assert kinds == ["noise"]


# NFE: exploration under guidance with 4 steps, then 12 steps; best-of-6 renders nothing that it does not return.
COSTS = [
    ({"name": "single"}, (24, 0)),  # a draft that nobody scores is never made
    ({"name": "best_of_n", "n": 6}, (6 * 8 + 24, 6)),
    ({"name": "zero_order", "n": 3, "iterations": 1}, (4 * 8 + 24, 4)),
    ({"name": "rgrp", "n": 5, "schedule": (1,), "beta": 0.3}, (5 * 6 + 24, 5)),  # 2 steps and a preview each
]


@pytest.mark.parametrize(("explore", "cost"), COSTS)
def test_cost_table(explore, cost):
    _, _, ctx = commit(explore)
    assert (ctx.charged.nfe, ctx.charged.reward_calls) == cost


def test_with_every_step_a_draft_is_the_video_and_nothing_is_rendered_again():
    x0, winner, ctx = search(
        draft_commit.search, sampler(FULL), draft_steps=FULL, explore={"name": "best_of_n", "n": 3}
    )
    best, plain, alone = search(best_of_n.search, sampler(FULL), n=3)
    assert winner is plain
    assert x0.tolist() == best.tolist()
    assert ctx.charged == alone.charged


async def one_by_one(ctx, *, n: int = 6):
    for x in ctx.denoise(ctx.noise(n)):
        await ctx.score([x])
    return ctx.best


@pytest.mark.parametrize(("nfe", "drafts"), [(24, 0), (31, 0), (32, 1), (24 + 3 * 8, 3), (24 + 3 * 8 + 7, 3), (500, 6)])
def test_a_budget_holds_the_rendering_back_and_its_end_commits_the_best_so_far(nfe, drafts):
    _, winner, ctx = search(
        draft_commit.search,
        sampler(FULL),
        draft_steps=DRAFT,
        seed=7,  # of three drafts the last is the best
        explore={"name": "test_drafts:one_by_one"},
        budget={"nfe": nfe},
    )
    assert ctx.charged.nfe == drafts * 8 + 24 <= nfe
    assert ctx.charged.reward_calls == drafts
    assert winner.sampler.num_steps == FULL
    world = Interpreter()
    noises = context(sampler(DRAFT), seed=7).noise(max(drafts, 1))
    rewards = [world.reward(world.estimate(denoise(x, DRAFT))) for x in noises]
    assert winner.origin.index == rewards.index(max(rewards))
    assert (ctx.history.exhausted is None) == (nfe == 500)


def test_rgrp_explores_with_perturbed_noises_that_are_kept():
    _, winner, _ = commit({"name": "rgrp", "n": 5, "schedule": (1,), "beta": 0.3}, seed=2)
    _, draft, _ = search(rgrp.search, sampler(DRAFT), seed=2, n=5, schedule=(1,), beta=0.3)
    assert winner.origin.step == draft.origin.step == 0
