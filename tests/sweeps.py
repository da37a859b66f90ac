"""Small sweeps, which tests of grids and of the command share."""

from raysearch.sweep import grid as sweep

BASE = {
    "model": {"path": "fake"},
    "prompts": ["a", "b", "c"],
    "sampler": {"num_steps": 10},
    "output": {"videos": False},
}


BEST = {"policy": {"name": "best_of_n"}, "along": {"policy.n": [1, 2, 4]}}


RGRP = {
    "policy": {"name": "rgrp", "schedule": [2, 5, 7]},
    "along": {"policy.n": [2, 4]},
    "across": {"policy.beta": [0.1, 0.5]},
}


def grid(*found, across=None, **values):
    block = {"curves": list(found)} | ({"across": across} if across else {})
    return sweep.build(BASE | values | {"sweep": block})
