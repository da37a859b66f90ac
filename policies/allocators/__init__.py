"""Allocators: each shares a total budget out among the searches of an arm, in a function `allocate(standing, *, ...)`.

It returns the indices of the searches that should make one more trial in this round, the most wanted first; the engine
cuts off from the end what the budget cannot pay. Nobody picked ends the arm. It must be a pure function: no generator,
no clock, nothing remembered from an earlier round.
"""
