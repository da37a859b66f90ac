"""Candidates as recipes: pure values, no tensors and no effects."""
