"""ScalingNoise: beam search over the noises of a long video's chunks (Yang et al. 2025, arXiv 2503.16400)."""

from math import sqrt
from typing import Literal

from policies.checks import at_least
from policies.selection import top
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context


async def search(
    ctx: Context,
    *,
    k: int = 3,
    n: int = 10,
    m: int = 1,
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
    cutoff: float = 0.25,
    dims: int = 3,
    inversion: Literal["ode", "forward"] = "ode",
    delta: float = 0.5,
) -> Candidate:
    """ScalingNoise (2503.16400, algorithm 1): of k n noises for a chunk, or for a frame that enters a queue, keep k.

    A noise is scored by its x0 prediction after m evaluations, or by its finished chunk if m is sampler.num_steps. The
    first chunk has fresh noises; later ones have four kinds, in proportion to `weights`: A1 fresh noise; A2 frequency
    mixing (`cutoff`, over `dims` 2 or 3 axes); A3 `inversion` of the chunk before (`ode`, or `forward`, the released
    code's plain noising, which on a flow's grid keeps nothing of the chunk); A4 noises within `delta` norms of A3. The
    answer is the one of the k videos with the highest mean reward over its chunks.
    """
    at_least(1, k=k, n=n, m=m)
    at_least(0, delta=delta, **{f"weights[{i}]": w for i, w in enumerate(weights)})
    check(m <= ctx.num_steps, "policy.m", m, f"at most sampler.num_steps={ctx.num_steps}")
    if ctx.long.queue is not None:
        check(m <= ctx.long.queue.stride, "policy.m", m, f"at most long.fifo.stride={ctx.long.queue.stride}")
    check(len(weights) == 4, "policy.weights", weights, "a list of four weights")
    check(max(weights) > 0, "policy.weights", weights, "such that one of the four kinds has a weight above 0")
    check(0.01 <= cutoff <= 1, "policy.cutoff", cutoff, "in 0.01..1, of the highest frequency")
    check(dims in (2, 3), "policy.dims", dims, "2 (space) or 3 (space and time)")
    check(delta < sqrt(2), "policy.delta", delta, "below 1.414, the distance of unrelated noises")

    def proposals(v: Candidate) -> list[Candidate]:
        fresh, mixed, inverted, near = shares(n, weights)
        eps = ctx.extend(v, fresh) + ctx.extend(v, mixed, cutoff=cutoff, dims=dims)
        if inverted + near:
            start = ctx.invert(v) if inversion == "ode" else ctx.renoise(v, 1, to_step=0)[0]
            (a3,) = ctx.extend(v, 1, start=start)
            near += max(inverted - 1, 0)  # only one inversion exists; A4 takes the rest
            distances = ctx.rng.uniform(0, delta, near)
            a4 = [y for d in distances for y in ctx.neighbours(a3, 1, cosine=1 - d**2 / 2)]
            eps += [a3][:inverted] + a4
        return eps

    last = ctx.num_steps if m == ctx.num_steps and ctx.long.queue is None else m - 1
    eps = ctx.noise(k * n)
    while True:
        r = await ctx.score(ctx.denoise(eps, until=last))
        beams = ctx.denoise([eps[i] for i in top(r, k)])
        if beams[0].part == ctx.long.choices:
            break
        eps = [y for v in beams for y in proposals(v)]
    beams = ctx.complete(beams)
    return beams[top(await ctx.rate(beams), 1)[0]]


def shares(n: int, weights: tuple[float, ...]) -> list[int]:
    """n split into integers in proportion to weights, by largest remainders; ties go to the first."""
    weights = tuple(w / max(weights) for w in weights)  # so that the sum is finite
    exact = [n * w / sum(weights) for w in weights]
    parts = [int(x) for x in exact]
    for i in sorted(range(len(weights)), key=lambda i: parts[i] - exact[i])[: n - sum(parts)]:
        parts[i] += 1
    return parts
