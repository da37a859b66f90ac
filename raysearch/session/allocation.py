"""How an allocator shares a total budget out among the searches of an arm.

Allocation goes in synchronous rounds. Each search makes a first trial and then waits. A round is decided when every
search waits or has ended: the allocator names those that make one more trial, and what the total cannot pay is cut off.
So the outcome depends neither on the fleet nor on who was done first. `Rounds` decides, `Allocation` waits.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from raysearch.config.config import Arm
from raysearch.config.foreign import blamed
from raysearch.errors import ConcurrencyError, ConfigError, check
from raysearch.search.context import Context
from raysearch.search.standing import Standing

NEVER = 2**31
MARGIN = 1.5  # of the price before the first round, which one search's first trial alone tells
State = tuple[float, float]  # the best reward of a search after a trial (-inf without one), and its cost


def picked(arm: Arm, standing: Standing) -> np.ndarray:
    """The searches that an arm's allocator picks, but for those that are not open. Raises ConfigError."""
    assert arm.allocate is not None and arm.allocation is not None
    given, can = {k: v for k, v in arm.allocation.items() if k != "name"}, standing.open.copy()
    try:
        picks = [index(i) for i in arm.allocate(standing, **given)]
        for i in picks:
            check(0 <= i < len(can), "an index that it returned", i, f"in 0..{len(can) - 1}")
        check(len(set(picks)) == len(picks), "what it returned", picks, "without repetition")
    except BaseException as error:  # whatever code of the user's raises
        who = f"allocation {arm.allocation['name']} (arm {arm.name})"
        raise ConfigError(f"{who}: {blamed(error, arm.allocate)}") from None
    return np.array([i for i in picks if can[i]], dtype=int)


class Rounds:
    """The trials of an arm's N searches, and who may begin another one: no clock, no tasks. Searches are indices."""

    def __init__(
        self, n: int, pick: Callable[[Standing], np.ndarray], total: float, *, price: float, early: bool = False
    ) -> None:
        """A trial costs at least `price`. With `early` picks of searches that wait stand while others' trials go on."""
        self._pick, self.total, self._early = pick, total, early
        self._least = self.price = price  # of a trial: the most that one has cost
        self.states: list[list[State]] = [[] for _ in range(n)]  # after each trial
        self.made = np.zeros(n, int)  # trials that are done
        self.settled = np.ones(n, int)  # trials that decided rounds have given; the first is every search's
        self.granted = np.ones(n, int)  # the same with those that begin early
        self._last = np.full(n, NEVER)  # the number of trials with which a search no longer goes on
        self._best, self._cost = np.full(n, -np.inf), np.zeros(n)  # after the settled trials
        self._covered = False  # the next round can be paid, whoever is picked
        self.decided, self.over = 0, False

    @property
    def spent(self) -> float:
        """The cost of all searches after their settled trials."""
        return float(self._cost.sum())

    def left(self, i: int) -> bool:
        """True if a search could not go on after its latest trial."""
        return bool(self._last[i] == self.made[i])

    def restore(self, i: int, states: Sequence[State], *, left: bool) -> None:
        """Take over a search that an earlier run finished; `left` says that it could not go on by itself."""
        self.states[i], self.made[i] = list(states), len(states)
        self._last[i] = len(states) + (not left)
        self._show(i)

    def report(self, i: int, best: float, cost: float, *, left: bool = False) -> None:
        """Add the outcome of a search's latest trial; `left` says that it cannot go on. Raises ConfigError."""
        before = self.states[i][-1][0] if self.states[i] else -np.inf
        self.states[i].append((max(before, best), cost))
        self.made[i] += 1
        if left:
            self._last[i] = self.made[i]
        self._show(i)
        while not self.over and np.all((self.made >= self.settled) | (self._last < NEVER)):
            self._decide()
        if self._early and self._covered and not self.over:
            picks = self._pick(self._standing())
            sure = picks[self.made[picks] >= self.settled[picks]]
            self.granted[sure] = self.settled[sure] + 1

    def _decide(self) -> None:
        picks, spent = self._pick(self._standing()), self.spent
        if not self._covered and self.price:
            picks = picks[: max(int((self.total - spent) // self.price), 0)]
        self.settled[picks] += 1
        self.granted = np.maximum(self.granted, self.settled)
        most = len(picks) + np.sum(self.settled < self._last)
        self._covered = bool(spent + self.price * most <= self.total)
        self.decided, self.over = self.decided + 1, not len(picks)
        for i in picks:
            self._show(i)  # a trial that began early counts from now on

    def _show(self, i: int) -> None:
        """Take over a search's state after its settled trials, or before where they go on."""
        states = self.states[i][: self.settled[i]]
        self._best[i], self._cost[i] = states[-1] if states else (-np.inf, 0.0)
        if i == 0 and not self.decided:
            price = self._least if self._cost[0] <= self._least else MARGIN * self._cost[0]
            self._covered = bool(2 * len(self.states) * price <= self.total)
        if states:
            self.price = max(self.price, states[-1][1] - (states[-2][1] if len(states) > 1 else 0.0))

    def _standing(self) -> Standing:
        return Standing(self.settled.copy(), self._best.copy(), self._cost.copy(), self.settled < self._last)


class Allocation:
    """The gates of an arm's searches: a search that waits there gives back its place among those under way, `live`."""

    def __init__(
        self, arm: Arm, ids: Sequence[str], price: int, live: asyncio.Semaphore, report: Callable[[str], None]
    ) -> None:
        """`ids` are all of the arm's searches, and `price` the NFE of one video."""
        self._name, b = arm.name, arm.budget
        self._unit, total = ("nfe", b.total_nfe) if b.total_nfe else ("replica_seconds", b.total_replica_seconds)
        assert total is not None
        early = getattr(arm.allocate, "steady", False)
        floor = price if self._unit == "nfe" else 0
        self.rounds = Rounds(len(ids), lambda standing: picked(arm, standing), total, price=floor, early=early)
        self._places, self._live, self._report = {s: i for i, s in enumerate(sorted(ids))}, live, report
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._broken: str | None = None
        self._told = 0.0

    def restore(self, search_id: str, record: dict[str, Any]) -> None:
        """Take over a finished search from its `Seat.record`."""
        states = [(-np.inf if best is None else best, cost) for best, cost in record["states"]]
        self.rounds.restore(self._places[search_id], states, left=record["left"])

    def seat(self, search_id: str) -> "Seat":
        """The place of a search that is going to run."""
        return Seat(self, self._places[search_id])

    def report(self, i: int, ctx: Context, owed: int, *, left: bool) -> None:
        """Pass the outcome of a trial to the rounds, and wake those that wait no longer."""
        r, best = self.rounds, ctx.history.best
        before, decided = r.granted.copy(), r.decided
        reward = -np.inf if best is None or best.early else best.reward
        cost = self.charged(ctx) + (owed if self._unit == "nfe" else 0)
        try:
            if self._broken is None:
                r.report(i, reward, cost, left=left)
        except ConfigError as error:
            self._broken = str(error)
        everybody = r.over or self._broken is not None
        for j in list(self._waiting) if everybody else np.flatnonzero(r.granted > before).tolist():
            if (waiting := self._waiting.pop(j, None)) and not waiting.done():
                waiting.set_result(None)
        if r.decided > decided and (r.over or r.spent - self._told >= r.total / 10):
            self._told = r.spent
            share = f"{r.spent / r.total:.0%} of budget.total_{self._unit}"
            self._report(f"{self._name}: allocation round {r.decided}, {r.settled.sum()} trials, {share}")

    def charged(self, ctx: Context) -> float:
        """What a search has been charged, in the unit of the total."""
        return float(getattr(ctx.charged, self._unit))

    async def wait(self, i: int) -> bool:
        """Wait until a search may begin another trial; False if it never may. Raises ConfigError."""
        r = self.rounds
        if not (r.over or self._broken or r.left(i) or r.granted[i] > r.made[i]):
            self._waiting[i] = asyncio.get_running_loop().create_future()
            self._live.release()  # who is cancelled here releases it twice, which lets one more search run
            try:
                await self._waiting[i]
            finally:
                self._waiting.pop(i, None)
            await self._live.acquire()
        if self._broken is not None:
            raise ConfigError(self._broken)
        return bool(r.granted[i] > r.made[i])

    def waits(self, i: int) -> bool:
        """True while a search waits for another trial."""
        return i in self._waiting


@dataclass
class Seat:
    """The place of one search in its arm's rounds."""

    allocation: Allocation
    i: int
    _charged: float = 0.0

    async def turn(self, ctx: Context) -> bool:
        """Whether the search may begin another trial, once that is known. One that cost nothing was its last."""
        if self.allocation.waits(self.i):
            raise ConcurrencyError("ctx.trials while the same search waits there already")
        before, self._charged = self._charged, self.allocation.charged(ctx)
        self.allocation.report(self.i, ctx, ctx.meter.owed, left=self._charged <= before)
        return await self.allocation.wait(self.i)

    def leave(self, ctx: Context, owed: int = 0) -> None:
        """The search ends, with so many NFE still to be charged. In the middle of a trial this was its own choice."""
        r = self.allocation.rounds
        if r.made[self.i] < r.granted[self.i]:
            self.allocation.report(self.i, ctx, owed, left=True)

    def record(self) -> dict[str, Any]:
        """The states of a search that has ended, for its record in the journal."""
        r = self.allocation.rounds
        states = [(None if best == -np.inf else best, cost) for best, cost in r.states[self.i]]
        return {"states": states, "left": r.left(self.i)}
