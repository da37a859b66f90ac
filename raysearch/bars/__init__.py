"""Bars from data: the rule of `sequential` that gains most at a mean cost, from a tuning run."""
