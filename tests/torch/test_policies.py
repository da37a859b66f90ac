"""Every policy is the algorithm that it names: on the exact mixture, against numpy loops, tables and closed forms."""

import asyncio
from pathlib import Path

import brute
import numpy as np
import pytest
import torch
from exact import MODEL, Interpreter, Numpy, barrier, context, sampler, search, walk

from actors.models.mixture import Mixture
from actors.sampling import solvers
from policies import best_of_n, dlbs, evolution, fk_steering, smc
from policies.feynman_kac import particles
from raysearch.config.policies import find_policy
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
    ("rgrp", BOTH, {"n": 5, "schedule": (2, 4), "beta": 0.5, "temperature": 0.3, "early": True}),
    ("halving", BOTH, {"n": 7, "schedule": (2, 4, 7), "early": False}),
    ("halving", BOTH, {"n": 7, "schedule": (1, 2), "early": True}),
    ("sequential", BOTH, {"n": 7, "batch": 1, "looks": (3, 6), "bars": (-1.5, -1.0), "enough": -0.8, "early": False}),
    ("sequential", BOTH, {"n": 7, "batch": 2, "looks": (3, 6), "bars": (-2.0, -1.0), "enough": -0.8, "early": True}),
    ("sequential", BOTH, {"n": 3, "batch": 3, "looks": (2, 5), "bars": (-1.5, 0.0), "enough": None, "early": False}),
    ("sequential", BOTH, {"n": 4, "batch": 3, "looks": (2,), "bars": None, "enough": None, "early": False}),
    *(
        ("fk_steering", BOTH, {"k": 5, "lam": 4.0, "potential": p, "interval": 0.25, "threshold": 0.7})
        for p in ("difference", "max", "sum")
    ),
    ("smc", BOTH, {"n": 5, "strength": 4.0, "every": 2, "threshold": 0.7}),
    ("tournament", BOTH, {"n": 14, "batch": 8, "keep": 0.5, "games": 1.5, "rivals": 3, "k": 32.0}),
    ("tournament", BOTH, {"n": 9, "batch": 9, "keep": 0.7, "games": 1.0, "rivals": 0, "k": 64.0}),
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
        # All pass: 12 whole videos, whose look at step 12 is their next step.
        ("sequential", "euler", {}, 12 * 50),
        ("sequential", "euler", {"enough": 0.0}, 50),
        ("sequential", "euler", {"batch": 5, "enough": 0.0}, 5 * 50),
        # None passes: 12 to step 12, looking; the first goes on, its look counted.
        ("sequential", "euler", {"bars": (0.1,)}, 12 * 13 + 37),
        # An early look reads the latent: no evaluation beyond the steps.
        ("sequential", "euler", {"bars": (0.1,), "early": True}, 12 * 12 + 38),
        # 4 to step 10, looking; 2 of them 5 further, their look counted; one to the end.
        ("halving", "euler", {}, 4 * 11 + 2 * 5 + 34),
        ("halving", "euler", {"early": True}, 4 * 10 + 2 * 5 + 35),
        ("halving", "euler", {"n": 5, "schedule": (10,)}, 5 * 11 + 3 * 39),
        ("tournament", "euler", {}, 16 * 50),  # comparing makes no video anew
    ],
)
def test_costs_by_hand(name, solver, given, evaluations):
    _, _, ctx = search(find_policy(name), sampler(50, solver), world=Interpreter(alike), **given)
    assert ctx.charged.nfe == 2 * evaluations  # guidance


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


def test_dlbs_makes_no_copies_for_the_last_step():
    _, _, ctx = search(dlbs.search, sampler(8, "flow-sde"), b=2, k=3, lookahead=1)
    assert ctx.charged.reward_calls == 7 * 6 + 2


def test_the_lookahead_of_one_step_is_the_preview():
    world, ctx = Interpreter(), context(sampler(10, "flow-sde"))
    xs = ctx.denoise(ctx.noise(3), until=4)
    for x, y in zip(xs, ctx.lookahead(xs, 1), strict=True):
        np.testing.assert_allclose(world.estimate(y), world.estimate(x), atol=1e-6)


# -- mistakes, and drift ---------------------------------------------------------------------------------------------


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
