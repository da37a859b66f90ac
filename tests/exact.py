"""Policies on the exact mixture, in milliseconds: a context that interprets recipes directly, and its numpy twin.

`Interpreter` answers scores by making each candidate from its recipe with the real solvers, with no engine between.
Its rewards.early is how close the noisy latent itself is to the goal, and its rewards.compare prefers the closer video.
`Numpy` is for brute-force versions of algorithms: arrays, Euler steps and kernels written from the formulas; of the
recipes it knows only which key each noise has.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scripted
import torch

from actors.models.mixture import Mixture
from actors.sampling import potential, solvers
from raysearch.recipe.candidate import Candidate, Sampler, denoise
from raysearch.recipe.digests import digest, noise_key
from raysearch.recipe.origins import (
    Branch,
    Jitter,
    Lookahead,
    Neighbour,
    Obstacle,
    Perturb,
    Push,
    Recording,
    Renoise,
    grouped,
)
from raysearch.recipe.reward import Pair, Question, Reward, Score
from raysearch.search.context import Context
from raysearch.search.obstacles import Barrier

MODEL = Mixture(
    torch.tensor([0.4, 0.35, 0.25]).double(),
    torch.tensor([[-1.5, 0.5], [1.0, -1.0], [0.5, 1.5]]).double(),
    torch.tensor([0.3, 0.5, 0.2]).double(),
)
GOAL = np.array([1.2, 0.4])


def closeness(x0: np.ndarray) -> float:
    """The reward: minus the distance to a point off the modes."""
    return -float(np.linalg.norm(x0 - GOAL))


def preference(first: float, second: float) -> float:
    """The probability that a judge prefers the first of two rewards."""
    return float(1 / (1 + np.exp(3 * (second - first))))


def sampler(num_steps: int = 12, name: str = "euler") -> Sampler:
    return replace(scripted.sampler(num_steps, name), sigmas=solvers.grid({"flow_shift": 3.0}, name, None, num_steps))


def normal(key: int) -> np.ndarray:
    return torch.randn((1, 2, 1, 1, 1), generator=torch.Generator().manual_seed(key)).numpy().ravel().astype(float)


@dataclass
class Interpreter:
    """Latents of candidates, each made once, from recipes alone."""

    reward: Callable[[np.ndarray], float] = closeness
    model: Mixture = MODEL
    states: dict[bytes, tuple[torch.Tensor, solvers.State]] = field(default_factory=dict)
    grids: dict[bytes, solvers.Solver] = field(default_factory=dict)

    def solver(self, s: Sampler) -> solvers.Solver:
        if s.identity not in self.grids:
            self.grids[s.identity] = solvers.solver({}, s)
        return self.grids[s.identity]

    def velocity(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.model.velocity(x.flatten(1).double(), torch.tensor([sigma]).double()).float().view_as(x)

    def state(self, c: Candidate) -> tuple[torch.Tensor, solvers.State]:
        if c.identity not in self.states:
            self.states[c.identity] = self._make(c)
        return self.states[c.identity]

    def _make(self, c: Candidate) -> tuple[torch.Tensor, solvers.State]:
        solver, o = self.solver(c.sampler), c.origin
        if c.step > o.step:
            x, state = self.state(Candidate(c.prompt, c.sampler, o, c.step - 1))
            noise = None
            if c.sampler.stochastic:
                noise = torch.tensor(normal(noise_key(digest(o.lineage, c.step - 1), "step"))).float().view_as(x)
            return solver.step(state, self.velocity(x, c.sampler.sigmas[c.step - 1]), x, noise)
        noise = torch.tensor(normal(o.key)).float().view(1, 2, 1, 1, 1)
        if o.parent is None:
            return noise, solver.start(0)
        x, state = self.state(o.parent)
        match o.how:
            case Branch():
                return x, state
            case Lookahead():
                made = x
            case Perturb(beta):
                made = (1 - beta**2) ** 0.5 * x + beta * noise
            case Jitter(std):
                made = x + std * noise
            case Neighbour(cosine):
                made = solvers.neighbour(x, cosine, noise)
            case Renoise(to_step):
                made = solver.renoise(x, o.parent.step, to_step, noise)
            case Push(eta, reach, h, layout):
                x0 = x - o.parent.sigma * self.velocity(x, o.parent.sigma)
                obstacles = [self.points(p) for p in grouped(layout, o.reads)]
                made = x + potential.push(x0, obstacles, eta, reach, h)
        return made, solver.start(o.step)

    def estimate(self, c: Candidate) -> np.ndarray:
        """x0 at the candidate's own point, (2,)."""
        x, _ = self.state(c)
        if not c.finished:
            x = x - c.sigma * self.velocity(x, c.sigma)
        return x.numpy().ravel().astype(float)

    def point(self, p: Candidate | Recording) -> torch.Tensor:
        """Of an obstacle: a finished candidate's latent, or coordinates that stand in a recording's path."""
        if isinstance(p, Recording):
            return torch.tensor([float(c) for c in p.path.split(",")]).view(1, 2, 1, 1, 1)
        return self.state(p)[0]

    def points(self, o: Obstacle) -> potential.Points:
        return o.space, tuple(self.point(p) for p in o.points)

    async def answer(self, xs: Sequence[Question], reward: Reward) -> list[Score]:
        def total(x: Question) -> float:
            if isinstance(x, Pair):
                return preference(*(self.reward(self.estimate(c)) for c in (x.first, x.second)))
            if reward == scripted.EARLY:
                return closeness(self.state(x)[0].numpy().ravel().astype(float))
            x0 = self.estimate(x)
            if not reward.obstacles:
                return self.reward(x0)
            estimate = torch.tensor(x0).view(1, 2, 1, 1, 1)
            return min(float(potential.distance(estimate, self.points(o))) for o in reward.obstacles)

        return [Score((total(x),)) for x in xs]


def barrier(*point: float, space: str = "latent") -> Barrier:
    """An obstacle at a point of the plane."""
    obstacle = Obstacle((Recording(",".join(map(str, point)), repr(point).encode()),), space)
    return Barrier(Reward("distance", obstacle.identity, ("distance",), (1.0,), "estimate", (obstacle,)), obstacle)


def context(s: Sampler, *, world: Any = None, **given: Any) -> Context:
    return scripted.context(s, world=world or Interpreter(), at_steps=lambda n: sampler(n, s.name), **given)


def search(
    policy, s: Sampler, *, seed: int = 0, world: Interpreter | None = None, budget=None, obstacles=(), **arguments
):
    """The winner's finished latent (2,), the winner, and the context with its account."""
    world = world or Interpreter()
    ctx = context(s, seed=seed, world=world, obstacles=obstacles, **(budget or {}))
    winner = asyncio.run(policy(ctx, **arguments))
    ctx.meter.charged += ctx.meter.ledger.finish(winner)
    return world.estimate(denoise(winner, winner.sampler.num_steps)), winner, ctx


def walk(s: solvers.Solver, mixture: Mixture, x: torch.Tensor, noises) -> list[torch.Tensor]:
    """The latents (B, C) of all levels."""
    state, xs = s.start(0), [x]
    for i, noise in enumerate(noises):
        level = s.sigmas[i].double().expand(len(x))
        x, state = s.step(state, mixture.velocity(x.double(), level).float(), x, noise)
        xs.append(x)
    return xs


# -- the numpy twin --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A latent, the steps done, and what keys the noise of its steps and children."""

    x: np.ndarray
    t: int
    origin: bytes

    @property
    def lineage(self) -> bytes:
        return digest(self.origin, self.t)


class Numpy:
    """Euler (and Flow-GRPO) steps and kernels in numpy. Ordinals of children count up per point."""

    def __init__(self, s: Sampler, seed: int = 0) -> None:
        self.s, self.seed, self.sigmas = s, seed, np.array(s.sigmas)
        self.T = s.num_steps
        self.children: dict[bytes, int] = {}
        self.noises = 0

    def noise(self) -> Point:
        i, self.noises = self.noises, self.noises + 1
        origin = digest("noise", self.seed, i, "")
        return Point(normal(self.seed if i == 0 else noise_key(origin, "noise")), 0, origin)

    def v(self, x: np.ndarray, s: float) -> np.ndarray:
        w, m, d = MODEL.weights.numpy(), MODEL.means.numpy(), MODEL.stds.numpy()
        a = 1 - s
        var = a**2 * d**2 + s**2
        p = w / var * np.exp(-0.5 * ((x - a * m) ** 2).sum(1) / var)
        x0 = m + (a * d**2 / var)[:, None] * (x - a * m)
        x0 = (p[:, None] * x0).sum(0) / p.sum()
        return (x - x0) / s

    def x0(self, p: Point) -> np.ndarray:
        return p.x if p.t == self.T else p.x - self.sigmas[p.t] * self.v(p.x, self.sigmas[p.t])

    def to(self, p: Point, t: int) -> Point:
        """Denoised until step t."""
        x = p.x
        for i in range(p.t, t):
            s, s_next = self.sigmas[i], self.sigmas[i + 1]
            v, dt = self.v(x, s), s_next - s
            if self.s.stochastic and i < self.T - 1:
                off = self.sigmas[1] if i == 0 else s
                g = self.s.eta * np.sqrt(off / (1 - off))
                mean = x * (1 + g**2 / (2 * s) * dt) + v * (1 + g**2 * (1 - s) / (2 * s)) * dt
                x = mean + g * np.sqrt(-dt) * normal(noise_key(digest(p.origin, i), "step"))
            else:
                x = x + dt * v
        return replace(p, x=x, t=t)

    def child(self, p: Point, kind: str, make, *arguments, step: int | None = None) -> Point:
        k = self.children.get(p.lineage, 0)
        self.children[p.lineage] = k + 1
        eps = normal(noise_key(digest(p.lineage, k, ""), kind))
        return Point(make(eps), p.t if step is None else step, digest(kind, p.lineage, k, "", *arguments))

    def perturb(self, p: Point, b: float) -> Point:
        return self.child(p, "perturb", lambda e: np.sqrt(1 - b**2) * p.x + b * e, b)

    def jitter(self, p: Point, std: float) -> Point:
        return self.child(p, "jitter", lambda e: p.x + std * e, std)

    def branch(self, p: Point) -> Point:
        return self.child(p, "branch", lambda e: p.x)

    def neighbour(self, p: Point, cosine: float) -> Point:
        def make(e):
            u = p.x / np.linalg.norm(p.x)
            w = e - (e @ u) * u
            return np.linalg.norm(p.x) * (cosine * u + np.sqrt(1 - cosine**2) * w / np.linalg.norm(w))

        return self.child(p, "neighbour", make, cosine)

    def renoise(self, p: Point, to: int) -> Point:
        s, s_to = self.sigmas[p.t], self.sigmas[to]
        ratio = (1 - s_to) / (1 - s) if s < 1 else 1.0
        spread = np.sqrt(max(s_to**2 - ratio**2 * s**2, 0))
        return self.child(p, "renoise", lambda e: ratio * p.x + spread * e, to, step=to)
