"""Solvers of the diffusion model's equations, and the repulsive potential."""
