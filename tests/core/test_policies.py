"""Every policy is the algorithm that it names: on the exact mixture, against numpy loops, tables and closed forms."""

import asyncio
from pathlib import Path

import brute
import numpy as np
import pytest
import torch
from exact import MODEL, Interpreter, Numpy, Scripted, barrier, context, sampler, search
from test_solvers import walk

from actors.models.mixture import Mixture
from actors.sampling import solvers
from policies import best_of_n, bfs, dfs, dlbs, evolution, fk_steering, paths, rbf, rgrp, smc, svdd, tree, zero_order
from policies.feynman_kac import particles
from raysearch.config import config as configuration
from raysearch.config.policies import find_policy
from raysearch.errors import ConfigError
from raysearch.recipe.digests import canonical_json
from raysearch.recipe.origins import Neighbour

BOTH, SDE = ("euler", "flow-sde"), ("flow-sde",)
CASES = [
    ("single", BOTH, {}),
    ("best_of_n", BOTH, {"n": 6}),
    ("zero_order", BOTH, {"n": 3, "iterations": 5, "cosine": 0.9}),
    ("paths", BOTH, {"n": 2, "m": 3, "start": 3, "forward": 1, "backward": 4}),
    ("beam", BOTH, {"k": 2, "n": 3, "every": 4, "back": 2, "one_step": True}),
    ("beam", BOTH, {"k": 2, "n": 3, "every": 4, "back": 2, "one_step": False}),
    ("dlbs", SDE, {"b": 2, "k": 3, "lookahead": 1}),
    ("dlbs", SDE, {"b": 2, "k": 2, "lookahead": 4}),
    ("svdd", SDE, {"m": 4, "alpha": 0.2}),
    ("rgrp", BOTH, {"n": 5, "schedule": (2, 4, 7), "beta": 0.5, "temperature": 0.3}),
    *(
        ("fk_steering", BOTH, {"k": 5, "lam": 4.0, "potential": p, "interval": 0.25, "threshold": 0.7})
        for p in ("difference", "max", "sum")
    ),
    ("smc", BOTH, {"n": 5, "strength": 4.0, "every": 2, "threshold": 0.7}),
    ("rbf", SDE, {"quota": 3}),
    ("bfs", BOTH, {"n": 6, "schedule": (3, 6), "temperature": 0.5, "mode": "resample", "back": 1}),
    ("bfs", BOTH, {"n": 6, "schedule": (3, 6), "temperature": 0.5, "mode": "prune", "back": 1}),
    ("dfs", BOTH, {"schedule": (3, 6, 9), "threshold": -0.8, "back": 4, "backtracks": 6}),
    (
        "evolution",
        BOTH,
        {"schedule": (0, 3, 6), "population": (6, 4, 4, 3), "elite": 1, "beta": 0.3, "eta": 0.7, "share": 0.9},
    ),
    ("tree", SDE, {"iterations": 9, "lam": 2.0, "schedule": (3, 6), "width": 1.5, "alpha": 0.5}),
    (
        "repulsion",
        BOTH,
        {"n": 3, "eta": (1.0, 0.2), "reach": (0.5, 1.1), "h": 0.02, "start": 4, "every": 2, "back": 2, "tries": 5},
    ),
]
OBSTACLES = {"repulsion": [barrier(*MODEL.means[1].tolist()), barrier(*MODEL.means[0].tolist())]}


@pytest.mark.parametrize(("name", "solver", "given"), [(n, s, g) for n, solvers, g in CASES for s in solvers])
def test_same_decisions_as_a_plain_loop(name, solver, given):
    policy, s = find_policy(name), sampler(12, solver)
    more = {"resampling": "multinomial"} if name == "smc" else {}
    around = {"obstacles": OBSTACLES[name]} if name in OBSTACLES else {}
    for seed in range(4):
        found, _, _ = search(policy, s, seed=seed, **given, **more, **around)
        expected = getattr(brute, name)(Numpy(s, seed), context(s, seed=seed).rng, **given, **around)
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=f"seed {seed}")


# -- the papers' defaults, as algorithms.md has them ------------------------------------------------------------------

DEFAULTS = {
    rgrp: {"n": 6, "schedule": (10, 15, 20), "beta": 0.1, "temperature": 1.0},
    evolution: {
        **{"schedule": (5, 20, 30, 45), "population": (10, 5, 5, 5, 5), "elite": 2},
        **{"beta": 0.2, "eta": 0.7, "share": 0.9},
    },
    dlbs: {"b": 4, "k": 2, "lookahead": 6},
    fk_steering: {"k": 4, "lam": 10.0, "interval": 0.2, "threshold": 0.5},
    zero_order: {"cosine": 0.95},
}


@pytest.mark.parametrize(("policy", "expected"), DEFAULTS.items())
def test_defaults_are_the_papers(policy, expected):
    assert policy.search.__kwdefaults__.items() >= expected.items()
    assert configuration.SDE == {"flow-sde": 0.7, "score-sde": 3.0, "sde-dpm++": None}


# -- costs, in guided evaluations of 50 steps ------------------------------------------------------------------------


def alike(x0: np.ndarray) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("name", "solver", "given", "evaluations"),
    [
        ("single", "euler", {}, 50),
        ("best_of_n", "euler", {}, 4 * 50),
        # Nothing beats anything: a pivot and 4 neighbours, four times over.
        ("zero_order", "euler", {}, 4 * 5 * 50),
        # 2 to step 12; 12 rounds of 6 that go 5 steps and look; a last one of 4 steps to the end.
        ("paths", "euler", {}, 2 * 12 + 12 * 6 * (5 + 1) + 6 * 4),
        # 8 to step 5, looking; 8 times 2 that go on (their look was a step) and 6 from 2 steps back; then to the end.
        ("beam", "euler", {}, 8 * 6 + 8 * (2 * (4 + 1) + 6 * (7 + 1)) + 2 * 4 + 6 * 7),
        ("beam", "flow-sde", {}, 8 * 50),
        # A step of 8 and, at each of 49 steps, 8 lookaheads of 6 or what is left, whose first is the next step.
        ("dlbs", "flow-sde", {}, 8 + 8 * (44 * 6 + 5 + 4 + 3 + 2 + 1)),
        ("dlbs", "flow-sde", {"lookahead": 1}, 8 * 50),
        # 4 first steps, then 4 looks at each of 49 steps, one of which is the next step.
        ("svdd", "flow-sde", {}, 4 + 4 * 49),
        ("fk_steering", "flow-sde", {}, 4 * 50),
        ("smc", "flow-sde", {}, 4 * 50),
        # A look at the noise, which is its step, and 5 trials at each of 49 steps.
        ("rbf", "flow-sde", {}, 1 + 5 * 49),
        ("bfs", "euler", {}, 8 * 50),
        # Nine tries at step 5; the best goes on, looking at 10 and 15.
        ("dfs", "euler", {}, 9 * 6 + 5 + 5 + 34),
        ("tree", "flow-sde", {"width": 100.0}, 8 * 50),
    ],
)
def test_costs_by_hand(name, solver, given, evaluations):
    _, _, ctx = search(find_policy(name), sampler(50, solver), world=Interpreter(alike), **given)
    assert ctx.charged.nfe == 2 * evaluations  # guidance


def test_evolutions_cost_when_the_first_is_the_best():
    ctx = context(sampler(50), world=Scripted([1.0] + [0.0] * 21))
    asyncio.run(evolution.search(ctx, share=1.0))
    # 10 rollouts, the first one's states at step 5, 20, 30 and 45 once more, and 3 mutants of each to the end.
    assert ctx.charged.nfe == 2 * (10 * 50 + 45 + 3 * (45 + 30 + 20 + 5))


def test_rgrp_shrinks_as_expected_and_costs_what_its_survivors_do():
    """Under equal rewards n draws from n leave n (1 - (1 - 1/n)^n) in expectation: 6 -> 3.99 -> 2.73."""
    s, second, third = sampler(22), [], []
    for seed in range(400):
        ctx = context(s, seed=seed, world=Interpreter(alike))
        asyncio.run(rgrp.search(ctx))
        steps = [row.step for row in ctx.history.rows]
        assert steps.count(11) == 6
        second.append(steps.count(16))
        third.append(steps.count(21))
        # 6 to step 11, looking; the survivors 5 steps further, their look counted; and again.
        assert ctx.charged.nfe == 2 * (6 * 12 + 5 * second[-1] + 5 * third[-1])
    for counts, expected in ((second, 3.9906), (third, 2.7263)):
        assert np.mean(counts) == pytest.approx(expected, abs=4 * np.std(counts) / 20)


def test_rgrp_keeps_the_highest_cumulative_weight_on_a_case_by_hand():
    """Temperature 1, rewards log 1, log 2, log 5 twice: c is twice 1/8, 2/8, 5/8 for those that are drawn."""
    log = [0.0, float(np.log(2)), float(np.log(5))]
    for seed in range(30):
        world = Scripted([*log, *log])
        ctx = context(sampler(8), seed=seed, world=world)
        winner = asyncio.run(rgrp.search(ctx, n=3, schedule=[2], beta=0.5))
        a = np.unique(np.sort(context(sampler(8), seed=seed).rng.choice(3, size=3, p=[1 / 8, 2 / 8, 5 / 8])))
        asked = [row.id for row in ctx.history.rows]
        assert winner.id == asked[a[-1]]  # the last of those drawn has the highest weight


# -- closed forms ----------------------------------------------------------------------------------------------------

ONE = Mixture(torch.ones(1).double(), torch.tensor([[0.5, -0.3]]).double(), torch.tensor([0.6]).double())


def along(x0: np.ndarray) -> float:
    return float(x0[0])


def ends(s, model: Mixture = ONE) -> tuple[float, float]:
    """Mean and standard deviation of the first coordinate of what the discrete chain makes of noise, exactly."""
    n = s.num_steps
    x = torch.zeros(n + 2, 2)
    x[1, 0] = 1
    noises = torch.zeros(n, n + 2, 2)
    noises[torch.arange(n), torch.arange(n) + 2, 0] = 1
    heard = noises if s.stochastic else [None] * n
    last = walk(solvers.solver({}, s), model, x, heard)[-1][:, 0].double()
    return float(last[0]), float((last[1:] - last[0]).square().sum().sqrt())


def test_best_of_n_reaches_the_expected_maximum():
    s = sampler(6)
    mean, std = ends(s)
    best = [along(search(best_of_n.search, s, seed=i, world=Interpreter(along, ONE), n=4)[0]) for i in range(400)]
    # The expected maximum of four standard normals is 1.02938, its standard deviation 0.7012.
    assert np.mean(best) == pytest.approx(mean + 1.02938 * std, abs=4 * 0.7012 * std / 20)


def population(kind: str, n: int, seed: int, solver: str) -> float:
    """The weighted mean of the first coordinate over the particles that a policy ends with."""
    s, lam = sampler(6, solver), 1.5
    log_g = smc.tempered(6, lam) if kind == "smc" else fk_steering.potentials(kind, lam, 6)
    world = Interpreter(along, ONE)
    ctx = context(s, seed=seed, world=world)
    xs, log_w = asyncio.run(particles(ctx, ctx.noise(n), log_g, steps=[2, 4, 6], threshold=0.9))
    w = np.exp(log_w - log_w.max())
    return float((w * [along(world.estimate(x)) for x in xs]).sum() / w.sum())


@pytest.mark.parametrize("kind", ["difference", "max", "sum", "smc"])
def test_particles_converge_to_the_tilted_distribution(kind):
    """Of N(m, s^2) tilted by exp(lam x) the mean is m + lam s^2; the error falls as 1 / sqrt(n)."""
    errors = []
    for n in (8, 128):
        mean, std = ends(sampler(6, "flow-sde"))
        found = np.array([population(kind, n, seed, "flow-sde") for seed in range(24)])
        errors.append(np.sqrt(np.mean((found - mean - 1.5 * std**2) ** 2)))
    assert errors[1] < 0.12
    assert 2 < errors[0] / errors[1] < 8, f"errors {errors}: not 4 apart"


def test_under_an_ode_dropped_copies_leave_their_weight():
    mean, std = ends(sampler(6, "euler"))
    found = [population("difference", 200, seed, "euler") for seed in range(8)]
    assert np.mean(found) == pytest.approx(mean + 1.5 * std**2, abs=0.1)


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


def test_neighbours_keep_norm_and_cosine():
    x, world = context(sampler(4)).noise(1)[0], Interpreter()
    ctx = context(sampler(4))
    x0, _ = world.state(x)
    for y in ctx.neighbours(x, 20, 0.95):
        assert isinstance(y.origin.how, Neighbour)
        other, _ = world.state(y)
        assert float((x0 * other).sum() / (x0.norm() * other.norm())) == pytest.approx(0.95, abs=1e-5)
        assert float(other.norm()) == pytest.approx(float(x0.norm()), rel=1e-5)


def test_evolutions_later_mutations_are_as_strong_as_the_sdes_step():
    s = sampler(10, "flow-sde")
    solver = solvers.solver({}, s)
    for t in range(9):
        x, v = torch.zeros(1, 2), torch.zeros(1, 2)
        quiet, loud = (solver.step(solver.start(t), v, x, torch.full((1, 2), k))[0] for k in (0.0, 1.0))
        assert evolution.spread(np.array(s.sigmas), t, 0.7) == pytest.approx(float((loud - quiet)[0, 0]), rel=1e-5)


# -- by scripted rewards ---------------------------------------------------------------------------------------------


def scripted(policy, rewards: list[float], s=None, **given):
    world = Scripted(list(rewards))
    ctx = context(s or sampler(8, "flow-sde"), world=world)
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


def test_dlbs_makes_no_copies_for_the_last_step():
    _, _, ctx = search(dlbs.search, sampler(8, "flow-sde"), b=2, k=3, lookahead=1)
    assert ctx.charged.reward_calls == 7 * 6 + 2


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


def test_the_lookahead_of_one_step_is_the_preview():
    world, ctx = Interpreter(), context(sampler(10, "flow-sde"))
    xs = ctx.denoise(ctx.noise(3), until=4)
    for x, y in zip(xs, ctx.lookahead(xs, 1), strict=True):
        np.testing.assert_allclose(world.estimate(y), world.estimate(x), atol=1e-6)


# -- mistakes, and drift ---------------------------------------------------------------------------------------------


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
        (best_of_n, {"n": 10**30}, "the number of noise: 1000000000000000000000000000000 is not allowed"),
    ],
)
def test_bad_arguments_are_one_clear_line(policy, given, line):
    with pytest.raises(ConfigError, match="^" + line.split(":")[0]) as raised:
        asyncio.run(policy.search(context(sampler(8), world=Scripted([])), **given))
    assert line in str(raised.value)


GOLDEN = Path(__file__).parents[1] / "golden_lineages.txt"


def lineages() -> str:
    """The recipe of each policy's winner, a line each. `python -m pytest` compares; this module writes them anew."""
    lines = []
    for name, kinds, given in CASES:
        for solver in kinds:
            for seed in (0, 1):
                policy, around = find_policy(name), OBSTACLES.get(name, [])
                _, x, _ = search(policy, sampler(12, solver), seed=seed, obstacles=around, **given)
                chain = [x, *x.ancestors()]
                parts = [f"{canonical_json({**c.origin.describe(), 'parent': None})}@{c.step}" for c in reversed(chain)]
                lines.append(f"{name} {canonical_json(given)} {solver} seed {seed}: {' '.join(parts)}")
    return "\n".join(lines) + "\n"


def test_winners_are_the_golden_ones():
    assert lineages().splitlines() == GOLDEN.read_text().splitlines()


if __name__ == "__main__":
    GOLDEN.write_text(lineages())
