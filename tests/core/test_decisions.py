"""What policies decide and ask, by rewards that are given: tables, closed forms, mistakes. No model runs."""

import asyncio

import numpy as np
import pytest
from scripted import Alike, Scripted, context, sampler

from policies import (
    best_of_n,
    bfs,
    dfs,
    dlbs,
    evolution,
    fk_steering,
    halving,
    paths,
    rbf,
    rgrp,
    sequential,
    smc,
    svdd,
    tournament,
    tree,
    zero_order,
)
from policies.feynman_kac import particles
from raysearch.config import config as configuration
from raysearch.errors import BudgetExhausted, ConfigError

DEFAULTS = {
    rgrp: {"n": 6, "schedule": (10, 15, 20), "beta": 0.1, "temperature": 1.0},
    evolution: {
        **{"schedule": (5, 20, 30, 45), "population": (10, 5, 5, 5, 5), "elite": 2},
        **{"beta": 0.2, "eta": 0.7, "share": 0.9},
    },
    dlbs: {"b": 4, "k": 2, "lookahead": 6},
    fk_steering: {"k": 4, "lam": 10.0, "interval": 0.2, "threshold": 0.5},
    zero_order: {"cosine": 0.95},
    tournament: {"batch": 8, "keep": 0.5, "games": 1.5, "rivals": 3, "k": 32.0},
}


@pytest.mark.parametrize(("policy", "expected"), DEFAULTS.items())
def test_defaults_are_the_papers(policy, expected):
    assert policy.search.__kwdefaults__.items() >= expected.items()
    assert configuration.SDE == {"flow-sde": 0.7, "score-sde": 3.0, "sde-dpm++": None}


def test_evolutions_cost_when_the_first_is_the_best():
    ctx = context(sampler(50), world=Scripted([1.0] + [0.0] * 21))
    asyncio.run(evolution.search(ctx, share=1.0))
    # 10 rollouts, the first one's states at step 5, 20, 30 and 45 once more, and 3 mutants of each to the end.
    assert ctx.charged.nfe == 2 * (10 * 50 + 45 + 3 * (45 + 30 + 20 + 5))


def test_rgrp_keeps_the_highest_cumulative_weight_on_a_case_by_hand():
    """Temperature 1, rewards log 1, log 2, log 5 twice: c is twice 1/8, 2/8, 5/8 for those that are drawn."""
    log = [0.0, float(np.log(2)), float(np.log(5))]
    for seed in range(30):
        world = Scripted([*log, *log])
        ctx = context(sampler(8), seed=seed, world=world)
        winner = asyncio.run(rgrp.search(ctx, n=3, schedule=[2], beta=0.5))
        a = np.unique(
            np.sort(context(sampler(8), seed=seed, world=world).rng.choice(3, size=3, p=[1 / 8, 2 / 8, 5 / 8]))
        )
        asked = [row.id for row in ctx.history.rows]
        assert winner.id == asked[a[-1]]  # the last of those drawn has the highest weight


def three_and_one(duplicates: str):
    """Four particles of weights 3, 1, 0 and 0 at step 2: three copies of the first and one of the second."""
    rewards = [float(np.log(3)), 0.0, -50.0, -50.0, 0.2, 0.1, 0.5, 0.1]
    ctx = context(sampler(6), world=Scripted(rewards if duplicates == "drop" else [*rewards[:4], 0, 0, 0, 0]))
    steps = [2, 4, 6] if duplicates == "drop" else [2, 6]
    how = {"threshold": 0.9, "resampling": "residual", "duplicates": duplicates, "back": 2}
    log_g = fk_steering.potentials("difference", 1.0, 6)
    return asyncio.run(particles(ctx, ctx.noise(4), log_g, steps=steps, **how))


def test_particles_under_an_ode_by_hand():
    xs, log_w = three_and_one("drop")
    assert [x.origin.index for x in xs] == [0, 1]
    # log 3 + (0.2 - log 3) + (0.5 - 0.2), and 0 + 0.1 + 0: at step 4 the two weigh about the same, and are carried on.
    assert log_w == pytest.approx([0.5, 0.1])
    xs, log_w = three_and_one("renoise")
    assert [x.origin.describe()["kind"] for x in xs] == ["noise", "renoise", "renoise", "noise"]
    assert [x.origin.how.to_step for x in xs[1:3]] == [0, 0]
    assert log_w == pytest.approx([-np.log(3)] * 3 + [0.0])


def test_potentials_by_hand():
    """Rewards 1, 3, 2 of one path at steps 2, 3 and 4 of 4, lam 10."""
    seen = [(2, 1.0, []), (3, 3.0, [1.0]), (4, 2.0, [1.0, 3.0])]

    def logs(log_g):
        return [float(log_g(t, np.array([r]), np.array([past]))[0]) for t, r, past in seen]

    assert logs(fk_steering.potentials("difference", 10, 4)) == [10, 20, -10]
    assert logs(fk_steering.potentials("max", 10, 4)) == [10, 30, 20 - 40]
    assert logs(fk_steering.potentials("sum", 10, 4)) == [10, 40, 20 - 50]
    lam = 10 * (2 ** np.array([0.5, 0.75, 1.0]) - 1)
    assert logs(smc.tempered(4, 10)) == pytest.approx([lam[0], 3 * lam[1] - lam[0], 2 * lam[2] - 3 * lam[1]])


def scripted(policy, rewards: list[float], s=None, around=None, **given):
    """The winner and what was asked; `around` are other arguments of the context, such as a budget."""
    world = Scripted(list(rewards))
    ctx = context(s or sampler(8, "flow-sde"), world=world, **(around or {}))
    winner = asyncio.run(policy.search(ctx, **given))
    return winner, world


def test_dfs_goes_back_as_told():
    steps = {"schedule": [2, 4, 6], "threshold": 0.5, "back": 3, "backtracks": 3}
    # 2: too low, and too early to go back 3: new noise. 2: just good enough. 4: too low, back to 1. 2: good. 4: good.
    # 6: too low, back to 3. 4: good. 6: too low, no backtracks left: the better of the two seen at 6, the first.
    winner, world = scripted(dfs, [0.1, 0.5, 0.2, 0.7, 0.8, 0.4, 0.9, 0.3], sampler(8), **steps)
    kinds = ["noise", "noise", "noise", "renoise", "renoise", "renoise", "renoise", "renoise"]
    assert world.asked == list(zip(kinds, [2, 2, 4, 2, 4, 6, 4, 6], strict=True))
    assert world.rewards == []
    assert winner.origin.how.to_step == 1 and winner.step == 8  # the one that came from the first way back


def test_dfs_starts_anew_where_going_back_would_end_at_noise():
    _, world = scripted(dfs, [0.1, 0.6], sampler(8), schedule=[3], threshold=0.5, back=3)
    assert world.asked == [("noise", 3), ("noise", 3)]


def test_rbf_rolls_unused_quota_over():
    rewards = [0.5]  # the noise
    table = [  # trials of a step that may take 3 and what was saved; the last beats the best so far, or none does
        [0.4, 0.6],  # 3 allowed, 1 saved
        [0.1, 0.2, 0.55, 0.3],  # 4 allowed, none saved: goes on with 0.55
        [0.58, 0.7],  # 3 allowed, 1 saved: 0.58 is better than 0.55, but the best so far is 0.6
        [0.1, 0.2, 0.3, 0.71],  # 4 allowed, none saved
        [0.2, 0.1, 0.0],  # 3 allowed
        [0.8],  # 3 allowed, 2 saved
        [0.1, 0.2, 0.3, 0.4, 0.5],  # 5 allowed
    ]
    _, world = scripted(rbf, [*rewards, *(r for row in table for r in row)], quota=3)
    assert world.rewards == []
    assert [step for _, step in world.asked] == [0, *(t + 1 for t, row in enumerate(table) for _ in row)]


def test_zero_order_moves_rejects_and_restarts():
    # pivot 0.5; neighbours .4 .6: move. Neighbours .5 .55: none beats .6, so a new pivot, .3; neighbours .2 .35.
    winner, world = scripted(zero_order, [0.5, 0.4, 0.6, 0.5, 0.55, 0.3, 0.2, 0.35], n=2, iterations=3)
    assert [kind for kind, _ in world.asked] == ["noise", *["neighbour"] * 4, "noise", *["neighbour"] * 2]
    assert world.rewards == [] and winner.origin.parent.origin.describe()["index"] == 0
    assert winner.origin.ordinal == 1


def test_bfs_rounds_the_expected_copies():
    # softmax of log 1, log 2, log 5 by 8: 1, 2 and 5 of 8; at temperature 1.
    log = [float(np.log(v)) for v in (1, 2, 5, *[1e-6] * 5)]
    _, world = scripted(bfs, [*log, *range(8)], n=8, schedule=[3], temperature=1.0)
    assert [kind for kind, step in world.asked if step == 8] == ["noise", "noise", "branch", "noise", *["branch"] * 4]


BARS = {"looks": [2, 5], "bars": [0.3, 0.5], "enough": 0.8}


def test_sequential_gives_up_below_a_bar_and_ends_with_what_is_enough():
    # Given up at 2. Just good enough at 2, given up at 5. Just good enough at both, finished, and not enough. Enough.
    rewards = [0.2, *(0.3, 0.4), *(0.6, 0.5, 0.7), *(0.9, 0.9, 0.8)]
    winner, world = scripted(sequential, rewards, n=6, **BARS)
    assert [step for _, step in world.asked] == [2, *(2, 5), *(2, 5, 8), *(2, 5, 8)]
    assert (world.rewards, set(world.by)) == ([], {"r"})
    assert (winner.origin.index, winner.step) == (3, 8)


def test_sequential_returns_the_best_finished_or_the_best_of_the_latest_look():
    # The finished one, though others had higher looks.
    winner, _ = scripted(sequential, [*(0.9, 0.4), *(0.5, 0.5, 0.1), 0.2], n=3, **BARS)
    assert winner.origin.index == 1
    # None is finished: the higher of two that came to the second look, then the only one that did.
    winner, _ = scripted(sequential, [0.29, *(0.9, 0.1), *(0.4, 0.2)], n=3, **BARS)
    assert winner.origin.index == 2
    winner, world = scripted(sequential, [0.29, *(0.4, 0.1), 0.2], n=3, **BARS)
    assert (winner.origin.index, world.rewards) == (1, [])


def test_sequential_without_bars_draws_all_and_looks_all_the_same():
    winner, world = scripted(sequential, [0.1, 0.5, 0.1, 0.9, 0.1, 0.9, 0.1, 0.2], n=4, looks=[3])
    assert [step for _, step in world.asked] == [3, 8] * 4
    assert winner.origin.index == 1  # of equals the first


def test_sequential_draws_in_batches():
    # Two looked at, one of them finished; two, both finished, of which the second is better; that is enough.
    rewards = [*(0.6, 0.4), 0.7, *(0.6, 0.6), *(0.85, 0.9)]
    winner, world = scripted(sequential, rewards, n=5, batch=2, looks=[2], bars=[0.5], enough=0.8)
    assert [step for _, step in world.asked] == [2, 2, 8, 2, 2, 8, 8]
    assert (winner.origin.index, world.rewards) == (3, [])
    _, world = scripted(sequential, [0.0] * 3, n=3, batch=2, looks=[2], bars=[0.5])
    assert len(world.asked) == 3  # the last batch is smaller


def test_sequential_looks_by_the_early_reward_and_ends_by_the_other():
    _, world = scripted(sequential, [0.9, 0.7, 0.2, 0.5, 0.9], n=4, looks=[2], bars=[0.5], enough=0.8, early=True)
    assert list(zip(world.by, [step for _, step in world.asked], strict=True)) == [
        *(("early", 2), ("r", 8)),
        ("early", 2),
        *(("early", 2), ("r", 8)),
    ]


def test_sequentials_budget_ends_it_with_the_best_finished_or_looked_at():
    batch = {"n": 4, "batch": 2, "looks": [2], "bars": [0.5]}
    # Two looks are 12 NFE and the way to the end 10; then two more looks, and 10 are held back to finish one of them.
    rewards = [*(0.6, 0.4), 0.1, *(0.9, 0.8)]
    winner, world = scripted(sequential, rewards, around={"nfe": 44}, **batch)
    assert (winner.origin.index, world.rewards) == (0, [])  # though the third had the highest look
    winner, world = scripted(sequential, [0.6, 0.7], around={"nfe": 22}, **batch)
    assert (winner.origin.index, world.rewards) == (1, [])
    with pytest.raises(BudgetExhausted):
        scripted(sequential, [], around={"nfe": 21}, **batch)


def turns(*answers: bool):
    """An allocator's answers: whether the search is chosen again after its first trial; it is an error to ask more."""
    left = list(answers)

    async def turn(x) -> bool:
        return left.pop(0)

    return turn


def test_an_allocator_gives_trials_one_by_one():
    rewards, twice = [0.1, 0.5, 0.3], (True, True)
    for policy, given in ((best_of_n, {"n": 9}), (sequential, {"n": 9, "batch": 4, "looks": []})):
        winner, world = scripted(policy, rewards, around={"turn": turns(*twice, False)}, **given)
        assert (winner.origin.index, world.asked) == (1, [("noise", 8)] * 3)
    given = {"schedule": [3], "width": 9.0}
    winner, world = scripted(tree, rewards, around={"turn": turns(*twice, False)}, iterations=9, **given)
    assert (winner.origin.index, world.asked) == (1, [("noise", 8)] * 3)
    # Nobody asks for a trial beyond the last one, or after what is enough.
    scripted(best_of_n, rewards, around={"turn": turns(*twice)}, n=3)
    scripted(tree, rewards, around={"turn": turns(*twice)}, iterations=3, **given)
    scripted(sequential, rewards, around={"turn": turns(*twice)}, n=3, looks=[])
    scripted(sequential, rewards, around={"turn": turns(True)}, n=9, looks=[], enough=0.5)


def test_halving_by_hand():
    # 5 -> 3 -> 2, and the better of the two when finished.
    rewards = [*(0.5, 0.1, 0.4, 0.2, 0.9), *(0.1, 0.3, 0.2), *(0.8, 0.7)]
    winner, world = scripted(halving, rewards, n=5, schedule=[2, 4])
    assert [step for _, step in world.asked] == [2] * 5 + [4] * 3 + [8] * 2
    assert (winner.origin.index, world.rewards) == (2, [])
    # 5 -> 3 -> 2 -> 1: a lone one is not looked at again.
    winner, world = scripted(halving, [*rewards[:8], 0.1, 0.2], n=5, schedule=[2, 4, 5, 6])
    assert [step for _, step in world.asked] == [2] * 5 + [4] * 3 + [5] * 2
    assert (winner.origin.index, world.rewards) == (4, [])
    assert scripted(halving, [], n=1, schedule=[2])[0].step == 8


def test_halving_looks_by_the_early_reward_and_ends_by_the_other():
    _, world = scripted(halving, [0.1, 0.2, 0.3, 0.4, 0.5], n=3, schedule=[2], early=True)
    assert world.by == ["early"] * 3 + ["r"] * 2


def test_rgrps_survivors_are_finished_after_early_looks():
    lone = 50.0  # so much better than the others that it alone is drawn
    winner, world = scripted(rgrp, [0.0, lone, 0.0], n=3, schedule=[2], early=True)
    assert (world.by, winner.origin.ordinal) == (["early"] * 3, 0)
    winner, world = scripted(rgrp, [lone, lone, 0.0, 0.0, 0.3, 0.7], around={"seed": 1}, n=4, schedule=[2], early=True)
    assert (world.by, world.asked[4:]) == (["early"] * 4 + ["r"] * 2, [("noise", 8), ("perturb", 8)])
    assert winner.origin.describe()["kind"] == "perturb"


def test_a_trees_values_by_hand():
    leaves = [tree.Node(None, 2, v=v) for v in (0.0, 1.0, 3.0)]
    left = tree.Node(None, 1, children=leaves[:2])
    right = tree.Node(None, 1, children=leaves[2:])
    root = tree.Node(None, 0, children=[left, right])
    tree.backup([root, right, leaves[2]], lam=2.0)
    tree.backup([root, left, leaves[1]], lam=2.0)
    value = 0.5 * np.log((1 + np.e**2) / 2)
    assert (left.v, right.v) == (pytest.approx(value), pytest.approx(3.0))
    assert root.v == pytest.approx(0.5 * np.log((np.exp(2 * value) + np.exp(6.0)) / 2))
    assert (root.visits, left.visits, right.visits, leaves[0].visits) == (2, 1, 1, 0)


@pytest.mark.parametrize("policy", [dlbs, svdd, rbf, tree])
def test_what_branches_refuses_an_ode_before_anything_is_asked(policy):
    world = Scripted([])
    with pytest.raises(ConfigError, match=r"sampler\.name: 'euler' is not allowed"):
        asyncio.run(policy.search(context(sampler(8), world=world)))


@pytest.mark.parametrize(
    ("policy", "given", "line"),
    [
        (zero_order, {"n": 0}, "policy.n: 0"),
        (zero_order, {"cosine": 1.0}, "policy.cosine: 1.0"),
        (paths, {"forward": 4, "backward": 4}, "policy.backward: 4 is not allowed; it must be above policy.forward, 4"),
        (paths, {"start": 8}, "policy.start: 8"),
        (bfs, {"schedule": [5, 3]}, "policy.schedule"),
        (dfs, {"schedule": [8]}, "policy.schedule: 8"),
        (dfs, {"schedule": []}, "policy.schedule"),
        (evolution, {"schedule": [2], "population": [4]}, "policy.population"),
        (evolution, {"schedule": [2], "population": [4, 1]}, "policy.population: 1"),
        (evolution, {"schedule": [7], "population": [4, 2]}, "policy.schedule: 7"),
        (fk_steering, {"lam": 0.0}, "policy.lam"),
        (smc, {"every": 0}, "policy.every"),
        (smc, {"threshold": -0.1}, "policy.threshold: -0.1 is not allowed; it must be in [0, 1]"),
        (smc, {"strength": 1e308}, "policy.strength: 1e+308 is not allowed; it must be in 1e-09..1e+09"),
        (fk_steering, {"threshold": 1.5}, "policy.threshold: 1.5"),
        (rgrp, {"schedule": [2], "temperature": 1e-320}, "policy.temperature: 1e-320"),
        (tree, {"alpha": 2.0}, "policy.alpha: 2.0 is not allowed; it must be in [0, 1]"),
        (halving, {"n": 0}, "policy.n: 0 is not allowed; it must be at least 1"),
        (halving, {"schedule": []}, "policy.schedule: [] is not allowed; it must be a list of at least one step"),
        (sequential, {"n": 0}, "policy.n: 0 is not allowed; it must be at least 1"),
        (sequential, {"batch": 0, "looks": []}, "policy.batch: 0 is not allowed; it must be at least 1"),
        (sequential, {}, "policy.looks: 12 is not allowed; it must be of steps in 0..7 (sampler.num_steps is 8)"),
        (sequential, {"looks": [4, 2]}, "policy.looks: [4, 2] is not allowed; it must be strictly rising"),
        (
            sequential,
            {"looks": [2, 4], "bars": [0.5]},
            "policy.bars: [0.5] is not allowed; it must be a list of 2, a bar for each of policy.looks",
        ),
        (best_of_n, {"n": 10**30}, "the number of noise: 1000000000000000000000000000000 is not allowed"),
    ],
)
def test_bad_arguments_are_one_clear_line(policy, given, line):
    with pytest.raises(ConfigError, match="^" + line.split(":")[0]) as raised:
        asyncio.run(policy.search(context(sampler(8), world=Scripted([])), **given))
    assert line in str(raised.value)


def test_rgrp_shrinks_as_expected_and_costs_what_its_survivors_do():
    """Under equal rewards n draws from n leave n (1 - (1 - 1/n)^n) in expectation: 6 -> 3.99 -> 2.73."""
    s, second, third = sampler(22), [], []
    for seed in range(400):
        ctx = context(s, seed=seed, world=Alike())
        asyncio.run(rgrp.search(ctx))
        steps = [row.step for row in ctx.history.rows]
        assert steps.count(11) == 6
        second.append(steps.count(16))
        third.append(steps.count(21))
        # 6 to step 11, looking; the survivors 5 steps further, their look counted; and again.
        assert ctx.charged.nfe == 2 * (6 * 12 + 5 * second[-1] + 5 * third[-1])
    for counts, expected in ((second, 3.9906), (third, 2.7263)):
        assert np.mean(counts) == pytest.approx(expected, abs=4 * np.std(counts) / 20)
