"""Solvers of the diffusion ODE and SDE, and the repulsive potential of obstacles."""
