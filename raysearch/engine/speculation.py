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
from raysearch.engine.store import Store
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest
from raysearch.recipe.reward import Pair, Question, Reward, Score, seen

MOST = 256  # candidates that may be made for a search at a time
FARTHEST = 8  # questions ahead of the one that a search waits for, that one included

Make = Callable[[Candidate, bool, Spent], Coroutine[Any, Any, Any]]


@dataclass(eq=False)
class _Search:
    spent: Spent
    pending: list[set[Digest]] = field(default_factory=list)  # the candidates of each question without an answer
    waits: set[Digest] = field(default_factory=set)  # all of them
    rewards: dict[Digest, float] = field(default_factory=dict)  # by candidate, and the latest by trajectory
    answers: int = 0
    mean: float = 0.0
    nodes: dict[Digest, "_Node"] = field(default_factory=dict)  # by their targets
    failed: set[Digest] = field(default_factory=set)

    def reward(self, x: Candidate) -> float:
        """The reward of `x`, else the one before it, else the mean."""
        known = (x.identity, x.trajectory, *(c.trajectory for c in [x.parent] if c))
        return next((self.rewards[k] for k in known if k in self.rewards), self.mean)


@dataclass(eq=False)
class _Node:
    """A candidate that may be asked for, by the way from `root`, for which the search waits; `rank` is the way's."""

    search: _Search
    target: Candidate
    velocity: bool
    root: Candidate
    way: tuple[Digest, ...]  # from the root to the target, both included
    rank: int
    guess: Guess | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def order(self) -> tuple[float, ...]:
        """The nearest first, then the oldest search's, the highest reward's, and the likeliest."""
        return len(self.way), self.search.spent.age, -self.search.reward(self.root), self.rank

    @property
    def waited_for(self) -> bool:
        """True if the search waits for a candidate on the way."""
        return not self.search.waits.isdisjoint(self.way)


class Speculation:
    """What searches may ask for, best first, while replicas are idle and the store has room.

    `make` makes a state and `made` finds one.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        tasks: asyncio.TaskGroup,
        make: Make,
        made: Callable[[Candidate, bool], Any],
        store: Store,
    ) -> None:
        self.wasted = 0  # NFE of guesses that did not come true, so far; of those given up an estimate
        self._dispatcher, self._tasks, self._store, self._make, self._made = dispatcher, tasks, store, make, made
        self._searches: dict[int, _Search] = {}
        self._offered: dict[_Node, None] = {}  # not started
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
            if node.guess is not None and node.target.identity in asked:
                node.guess.confirm(spent.age)
            elif node.guess is None or not node.waited_for:
                self._give_up(node)  # what was not started is found again
        try:
            yield
        finally:
            s.pending.remove(asked)
            s.waits = set().union(*s.pending)
            for node in [n for n in s.nodes.values() if n.task is None and not n.waited_for]:
                self._give_up(node)

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
            s.rewards[x.identity] = s.rewards[x.trajectory] = r = reward.total(score.components)
            s.answers += 1
            s.mean += (r - s.mean) / s.answers

    def ended(self, spent: Spent) -> None:
        """The search has ended, and asks for nothing any more."""
        s = self._searches.pop(spent.age, None)
        for node in list(s.nodes.values()) if s else ():
            self._give_up(node)

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
        from_here, met = [(x, way)], set(way)
        for at, way in from_here:  # which grows
            for rank, (target, velocity) in enumerate(s.spent.sequels.after(at)):
                key, on = target.identity, (*way, target.identity)
                if key in met or key in s.waits or key in s.failed or len(on) > FARTHEST:
                    continue
                met.add(key)
                if self._made(target, velocity) is not None:
                    from_here.append((target, on))
                elif (node := s.nodes.get(key)) is not None:
                    node.root, node.way, node.rank = root, on, rank
                elif len(s.nodes) < MOST:
                    s.nodes[key] = node = _Node(s, target, velocity, root, on, rank)
                    self._offered[node] = None

    def _fill(self) -> None:
        """Start the best guesses on the replicas that are idle, while the store has room."""
        if not self._offered:
            return
        begun = sum(is_open(n.guess) for n in self._started)
        for _ in range(min(self._dispatcher.room(Denoise.kind), self._store.room) - begun):
            node = min(self._offered, key=lambda n: n.order, default=None)
            if node is None:
                return
            guess = Guess(node.order)
            work = self._run(node, guess)
            try:
                node.task, node.guess = self._tasks.create_task(work), guess
            except RuntimeError:  # the run is ending
                work.close()
                return
            del self._offered[node]
            self._started.add(node)

    async def _run(self, node: _Node, guess: Guess) -> None:
        """Make a node's state; it fails for nobody."""
        s = node.search
        try:
            await self._make(node.target, node.velocity, replace(s.spent, guess=guess))
        except Displaced:
            node.task = node.guess = None
            if node.waited_for and s.nodes.get(node.target.identity) is node:
                self._offered[node] = None  # again
            else:
                self._forget(node)
        except BaseException as error:
            self._forget(node)
            if not isinstance(error, Exception):  # given up, which is no failure
                raise
            s.failed.add(node.target.identity)
        else:
            self._forget(node)
            if node.waited_for:
                self._grow(s, node.root, node.target, node.way)
        finally:
            self._started.discard(node)
            self._fill()

    def _forget(self, node: _Node) -> None:
        self._offered.pop(node, None)
        if node.search.nodes.get(node.target.identity) is node:
            del node.search.nodes[node.target.identity]

    def _give_up(self, node: _Node) -> None:
        self._forget(node)
        if node.task is not None:
            node.task.cancel()
