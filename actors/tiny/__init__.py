"""The tiny world: its renderer, its exact verifier, and how the weights that ship were made."""
