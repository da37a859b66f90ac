"""Grids of arms, the curves of quality against compute, and their report."""
