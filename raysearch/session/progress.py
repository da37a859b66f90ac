"""How far a run has come: running sums in constant memory, and snapshots of them for the display and status.json."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from raysearch.bootstrap import RunningGains, RunningMean
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.errors import plain, single, told
from raysearch.search.budget import Cost
from raysearch.session.plan import group_of
from raysearch.session.snapshot import ArmStatus, Failure, FleetStatus, Snapshot, Totals

T = TypeVar("T")
Sink = tuple[float, Callable[[Snapshot], None]]  # seconds between the snapshots that it is called with

MOST_REASONS, LONGEST_REASON = 20, 300
OTHER = "another reason"
WINDOW = 300.0  # seconds over which rates are taken: a large model's item takes minutes and counts when it ends


@dataclass
class ArmTally:
    """Running sums of one arm's searches. `judge` is the held-out one with its `components`; without one they are means
    of the search's own reward.

    `apart` is True if no two captions share a noise; intervals then draw captions alone. `unlike` is True if the
    baseline is judged by another reward.
    """

    total: int
    judge: str = ""
    components: tuple[str, ...] = ()
    apart: bool = False
    unlike: bool = False
    done: int = 0
    failed: int = 0
    budget: int = 0
    cost: Cost = field(default_factory=Cost)
    nfe_spent: int = 0
    rewards: float = 0.0  # the sum of the search's own, where nobody else judges
    rewarded: int = 0
    judged: RunningMean = field(default_factory=RunningMean)

    def add(self, row: dict[str, Any]) -> None:
        """Count the row of a search, unless the search was cancelled."""
        if row["status"] == "cancelled":
            return
        self.done += 1
        self.failed += row["status"] == "failed"
        self.budget += row["status"] == "budget"
        self.cost += Cost(row["nfe"], row["decodes"], row["reward_calls"], row["replica_seconds"])
        self.nfe_spent += row["nfe_spent"]
        if self.judge and row.get("reward_holdout") is not None:
            values = [row[f"holdout_{c}"] for c in self.components]
            self.judged.add(values, row["prompt"], None if self.apart else row["seed"])
        if not self.judge and row["reward_search"] is not None:
            self.rewarded, self.rewards = self.rewarded + 1, self.rewards + row["reward_search"]

    def status(self, gain: RunningMean | None) -> ArmStatus:
        """The sums so far, as plain values; `gain` is over the baseline, None for the baseline itself."""
        return ArmStatus(
            self.total,
            self.done,
            self.failed,
            self.budget,
            self.judge,
            self.components,
            tuple(self.judged.mean.tolist()) or ((self.rewards / self.rewarded,) if self.rewarded else ()),
            tuple(self.judged.half.tolist()),
            self.cost.nfe,
            self.nfe_spent,
            self.cost.replica_seconds,
            float(gain.mean[0]) if gain and gain.n else None,
            float(gain.half[0]) if gain and len(gain.half) else None,
            gain.n if gain else 0,
        )


@dataclass
class Reasons:
    """Searches by the reason why they failed, in bounded memory: what comes after MOST_REASONS is `OTHER`."""

    _found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, search_id: str) -> None:
        """Count a search."""
        key = plain(reason, LONGEST_REASON)
        if key not in self._found and len(self._found) >= MOST_REASONS:
            key = OTHER
        n, first = self._found.get(key, (0, search_id))
        self._found[key] = n + 1, first

    @property
    def total(self) -> int:
        """How many searches there are."""
        return sum(n for n, _ in self._found.values())

    @property
    def groups(self) -> tuple[Failure, ...]:
        """The searches by reason, the most frequent first."""
        found = sorted(self._found.items(), key=lambda group: -group[1][0])
        return tuple(Failure(reason, n, first) for reason, (n, first) in found)


@dataclass
class Progress(Totals):
    """How far a run has come, by arm. `engine` and `dispatcher` are set when its fleet is up."""

    run: str
    arms: dict[str, ArmTally]
    started: float
    gains: RunningGains
    engine: Engine | None = None
    dispatcher: Dispatcher | None = None
    best: float | None = None
    best_search: str = ""
    kept: int = 0  # searches that an earlier run finished
    failures: Reasons = field(default_factory=Reasons)
    unmade: Reasons = field(default_factory=Reasons)  # of those kept: searches whose files could not be made again
    _past: deque[tuple[float, np.ndarray]] = field(default_factory=deque)  # seconds elapsed, and counts so far

    def add(self, row: dict[str, Any]) -> None:
        """Count the row of a search that has ended."""
        arm = self.arms[row["arm"]]
        arm.add(row)
        if row["status"] != "cancelled":
            value = None if arm.unlike else row.get("reward_holdout")
            seed = None if arm.apart else row["seed"]
            self.gains.add(row["arm"], group_of(row["search_id"]), value, row["prompt"], seed)
        if row["status"] == "failed":
            self.failures.add(row["reason"], row["search_id"])
        reward = row["reward_search"]
        if reward is not None and (self.best is None or reward > self.best):
            self.best, self.best_search = reward, row["search_id"]

    def snapshot(self, now: float, at: float, state: str | None = None, reason: str = "") -> Snapshot:
        """The run now, which is `now` by the clock of `started` and `at` in seconds since the epoch.

        `state` and `reason` say how it ended, if it has.
        """
        elapsed = max(now - self.started, 0.0)
        left = elapsed / (self.done - self.kept) * (self.total - self.done) if self.kept < self.done else None
        return Snapshot(
            run=self.run,
            state=state or ("running" if self.engine else "starting"),
            reason=reason,
            at=at,
            elapsed=elapsed,
            left=left if state is None else None,
            best=self.best,
            best_search=self.best_search,
            kept=self.kept,
            arms={name: a.status(self.gains.of.get(name)) for name, a in self.arms.items()},
            fleet=self._fleet(elapsed, self.engine, self.dispatcher) if self.engine and self.dispatcher else None,
            baseline=self.gains.baseline,
            failures=self.failures.groups,
            unmade=self.unmade.groups,
        )

    def _fleet(self, elapsed: float, e: Engine, d: Dispatcher) -> FleetStatus:
        waiting, rates = d.waiting(), self._rates(elapsed, (e.nfe, e.decodes, e.rewards_computed))
        return FleetStatus(
            slots=dict(d.tally.slots),
            busy=dict(d.tally.busy),
            waiting={k: waiting.get(k, 0) for k in d.tally.slots},
            nfe=e.nfe,
            decodes=e.decodes,
            rewards=e.rewards_computed,
            nfe_per_second=rates[0],
            decodes_per_second=rates[1],
            rewards_per_second=rates[2],
            seconds_per_step=e.step_pace.each,
            seconds_per_score=e.score_pace.each,
            store_bytes=e.store.nbytes,
            store_latents=len(e.store),
            evicted=e.store.evicted,
            recomputed=e.recomputed,
            restarts=d.tally.deaths,
            wasted=e.speculation.wasted,
        )

    def _rates(self, elapsed: float, counts: Sequence[int]) -> list[float]:
        """What was made per second since the latest snapshot that is at least WINDOW old, or since the start."""
        if not self._past:
            self._past.append((0.0, np.zeros(len(counts))))
        self._past.append((elapsed, np.asarray(counts)))
        while self._past[1][0] <= elapsed - WINDOW:
            self._past.popleft()
        then, before = self._past[0]
        made: list[float] = ((np.asarray(counts) - before) / max(elapsed - then, 1e-9)).tolist()
        return made


async def follow(
    work: Coroutine[Any, Any, T],
    progress: Progress,
    sinks: Sequence[Sink],
    *,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> T:
    """The result of `work`; each sink gets snapshots meanwhile, the first at once, the last when `work` has ended.

    What only watches cannot end a run: the first error of each sink is reported.
    """
    task = asyncio.ensure_future(work)
    broken: set[int] = set()

    def show(i: int, state: str | None = None, reason: str = "") -> None:
        try:
            sinks[i][1](progress.snapshot(clock(), wall(), state, reason))
        except Exception as error:
            if i not in broken:
                report(f"the run goes on, but what watches it failed: {told(error)}")
            broken.add(i)

    due = [clock()] * len(sinks)
    state, reason = "interrupted", ""
    try:
        while not task.done():
            now = clock()
            for i, (every, _) in enumerate(sinks):
                if due[i] <= now:
                    show(i)
                    due[i] = now + every
            await asyncio.wait([task], timeout=min(due) - now)
        result = task.result()
        state = "finished"
        return result
    except Exception as raised:
        error = single(raised)
        state, reason = "broken", told(error)
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        for i in range(len(sinks)):
            show(i, state, reason)
