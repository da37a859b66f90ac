"""Every policy is the algorithm that it names: on the exact mixture, against numpy loops, tables and closed forms."""

import brute
import numpy as np
import pytest
from exact import MODEL, Numpy, barrier, context, sampler, search

from raysearch import config as configuration

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
        {"n": 3, "eta": (1.0, 0.2), "reach": (0.5, 1.1), "h": 0.02, "start": 4, "every": 2, "back": 2, "tries": 5}
        | {"obstacles": [barrier(*MODEL.means[1].tolist()), barrier(*MODEL.means[0].tolist())]},
    ),
]


@pytest.mark.parametrize(("name", "solver", "given"), [(n, s, g) for n, solvers, g in CASES for s in solvers])
def test_same_decisions_as_a_plain_loop(name, solver, given):
    policy, s = configuration.find_policy(name), sampler(12, solver)
    more = {"resampling": "multinomial"} if name == "smc" else {}
    for seed in range(4):
        found, _, _ = search(policy, s, seed=seed, **given, **more)
        expected = getattr(brute, name)(Numpy(s, seed), context(s, seed=seed).rng, **given)
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=f"seed {seed}")
