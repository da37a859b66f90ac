"""Allocators that tests name in configs: patient twins of the shipped ones, and mistaken ones."""

import numpy as np

from policies.allocators import lowest_best, threshold, uniform


def patient(standing):
    return uniform.allocate(standing)


def patient_lowest(standing, *, share: float = 0.25):
    return lowest_best.allocate(standing, share=share)


def patient_threshold(standing, *, enough: float = 0.9):
    return threshold.allocate(standing, enough=enough)


def nobody(standing):
    return []


def first(standing):
    """The first search alone, whether it is open or not."""
    return [0]


def _begun(standing) -> bool:
    return bool((standing.cost != standing.cost[0]).any() or standing.best[0] != 0)  # not the dry run's made-up ones


def failing(standing):
    if _begun(standing):
        return 1 / 0
    return [0]


def twice(standing):
    return [0, 0] if _begun(standing) else [0]


def beyond(standing):
    return [standing.size] if _begun(standing) else [0]


def below(standing):
    return [-1] if _begun(standing) else [0]


def words(standing):
    return ["a"] if _begun(standing) else [0]


def none(standing):
    return None if _begun(standing) else [0]


def meddling(standing):
    """Writes over what it is shown."""
    picks = list(np.flatnonzero(standing.open))
    for values in vars(standing).values():
        values[:] = 0
    return picks
