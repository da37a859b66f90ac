"""Diffusion tree sampling and search (DTS: Jain et al. 2025, arXiv 2506.20701)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.checks import above, at_least, rising, stochastic
from policies.resampling import log_mean_exp, softmax
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


@dataclass
class Node:
    """A candidate at a level of the tree, and its soft value v; the root, above the first level, has no candidate."""

    x: Candidate | None
    depth: int
    v: float = 0.0
    visits: int = 0
    children: list["Node"] = field(default_factory=list)


async def search(
    ctx: Context,
    *,
    iterations: int = 8,
    lam: float = 10.0,
    schedule: Sequence[int] = (5, 10),
    width: float = 2.0,
    alpha: float = 0.5,
) -> Candidate:
    """DTS (2506.20701): a tree of denoising paths that branch at scheduled steps, grown by one finished path at a time.

    A node with fewer than width visits^alpha children gets a new one; else a child is drawn with weights exp(lam v).
    The answer is the finished path with the highest reward. Needs a stochastic solver.
    """
    at_least(1, iterations=iterations, width=width)
    above(0, lam=lam)
    check(0 <= alpha <= 1, "policy.alpha", alpha, "in [0, 1]")
    stochastic(ctx, "tree")
    rising(ctx, "schedule", schedule, low=1, high=ctx.num_steps - 2)  # the last step adds no noise

    levels = [0, *schedule, ctx.num_steps]
    root, leaves = Node(None, -1), list[Node]()
    while await ctx.trials(min(iterations - len(leaves), 1)):
        path = [root]
        while path[-1].depth < len(levels) - 1:
            path.append(descend(ctx, path[-1], levels, lam=lam, width=width, alpha=alpha))
        leaves.append(path[-1])
        path[-1].v = float((await ctx.score([leaves[-1].x]))[0])  # type: ignore[list-item]
        backup(path, lam=lam)
    return max(leaves, key=lambda leaf: leaf.v).x  # type: ignore[return-value]


def descend(ctx: Context, node: Node, levels: Sequence[int], *, lam: float, width: float, alpha: float) -> Node:
    """A new child, while the node has too few (below the last branching level one is enough), else one of its own."""
    limit = 1 if node.depth == len(levels) - 2 else max(1, width * node.visits**alpha)
    if len(node.children) >= limit:
        w = softmax(lam * np.array([c.v for c in node.children]))
        return node.children[int(ctx.rng.choice(len(w), p=w))]
    # The first child keeps the node's noise; later children get other noise from here on.
    x = ctx.noise(1)[0] if node.x is None else ctx.branch(node.x, 1)[0] if node.children else node.x
    node.children.append(Node(ctx.denoise([x], until=levels[node.depth + 1])[0], node.depth + 1))
    return node.children[-1]


def backup(path: Sequence[Node], *, lam: float) -> None:
    """Update the soft values from leaf to root: v = 1/lam log mean exp(lam v) over a node's children."""
    for node in reversed(path):
        node.visits += 1
        if node.children:
            node.v = log_mean_exp(lam * np.array([c.v for c in node.children])) / lam
