"""Work ahead while a search waits for rewards: what it may ask for next is denoised on denoisers that are idle.

Recipes are pure, so a search's `Sequels` say which candidates may follow those that it waits for. They are made and
stored like any others, as guesses: see the dispatcher. What the search then asks for it finds made or on its way; what
it cannot come to ask for any more is given up. Nothing is made twice, and no winner, reward or charge depends on it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from raysearch.engine.dispatcher import Dispatcher, Displaced, Pace
from raysearch.engine.protocol import Denoise
from raysearch.engine.sharing import Guess, Memo, Spent, is_open
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest
from raysearch.recipe.reward import Pair, Question, Reward, Score, seen

MOST = 256  # candidates that may be made for a search at a time
FARTHEST = 8  # questions ahead of the one that a search waits for, that one included

Make = Callable[[Candidate, bool, Spent], Coroutine[Any, Any, Any]]


@dataclass(eq=False)
class _Node:
    """A candidate that may be asked for, by the way from `root`, for which the search waits; `rank` is the way's."""

    target: Candidate
    velocity: bool
    root: Candidate
    way: tuple[Digest, ...]  # from the root to the target, both included
    rank: int
    guess: Guess | None = None
    task: "asyncio.Task[None] | None" = None


@dataclass(eq=False)
class _Search:
    spent: Spent
    pending: list[set[Digest]] = field(default_factory=list)  # the candidates of each question without an answer
    rewards: dict[Digest, float] = field(default_factory=dict)  # by candidate, and the latest by trajectory
    mean: float = 0.0  # of `rewards`
    nodes: dict[Digest, _Node] = field(default_factory=dict)
    failed: set[Digest] = field(default_factory=set)
    waits: set[Digest] = field(default_factory=set)  # all candidates of `pending`

    def reward(self, x: Candidate) -> float:
        """The reward of `x`, else the one before it, else the mean."""
        known = (x.identity, x.trajectory, *(c.trajectory for c in [x.parent] if c))
        return next((self.rewards[k] for k in known if k in self.rewards), self.mean)

    def order(self, node: _Node) -> tuple[float, ...]:
        """The nearest first, then the oldest search's, the highest reward's, and the likeliest."""
        return len(node.way), self.spent.age, -self.reward(node.root), node.rank


class Speculation:
    """What searches may ask for, best first, as far as replicas are idle. `make` makes a state and `made` finds one."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        tasks: asyncio.TaskGroup,
        make: Make,
        made: Callable[[Candidate, bool], Any],
    ) -> None:
        self.wasted = 0  # NFE of guesses that did not come true, so far; of those given up an estimate
        self._dispatcher, self._tasks, self._make, self._made = dispatcher, tasks, make, made
        self._searches: dict[int, _Search] = {}
        self._started: set[_Node] = set()
        self._unclaimed: Memo[tuple[int, Digest | None]] = Memo(200_000)  # NFE, and what it was made from
        dispatcher.spare = self._fill

    # -- what the engine tells -------------------------------------------------------------------------------------

    @contextmanager
    def question(self, xs: Iterable[Question], spent: Spent) -> Iterator[None]:
        """While a search waits for the answers about `xs`. What cannot follow them or other questions is given up."""
        if spent.sequels is None:
            yield
            return
        s = self._searches.setdefault(spent.age, _Search(spent))
        asked = {c.identity for x in xs for c in seen(x)}
        s.pending.append(asked)
        s.waits = set().union(*s.pending)
        for node in list(s.nodes.values()):
            if node.target.identity in asked:
                if node.guess is None:
                    _forget(s, node)
                else:
                    node.guess.confirm(spent.age)
            elif s.waits.isdisjoint(node.way):
                _give_up(s, node)
        try:
            yield
        finally:
            s.pending.remove(asked)
            s.waits = set().union(*s.pending)

    def ready(self, xs: Sequence[Candidate], spent: Spent) -> None:
        """The states of `xs` are made; what may follow those for which the search waits can be made, too."""
        s = self._searches.get(spent.age)
        if s is not None:
            for x in xs:
                if x.identity in s.waits:
                    self._grow(s, x, x, (x.identity,))
            self._fill()

    def answered(self, x: Question, reward: Reward, score: Score, spent: Spent) -> None:
        """A reward is known."""
        s = self._searches.get(spent.age)
        if s is not None and not isinstance(x, Pair):
            s.rewards[x.identity] = s.rewards[x.trajectory] = reward.total(score.components)
            s.mean = sum(s.rewards.values()) / len(s.rewards)

    def ended(self, spent: Spent) -> None:
        """The search has ended, and asks for nothing any more."""
        s = self._searches.pop(spent.age, None)
        for node in list(s.nodes.values()) if s else ():
            assert s is not None
            _give_up(s, node)

    def ran(self, x: Candidate, source: Candidate | None, nfe: int, group: str) -> None:
        """A guess has been run, from the state of `source`; it counts as wasted until somebody claims it."""
        before, origin = self._unclaimed.get(x.identity, (0, source.identity if source else None))
        self._unclaimed.keep(x.identity, (before + nfe, origin), group)
        self.wasted += nfe

    def claim(self, x: Candidate) -> int:
        """The NFE of guesses that `x` was made by, for the search that has asked for `x`; they count once."""
        nfe, at = 0, x.identity
        while (found := self._unclaimed.pop(at, None)) is not None:
            nfe += found[0]
            if found[1] is None:
                break
            at = found[1]
        self.wasted -= nfe
        return nfe

    def gave_up(self, guess: Guess, leg: Denoise, pace: Pace) -> None:
        """Count what replicas ran of a leg in vain, by the mean seconds of a step."""
        if guess.vain and pace.each:
            steps = min(round(guess.vain / pace.each), leg.until - leg.step + leg.velocity)
            self.wasted += steps * leg.sampler.nfe_per_step
        guess.vain = 0.0

    def forget(self, group: str) -> None:
        """Forget what was made for a group of searches that have all ended."""
        self._unclaimed.forget(group)

    # -- the work --------------------------------------------------------------------------------------------------

    def _grow(self, s: _Search, root: Candidate, x: Candidate, way: tuple[Digest, ...]) -> None:
        """Let what may follow `x`, whose state is made, be made; what is made already is gone on from."""
        assert s.spent.sequels is not None
        from_here, met = [(x, way)], {*way, *s.failed, *s.waits}
        for at, way in from_here:  # which grows
            for rank, (target, velocity) in enumerate(s.spent.sequels.after(at)):
                on, node = (*way, target.identity), s.nodes.get(target.identity)
                if target.identity in met or len(on) > FARTHEST:
                    continue
                met.add(target.identity)
                if self._made(target, velocity) is not None:
                    from_here.append((target, on))
                elif node is None and len(s.nodes) < MOST:
                    s.nodes[target.identity] = _Node(target, velocity, root, on, rank)
                elif node is not None:
                    node.root, node.way, node.rank = root, on, rank

    def _fill(self) -> None:
        """Start the best guesses on the replicas that are idle."""
        if not any(s.nodes for s in self._searches.values()):
            return
        coming = sum(is_open(n.guess) for n in self._started) - self._dispatcher.guessing
        for _ in range(self._dispatcher.room(Denoise.kind) - coming):
            found = ((s.order(n), s, n) for s in self._searches.values() for n in s.nodes.values() if n.task is None)
            best = min((f for f in found if not f[1].waits.isdisjoint(f[2].way)), key=lambda f: f[0], default=None)
            if best is None:
                return
            order, s, node = best
            guess = Guess(order)
            work = self._run(s, node, guess)
            try:
                node.task, node.guess = self._tasks.create_task(work), guess
            except RuntimeError:  # the run is ending
                work.close()
                return
            self._started.add(node)

    async def _run(self, s: _Search, node: _Node, guess: Guess) -> None:
        """Make a node's state; it fails for nobody."""
        try:
            await self._make(node.target, node.velocity, replace(s.spent, guess=guess))
        except Displaced:
            node.task = node.guess = None  # it waits again
        except BaseException as error:
            _forget(s, node)
            s.failed.add(node.target.identity)
            if not isinstance(error, Exception):
                raise
        else:
            _forget(s, node)
            if not s.waits.isdisjoint(node.way):
                self._grow(s, node.root, node.target, node.way)
        finally:
            self._started.discard(node)
            self._fill()


def _forget(s: _Search, node: _Node) -> None:
    if s.nodes.get(node.target.identity) is node:
        del s.nodes[node.target.identity]


def _give_up(s: _Search, node: _Node) -> None:
    _forget(s, node)
    if node.task is not None:
        node.task.cancel()
