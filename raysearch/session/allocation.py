"""How an allocator shares a total budget out among the searches of an arm.

Allocation goes in synchronous rounds. Each search makes a first trial and then waits. A round is decided when every
search waits or has ended: the allocator names those that make one more trial, and what the total cannot pay is cut off.
So the outcome depends neither on the fleet nor on who was done first. `Rounds` decides, `Allocation` waits.
"""

from asyncio import Future, Semaphore, get_running_loop
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any, TypeAlias

import numpy as np

from raysearch.config.allocation import Standing, picked
from raysearch.config.config import Arm
from raysearch.errors import ConcurrencyError, ConfigError
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

Rows: TypeAlias = Iterable[dict[str, Any]]
Say: TypeAlias = Callable[[str], None]

NEVER = 2**31
IDLE = 100  # trials of a search in a row, each of which cost nothing
MARGIN = 1.5  # of the price before the first round, which one search's first trial alone tells


class Rounds:
    """The trials of an arm's N searches, and who may begin another one: no clock, no tasks. Searches are indices."""

    def __init__(self, n: int, pick: Callable[[Standing], np.ndarray], total: float, price: float, early: bool) -> None:
        """`price` is the least that a trial costs. With `early`, those that wait begin as soon as they are picked."""
        self._pick, self.total, self._early = pick, total, early
        self._least = self.price = price  # the most that a trial has cost
        self.states: list[list[tuple[float, float]]] = [[] for _ in range(n)]  # (best, cost) after each trial
        self.made = np.zeros(n, int)  # trials that are done
        self.settled = np.ones(n, int)  # trials that decided rounds have given; the first is every search's
        self.granted = np.ones(n, int)  # the same with those that begin early: a search makes all that it is granted
        self._last = np.full(n, NEVER)  # the number of trials with which a search no longer goes on
        self._best, self.cost = np.full(n, -inf), np.zeros(n)  # after the settled trials
        self._covered = False  # the next round can be paid, whoever is picked
        self.decided, self.over = 0, False

    def left(self, i: int) -> bool:
        """True if a search could not go on after its latest trial."""
        return bool(self._last[i] == self.made[i])

    def restore(self, i: int, states: Sequence[tuple[float, float]], *, left: bool) -> None:
        """Take over a search that an earlier run finished; `left` says that it could not go on by itself."""
        self.states[i], self.made[i] = list(states), len(states)
        self._last[i] = len(states) + (not left)
        self._show(i)

    def report(self, i: int, best: float, cost: float, *, left: bool = False) -> list[int]:
        """The searches that may begin another trial, now that `i` has made what it was granted, or has `left`.

        A search that has left makes no more. Raises ConfigError.
        """
        before = self.granted.copy()
        if self.granted[i] > self.made[i]:
            self.states[i].append((max(best, self.states[i][-1][0] if self.states[i] else -inf), cost))
            self.made[i] += 1
        self._last[i] = self.made[i] if left else self._last[i]
        self._show(i)
        while not self.over and np.all((self.made >= self.settled) | (self._last < NEVER)):
            self._decide()
        if self._early and self._covered and not self.over:
            picks = self._pick(self._standing())
            sure = picks[self.made[picks] >= self.settled[picks]]
            self.granted[sure] = self.settled[sure] + 1
        return np.flatnonzero(self.granted > before).tolist()

    def _decide(self) -> None:
        picks, spent = self._pick(self._standing()), self.cost.sum()
        if not self._covered and self.price:
            picks = picks[: max(int((self.total - spent) // self.price), 0)]
        self.settled[picks] += 1
        self.granted = np.maximum(self.granted, self.settled)
        self._covered = bool(spent + self.price * (len(picks) + np.sum(self.settled < self._last)) <= self.total)
        self.decided, self.over = self.decided + 1, not len(picks)
        for i in picks:
            self._show(i)  # a trial that began early counts from now on

    def _show(self, i: int) -> None:
        """Bring a search's best and cost, and the price of a trial, up to date with its settled trials."""
        states = [(-inf, 0.0), *self.states[i][: self.settled[i]]]
        self._best[i], self.cost[i] = states[-1]
        self.price = max(self.price, states[-1][1] - states[-2:][0][1])
        if i == 0 and not self.decided:
            price = self._least if self.cost[0] <= self._least else MARGIN * self.cost[0]
            self._covered = bool(2 * len(self.states) * price <= self.total)

    def _standing(self) -> Standing:
        return Standing(self.settled.copy(), self._best.copy(), self.cost.copy(), self.settled < self._last)


class Allocation:
    """Where an arm's searches wait; one that waits gives back its place among those that are under way, `live`."""

    def __init__(self, arm: Arm, price: int, ids: Iterable[str], finished: Rows, live: Semaphore, report: Say) -> None:
        """A video takes `price` NFE; `ids` are those of all searches, and `finished` what an earlier run recorded."""
        b, self._name, self._live, self._report = arm.budget, arm.name, live, report
        self._places = {s: i for i, s in enumerate(sorted(ids))}
        self._unit, total = ("nfe", b.total_nfe) if b.total_nfe else ("replica_seconds", b.total_replica_seconds)
        least, early = price if b.total_nfe else 0, getattr(arm.allocate, "steady", False)
        self.rounds = Rounds(len(self._places), partial(picked, arm), total or 0.0, least, early)
        self._waiting: dict[int, Future[None]] = {}
        self._charged, self._idle, self._broken = np.zeros(len(self._places)), np.zeros(len(self._places), int), ""
        for row in finished:
            if (i := self._places.get(row["search_id"])) is not None:
                states = [(-inf if best is None else best, cost) for best, cost in row["rounds"]["states"]]
                self.rounds.restore(i, states, left=row["rounds"]["left"])

    async def turn(self, search_id: str, ctx: Context, x: Candidate) -> bool:
        """Whether a search may begin another trial, once that is known. It may not after IDLE that cost nothing.

        `x` is what it would finish if it ended now. Raises ConfigError where the allocator fails.
        """
        i, r, charged = self._places[search_id], self.rounds, getattr(ctx.charged, self._unit)
        if i in self._waiting:
            raise ConcurrencyError("ctx.trials while the same search waits there already")
        self._idle[i] = self._idle[i] + 1 if charged <= self._charged[i] else 0
        self._charged[i] = charged
        self._add(i, ctx, owed=ctx.meter.due(x), left=bool(self._idle[i] >= IDLE))
        if not (r.over or r.left(i) or r.granted[i] > r.made[i] or self._broken):
            self._waiting[i] = get_running_loop().create_future()
            self._live.release()
            try:
                await self._waiting[i]
            finally:
                await self._live.acquire()  # if it is cancelled as well: it gives its place back when it ends
                del self._waiting[i]
        if self._broken:
            raise ConfigError(self._broken)
        return bool(r.granted[i] > r.made[i])

    def leave(self, search_id: str, ctx: Context) -> dict[str, Any]:
        """A search has ended, by its own choice unless it was told to. Its states are for its record in the journal."""
        self._add(i := self._places[search_id], ctx, owed=0, left=True)
        states = [(None if best == -inf else best, cost) for best, cost in self.rounds.states[i]]
        return {"rounds": {"states": states, "left": self.rounds.left(i)}}

    def _add(self, i: int, ctx: Context, *, owed: int, left: bool) -> None:
        """Pass the outcome of a trial to the rounds, and wake those that wait no longer; `owed` are NFE."""
        r, best, decided = self.rounds, ctx.history.best, self.rounds.decided
        if r.over or self._broken:
            return
        cost = float(ctx.charged.nfe + owed if self._unit == "nfe" else ctx.charged.replica_seconds)
        try:
            woken = r.report(i, -inf if best is None or best.early else best.reward, cost, left=left)
        except ConfigError as error:
            self._broken = str(error)
        for j in self._waiting if r.over or self._broken else woken:
            if j in self._waiting and not self._waiting[j].done():
                self._waiting[j].set_result(None)
        if r.decided > decided:
            share = f"{r.cost.sum() / r.total:.0%} of budget.total_{self._unit}"
            self._report(f"{self._name}: allocation round {r.decided}, {r.settled.sum()} trials, {share}")
