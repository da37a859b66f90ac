"""One rehearsal: a session with all that is real about it but its replicas, rewards and files, in virtual time."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.config import prompts
from raysearch.config.cache import embeddings_folder
from raysearch.config.config import Arm, Config
from raysearch.config.fleet import PoolConfig
from raysearch.engine.embeddings import Embeddings
from raysearch.engine.engine import Engine, Finished
from raysearch.engine.protocol import Outputs, Text, Whole
from raysearch.engine.sharing import Spent
from raysearch.errors import single
from raysearch.planner.facts import Facts, alone
from raysearch.planner.rewards import Draws
from raysearch.planner.timed import KINDS, Shared, TimedFleet, TimedReplica
from raysearch.planner.timings import Timings
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.reward import Question, Reward, Score
from raysearch.search.context import Context
from raysearch.session import encoders
from raysearch.session.journal import Journal
from raysearch.session.plan import Plan, Search, searches
from raysearch.session.session import Session
from raysearch.session.snapshot import Snapshot
from raysearch.session.tables import Outcome
from raysearch.threads import ended_by_sigterm
from raysearch.virtual import run_virtual, virtual_now


@dataclass(frozen=True)
class Use:
    """What the replicas of a kind did: how many there were, the share of their time in which they ran something."""

    replicas: int
    busy: float
    hours: float
    gpus: float  # of one replica, shards included


@dataclass(frozen=True)
class ArmCost:
    """What the searches of an arm were charged, each as if it had run alone, and what was run for them."""

    searches: int
    nfe: int
    nfe_run: int


@dataclass(frozen=True)
class Rehearsed:
    """How a rehearsal went. Seconds are virtual, but for `cpu`, those that the rehearsal itself took."""

    startup: float
    wall: float  # from when the fleet is up to the end
    straggling: float  # the share of `wall` in which the last 5% of the searches ended
    use: Mapping[str, Use]
    arms: Mapping[str, ArmCost]
    nfe: int  # run
    again: int  # of these, what was run more than once
    evicted: int
    store_most: int  # bytes
    candidates: int  # rewards of candidates that were answered
    failed: Mapping[str, int]  # reasons
    seconds: Mapping[str, float]  # replica-seconds, by what was done
    cpu: float

    @property
    def total(self) -> float:
        """Seconds from the start of the fleet on."""
        return self.startup + self.wall

    @property
    def charged(self) -> int:
        """The NFE of all searches, each alone."""
        return sum(a.nfe for a in self.arms.values())

    @property
    def hours(self) -> float:
        """GPU-hours, or replica-hours of a fleet without GPUs."""
        gpus = any(u.gpus for u in self.use.values())
        return sum(u.hours * (u.gpus if gpus else 1) for u in self.use.values())


class Nowhere(Journal):
    """A journal that keeps nothing."""

    def __init__(self) -> None:
        pass

    def add(self, record: dict[str, Any]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """There is nothing to close."""


class Guessing(Engine):
    """The engine of a rehearsal, whose rewards are drawn once their candidates are made and looked at."""

    def __init__(self, engine: Engine, draws: Draws) -> None:
        self._engine, self._draws = engine, draws
        self.strips = engine.strips
        self.answered = 0

    async def score(self, xs: Sequence[Question], reward: Reward, spent: Spent) -> list[Score]:
        """The engine's answers with drawn components."""
        scores = await self._engine.score(xs, reward, spent)
        self.answered += len(xs)
        return [replace(s, components=self._draws.components(x, reward)) for x, s in zip(xs, scores, strict=True)]

    async def finish(
        self, x: Candidate, rewards: Sequence[Reward], outputs: Outputs, spent: Spent, kept: Sequence[Candidate] = ()
    ) -> Finished:
        """The engine's own."""
        return await self._engine.finish(x, rewards, outputs, spent, kept)

    def forget(self, spent: Spent) -> None:
        """The engine's own."""
        self._engine.forget(spent)

    def forget_group(self, group: str) -> None:
        """The engine's own."""
        self._engine.forget_group(group)


@dataclass
class Stage:
    """The backend of a rehearsal: the plan that was prepared, and a timed fleet."""

    plan: Plan
    shared: Shared
    arrival: float
    encoders: bool
    up: TimedFleet | None = None

    def prepare(self, config: Config, arms: Sequence[Arm], begun: Config | None = None) -> Plan:
        """The prepared plan, of which no embedding is kept on disk."""
        return replace(self.plan, encoding=b"")

    def fleet(
        self, config: Config, plan: Plan, report: Callable[[str], None]
    ) -> AbstractAsyncContextManager[TimedFleet, bool | None]:
        """A context with the timed fleet."""
        return TimedFleet.open(config, self.shared, self.arrival, encoders=self.encoders, opened=self._opened)

    def _opened(self, fleet: TimedFleet) -> None:
        self.up = fleet

    def publish(self, snapshot: Snapshot) -> None:
        """Nobody is told."""


class Rehearsal(Session):
    """A session that writes nothing but its claim of a folder."""

    def __init__(self, config: Config, stage: Stage, draws: Draws, run_dir: Path) -> None:
        super().__init__(config, stage, run_dir=run_dir, clock=virtual_now)
        self.journal.close()
        self.journal = Nowhere()
        self.draws = draws
        self.began = 0.0  # when the fleet was up
        self.ends: list[float] = []
        self.charged: dict[str, list[int]] = {a.arm.name: [0, 0, 0] for a in self.plan.arms}
        self.failures: dict[str, int] = {}
        self.answered = 0

    async def _run_searches(self, engine: Engine, live: Any) -> None:
        self.began = self.clock()
        guessing = Guessing(engine, self.draws)
        try:
            await super()._run_searches(guessing, live)
        finally:
            self.answered = guessing.answered

    def _record(self, s: Search, ctx: Context, end: Outcome, spent: Spent) -> None:
        allocation = self._allocations.get(s.plan.arm.name)
        if allocation and end.status != "cancelled":
            allocation.leave(s.id, ctx)
        sums = self.charged[s.plan.arm.name]
        for i, n in enumerate((1, ctx.charged.nfe, spent.nfe)):
            sums[i] += n
        self.ends.append(self.clock())
        if end.status == "failed":
            self.failures[end.reason] = self.failures.get(end.reason, 0) + 1


def rehearse(
    config: Config, plan: Plan, facts: Facts, timings: Timings, draws: Draws, *, arrival: float = 0.0, seed: int = 0
) -> Rehearsed:
    """How a run of a config would go. Nothing is left on disk. Raises ConfigError for what a run would refuse."""
    parts = alone(plan)
    encoded, encodes = kept_texts(config, plan)
    shared = Shared(
        timings,
        facts,
        {m.key: len(m.components) for m in parts},
        frozenset(m.key for m in parts if m.decodes),
        encoded,
        np.random.default_rng(seed),
        shared_cores(config, timings),
    )
    stage = Stage(plan, shared, arrival, encodes)
    config = replace(config, resume="never", run_dir=None, track=None)
    before = time.process_time()
    with tempfile.TemporaryDirectory(prefix="raysearch-plan-") as scratch:
        session = Rehearsal(config, stage, draws, Path(scratch) / "run")
        try:
            end = run_virtual(ended_by_sigterm(_ended(session)))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except BaseExceptionGroup as group:
            raise single(group) from None
    engine, fleet = session.progress.engine, stage.up
    assert engine is not None and fleet is not None
    cpu, wall = time.process_time() - before, end - session.began
    ends = sorted(session.ends)
    at95 = ends[max(int(0.95 * len(ends)) - 1, 0)] if ends else end
    return Rehearsed(
        session.began,
        wall,
        (end - at95) / wall if wall else 0.0,
        {k: use(config, k, [r for r in fleet.all if r.kind == k], session.began, end) for k in fleet.kinds},
        {name: ArmCost(*sums) for name, sums in session.charged.items()},
        shared.nfe,
        shared.again,
        engine.store.evicted,
        engine.store.most,
        session.answered,
        session.failures,
        dict(shared.seconds),
        cpu,
    )


def shared_cores(config: Config, timings: Timings) -> float:
    """The cores of as many machines as hold a fleet whose replicas share the cores of a machine; else no bound."""
    if timings.cores is None:
        return inf
    if config.fleet.backend == "local":  # one process, whatever its replicas ask for
        return timings.cores
    pools: list[PoolConfig] = [getattr(config.fleet, f"{k}s") for k in KINDS]
    asked = sum(p.num_cpus * p.shards * p.most for p in pools)
    return timings.cores * max(ceil(asked / timings.cores), 1)


async def _ended(session: Session) -> float:
    await session.run()
    return session.clock()


def use(config: Config, kind: str, replicas: Sequence[TimedReplica], up: float, end: float) -> Use:
    """What replicas of a kind did from when the fleet was up to the end of a run; their hours begin with loading."""
    pool = getattr(config.fleet, f"{kind}s")
    there = [(r.ended or end) - r.began for r in replicas]
    serving = [(r.ended or end) - max(r.began, up) for r in replicas]
    return Use(
        len(replicas),
        sum(r.busy for r in replicas) / max(sum(serving), 1e-9),
        sum(there) / 3600,
        pool.num_gpus * pool.shards,
    )


def kept_texts(config: Config, plan: Plan) -> tuple[frozenset[str], bool]:
    """The texts whose embeddings are on disk, and whether the run needs an encoder beside them."""
    pool = config.fleet.encoders
    if pool.cache in (None, False) or not plan.encoding or (folder := embeddings_folder(pool)) is None:
        return frozenset(), True
    kept = Embeddings(folder, plan.encoding)
    run = searches(plan, prompts.load(config), config.seeds, apart=config.noises_apart)
    texts, more = encoders.foreseen(run, kept)
    there = [what for what in texts if kept.there(what)]
    known = frozenset(what.text for what in there if isinstance(what, Text | Whole))
    return known, bool(more) or len(there) < len(texts)
