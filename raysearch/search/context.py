"""What a policy sees: verbs that make recipes, which are pure and instant, and two effects, `score` and `compare`.

A policy is a coroutine `search(ctx, *, ...) -> Candidate`. It touches only `ctx` and `ctx.rng`, hence the same seed
gives the same winner whatever the fleet, the order of completion, or what was already made for others.
"""

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raysearch.config.config import Budget
from raysearch.config.step_cache import CacheBlock, cached
from raysearch.errors import BudgetExhausted, ConcurrencyError, ConfigError, check
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Prompt, Sampler, ahead, denoise, invert, rebase
from raysearch.recipe.digests import digest
from raysearch.recipe.long_video import ALONE, Course
from raysearch.recipe.origins import (
    Branch,
    Derived,
    Extend,
    How,
    Jitter,
    Neighbour,
    Noise,
    Perturb,
    Push,
    Renoise,
    Slide,
    layout,
    points,
)
from raysearch.recipe.reward import Pair, Question, Reward, Score, seen
from raysearch.search.budget import Cost, Meter
from raysearch.search.history import History, Moment
from raysearch.search.obstacles import Barrier

MOST = 100_000  # candidates made at once: what is beyond is a slip, and would fill the memory


@dataclass(frozen=True)
class Solver:
    """A solver as a policy sees it."""

    name: str
    stochastic: bool


class Context:
    """One search's verbs. `answer` is the world: it answers questions about candidates and records the answers."""

    def __init__(
        self,
        prompt: Prompt,
        sampler: Sampler,
        seed: int,
        *,
        reward: Reward | None,
        early: Reward | None = None,
        judge: Reward | None = None,
        meter: Meter,
        answer: Callable[[Sequence[Question], Reward], Awaitable[list[Score]]],
        rng_key: tuple[object, ...],
        history: History | None = None,
        scope: str = "",
        at_steps: Callable[[int], Sampler] | None = None,
        commit: Sampler | None = None,
        obstacles: Sequence[Barrier] = (),
        long: Course = ALONE,
        turn: Callable[[Candidate], Awaitable[bool]] | None = None,
    ) -> None:
        """`reward`, `early` and `judge` are rewards.search, rewards.early and rewards.compare.

        `turn` waits until an allocator has chosen the search again, and returns False if none ever will. It is given
        the candidate that the search would be charged for finishing if it ended now.
        """
        self.prompt, self.sampler, self.seed = prompt, sampler, seed
        self.history = History() if history is None else history
        self._rewards, self._judge = {"search": reward, "early": early}, judge
        self.meter, self._answer = meter, answer
        self._rng_key, self._scope = rng_key, scope
        self._at_steps, self._commit = at_steps, commit
        self.obstacles, self.long, self.turn = tuple(obstacles), long, turn
        self._begin()

    def _begin(self) -> None:
        self._ordinals: dict[bytes, int] = {}
        self._children: set[str] = set()
        self._noises = self._pending = 0
        self._rng: np.random.Generator | None = None

    # -- what is given ---------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """The solver steps of the grid."""
        return self.sampler.num_steps

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels of the grid, (num_steps + 1,), from 1 to 0."""
        return np.array(self.sampler.sigmas)

    @property
    def solver(self) -> Solver:
        """The solver's name, and whether it is stochastic."""
        return Solver(self.sampler.name, self.sampler.stochastic)

    @property
    def budget(self) -> Budget:
        """The most that the search may spend."""
        return self.meter.budget

    @property
    def charged(self) -> Cost:
        """What the search has been charged so far."""
        return self.meter.charged

    @property
    def rng(self) -> np.random.Generator:
        """The search's own generator, seeded by its seed, prompt, policy and arguments."""
        self._quiet("rng")
        if self._rng is None:
            key = digest("rng", self.seed, *self._rng_key, self._scope)
            self._rng = np.random.default_rng(int.from_bytes(key, "big"))
        return self._rng

    # -- recipes: pure ---------------------------------------------------------------------------------------------

    def noise(self, n: int = 1) -> list[Candidate]:
        """`n` candidates of fresh noise; the first of a search is the noise that diffusers draws for its seed."""
        self._count("noise", n)
        first, self._noises = self._noises, self._noises + n
        origins = [Noise(self.seed, i, self._scope) for i in range(first, first + n)]
        return [Candidate(self.prompt, self.sampler, o) for o in origins]

    def perturb(self, x: Candidate, n: int, beta: float) -> list[Candidate]:
        """`n` variations sqrt(1 - beta^2) x + beta eps, at the same step, with fresh solver state."""
        check(0 <= beta <= 1, "beta", beta, "in [0, 1]")
        return self._derived(x, n, Perturb(float(beta)))

    def neighbours(self, x: Candidate, n: int, cosine: float) -> list[Candidate]:
        """`n` latents of the norm of x at this cosine to x, at the same step, with fresh solver state."""
        check(-1 <= cosine <= 1, "cosine", cosine, "in [-1, 1]")
        return self._derived(x, n, Neighbour(float(cosine)))

    def jitter(self, x: Candidate, n: int, std: float) -> list[Candidate]:
        """`n` variations x + std eps, at the same step, with fresh solver state."""
        check(std >= 0, "std", std, "at least 0")
        return self._derived(x, n, Jitter(float(std)))

    def renoise(self, x: Candidate, n: int, to_step: int) -> list[Candidate]:
        """`n` forward noisings of x, back up to the noise level of an earlier step, with fresh solver state."""
        queue = long_video.is_queue(x)  # its latest clean frames are a finished clip
        check(x.finished or not queue, "a queue to noise", x.step, "finished")
        step = self.num_steps if queue else x.step
        check(0 <= to_step <= step, "to_step", to_step, f"in 0..{step}, the candidate's step")
        return self._derived(x, n, Renoise(to_step), sampler=x.sampler.whole)

    def branch(self, x: Candidate, n: int) -> list[Candidate]:
        """`n` copies that keep the solver state and see other noise from here on."""
        if not self.sampler.stochastic:
            raise ConfigError(
                f"sampler.name: {self.sampler.name!r} is deterministic, so branches of a candidate would be identical; "
                "it must be a stochastic solver"
            )
        return self._derived(x, n, Branch())

    def denoise(self, xs: Sequence[Candidate], until: int | None = None) -> list[Candidate]:
        """The same trajectories after `until` steps of the grid (all of them by default)."""
        if until is None:
            return [denoise(x, x.sampler.num_steps) for x in xs]
        check(0 <= until <= self.num_steps, "a scheduled step", until, f"in 0..{self.num_steps} (sampler.num_steps)")
        return [denoise(x, until) for x in xs]

    def extend(
        self, x: Candidate, n: int, *, cutoff: float = 0.0, dims: int = 3, start: Candidate | None = None
    ) -> list[Candidate]:
        """`n` next parts of a long video after the finished `x`, noise yet: fresh, or with x in its low frequencies.

        `cutoff` is a share of the highest frequency, in space (`dims` 2) or in space and time (3); `start` is a
        candidate whose latent is the noise. In a queue one frame of noise enters: the last frames of `x` and of `start`
        count.
        """
        check(x.finished, "a part to continue", x.step, "finished")
        check(x.part + 1 < self.long.parts, "the parts of a video", x.part + 2, f"at most {self.long.parts}")
        check(0 <= cutoff <= 1, "cutoff", cutoff, "in [0, 1]")
        check(dims in (2, 3), "dims", dims, "2 or 3")
        reads = () if start is None else (start,)
        if (queue := self.long.queue) is None:
            extend = Extend(prefix=self.long.prefix, anew=self.long.anew, cutoff=float(cutoff), dims=dims)
            return self._derived(x, n, extend, reads=reads)
        slide = Slide(cutoff=float(cutoff), dims=dims)
        return self._derived(x, n, slide, reads=reads, sampler=x.sampler.of_queue(queue, x.part + 1))

    def invert(self, x: Candidate, guidance_scale: float = 1.0) -> Candidate:
        """The noise that the ODE leads back to from the finished `x`, at the end of a grid that rises."""
        self._own("inverts videos")
        check(x.finished, "a candidate to invert", x.step, "finished")
        return invert(x, guidance_scale)

    def complete(self, xs: Sequence[Candidate]) -> list[Candidate]:
        """The finished videos that candidates become by themselves: denoised to the end, part after part."""
        done = []
        for x in xs:
            x = denoise(x, x.sampler.num_steps)
            while x.part + 1 < self.long.parts:
                (x,) = self.extend(x, 1)
                x = denoise(x, x.sampler.num_steps)
            done.append(x)
        return done

    def lookahead(self, xs: Sequence[Candidate], steps: int) -> list[Candidate]:
        """The finished candidates that `steps` deterministic steps make of each, or as many steps as are left.

        The first evaluation is that of the candidate's own next step, and paid once.
        """
        self._own("looks ahead")
        return [ahead(x, min(steps, self.num_steps - x.step)) if not x.finished else x for x in xs]

    def push(self, x: Candidate, *, eta: Sequence[float], reach: Sequence[float], h: float) -> Candidate:
        """x - h grad U_rep at its x0 prediction, with fresh solver state; one eta and one reach for each obstacle.

        Nothing pushes away from a classifier.
        """
        fits = not x.finished and not long_video.is_queue(x)
        check(fits, "a candidate to push", x.step, "a clip that is not finished")
        felt = [
            (b.obstacle, float(e), float(q))
            for b, e, q in zip(self.obstacles, eta, reach, strict=True)
            if b.obstacle is not None
        ]
        if not felt:
            return x
        obstacles, etas, reaches = zip(*felt, strict=True)
        how = Push(etas, reaches, float(h), layout(obstacles))
        return Candidate(x.prompt, x.sampler, Derived(x, 0, how, reads=points(obstacles)))

    def _own(self, what: str) -> None:
        allowed = f"another solver with a policy that {what}: a pipeline is run as it is"
        check(not self.sampler.piped, "sampler.name", self.sampler.name, allowed)
        check(self.sampler.cache is None, "policy.cache", self.sampler.cache, f"null with a policy that {what}")

    def rebase(self, x: Candidate, sampler: Sampler) -> Candidate:
        """The step-0 start of x under another sampler: draft, then commit."""
        return rebase(x, sampler)

    def child(self, label: str) -> "Context":
        """A concurrent subtree of the search, with its own rng and ordinals; budget and history are shared."""
        self._quiet("child")
        check("/" not in label and label not in self._children, "the label of a child", label, "new, and without a /")
        self._children.add(label)
        return self._within(self.sampler, self._rng_key, f"{self._scope}/{label}", self._commit)

    def draft(self, steps: int, cache: CacheBlock | None = None) -> "Context":
        """The same search with fewer solver steps and maybe a step cache; noise, budget and history are shared.

        What it finds is to be rebased to this sampler: the cost of that is what its budget holds back. With a cache it
        may score finished candidates alone.
        """
        self._quiet("draft")
        check(self.long.parts == 1, "long.chunks", "above 1", "1 with a policy that drafts")
        assert self._at_steps is not None
        check(1 <= steps <= self.num_steps, "the steps of a draft", steps, f"in 1..{self.num_steps}")
        own = self._at_steps(steps) if cache is None else cached(self._at_steps(steps), cache)
        return self._within(own, (*self._rng_key, "draft", steps), self._scope, self._commit or self.sampler)

    def _within(self, sampler: Sampler, rng_key: tuple[object, ...], scope: str, commit: Sampler | None) -> "Context":
        """A context of the same search, budget and history, with a generator, ordinals and noises of its own."""
        within = copy(self)
        within.sampler, within._rng_key, within._scope, within._commit = sampler, rng_key, scope, commit
        within._begin()
        return within

    # -- the effects: questions about candidates ----------------------------------------------------------------

    async def score(self, xs: Sequence[Candidate], *, by: Literal["search", "early"] = "search") -> np.ndarray:
        """The weighted reward of each candidate at its own point, float64, (len(xs),).

        `by` says which reward: rewards.search, or rewards.early, whose numbers need not have the same scale.
        Raises BudgetExhausted, with nothing dispatched, when it does not fit the search's budget.
        """
        xs = list(xs)
        if not xs:
            return np.zeros(0)
        reward, early = self._rewards[by], by == "early"
        if reward is None:
            name = "pavrm" if early else "verifier"
            raise ConfigError(f"rewards.{by} is missing: the policy asks for it; say rewards.{by}.name={name}")
        scores, moment = await self._ask(xs, reward, reward if early else None)
        totals = reward.totals([s.components for s in scores])
        for x, total, s in zip(xs, totals, scores, strict=True):
            self.meter.hold(self.history.add(x, total, s, moment, early=early))
        return np.array(totals)

    async def compare(self, xs: Sequence[Candidate], ys: Sequence[Candidate]) -> np.ndarray:
        """How much each of `xs` is preferred to its opposite number in `ys`, float64 in [0, 1], (len(xs),).

        A rewards.compare that does not compare prefers the higher reward. Charged as a score is; not in the history.
        """
        pairs = list(zip(xs, ys, strict=True))
        if not pairs:
            return np.zeros(0)
        if (judge := self._judge) is None:
            raise ConfigError("rewards.compare is missing: the policy asks for it; say rewards.compare.name=judge")
        if not judge.pairwise:
            by = None if judge == self._rewards["search"] else judge
            scores, _ = await self._ask([x for pair in pairs for x in pair], judge, by)
            r = np.array(judge.totals([s.components for s in scores])).reshape(-1, 2)
            return np.asarray(0.5 + 0.5 * np.sign(r[:, 0] - r[:, 1]))
        asked = [Pair.of(x, y) for x, y in pairs if x is not y]
        scores = (await self._ask(asked, judge, judge))[0] if asked else []
        p = {(q.first, q.second): s.components[0] for q, s in zip(asked, scores, strict=True)}
        p |= {(y, x): 1 - won for (x, y), won in p.items()}
        return np.array([p.get(pair, 0.5) for pair in pairs])

    async def trials(self, at_most: int) -> int:
        """How many trials may begin now: `at_most`, unless an allocator shares a total budget out; 0 ends the search.

        A trial is whatever the policy can do once more, such as another noise. Under an allocator the answer is 1, and
        comes when the search has been chosen again; the first trial is every search's. Raises ConcurrencyError while
        any score of the search is pending: what it is charged by then would depend on which was faster.
        """
        if self.history.pending:
            raise ConcurrencyError("ctx.trials while a score of the same search is pending, if only of a child")
        if at_most <= 0:
            return 0
        given = at_most if self.turn is None else 1
        if self.turn is not None and self.history.trials:
            given = int(await self.turn(self._rendered(self.best)))
        self.history.trials += given
        return given

    async def rate(self, xs: Sequence[Candidate]) -> np.ndarray:
        """The mean reward of the chunks of each finished video, float64, (len(xs),).

        The chunks of a queue are its latest clean frames, whenever a whole chunk has left the queue.
        """
        chunks = [[c for c in long_video.parts(x) if long_video.shows(c)] for x in xs]
        r = iter(await self.score([c for kept in chunks for c in kept]))
        return np.array([np.mean([next(r) for _ in kept]) for kept in chunks])

    async def distances(self, xs: Sequence[Candidate]) -> np.ndarray:
        """How far the x0 prediction of each candidate is from each obstacle, float64, (len(xs), obstacles).

        Charged and refused as a score is; not in the history.
        """
        d = np.zeros((len(xs), len(self.obstacles)))
        for i, b in enumerate(self.obstacles if len(xs) else ()):
            scores, _ = await self._ask(xs, b.distance, b.distance)
            d[:, i] = [b.away(s.components) for s in scores]
        return d

    async def _ask(self, xs: Sequence[Question], reward: Reward, by: Reward | None) -> tuple[list[Score], Moment]:
        fresh = {x.identity for x in xs if not self.meter.ledger.asked(x, by)}
        over = self.meter.admit(xs, lambda: (self.best, self._rendered(self.best)), by)
        if over is not None:
            self.history.exhausted = over
            raise BudgetExhausted(f"{over} is reached")
        moment = self.meter.moment()
        self._pending, self.history.pending = self._pending + 1, self.history.pending + 1
        try:
            scores = await self._answer(xs, reward)
        finally:
            self._pending, self.history.pending = self._pending - 1, self.history.pending - 1
        for x, s in zip(xs, scores, strict=True):
            if x.identity in fresh:
                first, *others = seen(x)
                self.meter.charge_seconds(first, s.making, s.scoring)
                for c, seconds in zip(others or long_video.unseen(first), s.earlier, strict=False):
                    self.meter.charge_seconds(c, seconds, 0.0)  # a dry run knows none
                self.meter.charge_tokens(s.tokens)
                fresh.discard(x.identity)
        return scores, moment

    @property
    def best(self) -> Candidate:
        """The candidate that `History.best` names; the plain noise of the seed before any score."""
        best = self.history.best
        return best.candidate if best else Candidate(self.prompt, self.sampler, Noise(self.seed, 0))

    def affords(self, x: Candidate) -> bool:
        """Whether `budget.nfe` still allows x to be finished; the history says so if not."""
        if self.meter.affords(self._rendered(x)):
            return True
        self.history.exhausted = f"budget.nfe={self.budget.nfe}"
        return False

    # -- rules -----------------------------------------------------------------------------------------------------

    def _rendered(self, x: Candidate) -> Candidate:
        """The candidate that is finished for `x`: a draft is rendered in full."""
        return x if self._commit is None else rebase(x, self._commit)

    def _derived(
        self,
        x: Candidate,
        n: int,
        how: How,
        *,
        reads: tuple[Candidate, ...] = (),
        sampler: Sampler | None = None,
    ) -> list[Candidate]:
        """`n` children of `x` by one change of its latent; ordinals count the children of `x` in this search."""
        self._count("children", n)
        first = self._ordinals.get(x.identity, 0)
        self._ordinals[x.identity] = first + n
        origins = [Derived(x, i, how, self._scope, reads) for i in range(first, first + n)]
        return [Candidate(x.prompt, sampler or x.sampler, o) for o in origins]

    def _count(self, what: str, n: int) -> None:
        self._quiet(what)
        check(0 <= n <= MOST, f"the number of {what}", n, f"in 0..{MOST}")

    def _quiet(self, what: str) -> None:
        if self._pending:
            raise ConcurrencyError(f"{what} while a score of the same search is pending: use ctx.child(label)")
