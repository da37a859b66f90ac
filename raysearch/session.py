"""One run: a dry run of every arm against fakes, the fleet up, the searches, their results, the fleet down.

For each (prompt, seed, arm), at most `max_searches` at a time, a search task runs the policy; its winner is denoised
to the end, decoded, judged and written. Prompts stream, so memory does not grow with their number.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from omegaconf import OmegaConf

from raysearch import config as configuration
from raysearch import prompts
from raysearch.config import Arm, Config
from raysearch.context import Context, History
from raysearch.dispatcher import Dispatcher, Replica
from raysearch.engine import Engine, Finished, Reward, Score, Spent
from raysearch.errors import BudgetExhausted, ConfigError, RaysearchError
from raysearch.journal import Journal
from raysearch.ledger import Budget, Cost, Ledger, Meter
from raysearch.recipe import Candidate, Prompt, Sampler, canonical_json, denoise
from raysearch.results import RunDirectory, claimed
from raysearch.store import Store


class Fleet(Protocol):
    """The replicas of a run, and how bytes that they made are pulled."""

    @property
    def replicas(self) -> Sequence[Replica]: ...

    async def fetch(self, ref: Any) -> dict[str, bytes]: ...


class Backend(Protocol):
    """Where models and rewards come from. `prepare` finds every mistake that can be found before anything is loaded."""

    def prepare(self, config: Config, arms: Sequence[Arm]) -> "Plan": ...

    def fleet(self, config: Config, plan: "Plan") -> AbstractAsyncContextManager[Fleet, bool | None]: ...


@dataclass(frozen=True)
class ArmPlan:
    """An arm with what the backend knows of it. `reward` is what its search sees."""

    arm: Arm
    sampler: Sampler
    reward: Reward
    final: Reward | None
    holdout: Reward | None


@dataclass(frozen=True)
class Plan:
    arms: tuple[ArmPlan, ...]
    details: dict[str, Any] = field(default_factory=dict)  # the backend's own: reward specs and the like


@dataclass(frozen=True)
class Search:
    """One search to run. `age` is its place in the run's order."""

    age: int
    id: str
    prompt: Prompt
    seed: int
    plan: ArmPlan


@dataclass
class ArmTally:
    """Running sums of one arm, for the display and the summary."""

    done: int = 0
    failed: int = 0
    budget: int = 0
    cost: Cost = field(default_factory=Cost)
    nfe_spent: int = 0
    judged: "Moments" = field(default_factory=lambda: Moments())  # holdout components of the winners


@dataclass
class Moments:
    """Running mean and spread of rows, in constant memory."""

    n: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, row: Sequence[float]) -> None:
        values = np.asarray(row, dtype=float)
        if self.n == 0:
            self.mean, self.squares = np.zeros_like(values), np.zeros_like(values)
        self.n += 1
        before = values - self.mean
        self.mean = self.mean + before / self.n
        self.squares = self.squares + before * (values - self.mean)

    def interval(self) -> np.ndarray:
        """Half the width of a 95% confidence interval of the mean (normal approximation)."""
        return 1.96 * np.sqrt(self.squares / max(self.n - 1, 1) / max(self.n, 1))


@dataclass
class Progress:
    """What a display reads while a run goes on."""

    total: int
    arms: dict[str, ArmTally]
    started: float
    engine: Engine | None = None
    dispatcher: Dispatcher | None = None
    best: float | None = None

    @property
    def done(self) -> int:
        return sum(a.done for a in self.arms.values())

    @property
    def failed(self) -> int:
        return sum(a.failed for a in self.arms.values())


def searches(plan: Plan, texts: Sequence[Prompt], seeds: Sequence[int]) -> Iterator[Search]:
    """In the order in which they are run: a prompt's arms together, so that they share what they can."""
    for age, ((i, prompt), seed, arm) in enumerate(product(enumerate(texts), seeds, plan.arms)):
        yield Search(age, f"{i:06d}-s{seed}-{arm.arm.name}", prompt, seed, arm)


# -- one search ------------------------------------------------------------------------------------------------------


def context(
    s: Search, answer: Callable[[Sequence[Candidate]], Awaitable[list[Score]]], clock: Callable[[], float]
) -> Context:
    reward, arm = s.plan.reward, s.plan.arm
    budget = Budget(arm.budget.nfe, arm.budget.replica_seconds, arm.budget.wall_seconds)
    ledger = Ledger(preview=reward.preview, decodes=reward.preview)
    return Context(
        s.prompt,
        s.plan.sampler,
        s.seed,
        reward=reward,
        meter=Meter(budget, ledger, clock),
        answer=answer,
        rng_key=(s.prompt.identity, arm.policy, canonical_json(arm.arguments)),
    )


async def run_policy(s: Search, ctx: Context) -> tuple[Candidate, bool]:
    """The winner, and whether the search ended for its budget."""
    try:
        winner = await s.plan.arm.search(ctx, **s.plan.arm.arguments)
    except BudgetExhausted:
        return ctx.best, True
    if not isinstance(winner, Candidate):
        raise ConfigError(f"policy {s.plan.arm.policy} returned {type(winner).__name__}, not a Candidate")
    return winner, ctx.history.exhausted is not None


# -- the dry run -----------------------------------------------------------------------------------------------------


def estimate(plan: Plan, texts: Sequence[Prompt], seeds: Sequence[int]) -> dict[str, Cost]:
    """What one search of each arm would cost, by the policy itself against made-up rewards. Raises ConfigError."""
    costs = {}
    for arm in plan.arms:
        s = Search(0, "dry-run", texts[0], seeds[0], arm)
        rollout = arm.sampler.num_steps * arm.sampler.nfe_per_step
        limit = arm.arm.budget.nfe
        if limit is not None and limit < rollout:
            raise ConfigError.of("budget.nfe", limit, f"at least {rollout}, the NFE of one video")

        async def answer(xs: Sequence[Candidate], n: int = len(arm.reward.components)) -> list[Score]:
            return [Score(tuple(x.identity[i % 16] / 256 for i in range(n)), 0.0) for x in xs]

        async def dry(s: Search = s, answer: Any = answer) -> Cost:
            ctx = context(s, answer, lambda: 0.0)
            winner, _ = await run_policy(s, ctx)
            return ctx.charged + ctx.meter.ledger.finish(winner)

        try:
            costs[arm.arm.name] = asyncio.run(dry())
        except RaysearchError as error:
            raise ConfigError(f"policy {arm.arm.policy} (arm {arm.arm.name}): {error}") from error
    return costs


# -- the run ---------------------------------------------------------------------------------------------------------


class Session:
    """A checked run: construct (raises ConfigError before anything is loaded), then `await run()`."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        *,
        run_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self.backend, self.clock, self.report = config, backend, clock, report
        with claimed(run_dir):
            self.prompts = prompts.load(config)
            self.plan = backend.prepare(config, configuration.arms(config))
            self.costs = estimate(self.plan, self.prompts, config.seeds)
        self.directory = RunDirectory(
            run_dir,
            OmegaConf.to_yaml(OmegaConf.structured(config)),
            sorted({c for a in self.plan.arms for c in a.reward.components}),
            sorted({f"{k}_{c}" for a in self.plan.arms for k, r in _judges(a) for c in r.components}),
        )
        self.journal = Journal(self.directory.path / "journal")
        self.searches_per_arm = len(self.prompts) * len(config.seeds)
        self.progress = Progress(
            self.searches_per_arm * len(self.plan.arms), {a.arm.name: ArmTally() for a in self.plan.arms}, clock()
        )

    async def run(self) -> Progress:
        try:
            async with (
                self.backend.fleet(self.config, self.plan) as fleet,
                Dispatcher.open(fleet.replicas) as dispatcher,
                asyncio.TaskGroup() as tasks,
            ):
                store = Store(int(self.config.fleet.store_gb * 1e9))
                engine = Engine(dispatcher, store, fleet.fetch, tasks)
                self.progress.engine, self.progress.dispatcher = engine, dispatcher
                self.progress.started = self.clock()
                await self._run_searches(engine)
        finally:
            self.directory.flush()
            self.journal.close()
        return self.progress

    async def _run_searches(self, engine: Engine) -> None:
        slots = self.config.fleet.denoisers.replicas * self.config.fleet.denoisers.slots
        live = asyncio.Semaphore(self.config.max_searches or max(2, 2 * slots))
        async with asyncio.TaskGroup() as tasks:
            async for s in _admitted(searches(self.plan, self.prompts, self.config.seeds), live):
                tasks.create_task(self._guarded(s, engine, live))

    async def _guarded(self, s: Search, engine: Engine, live: asyncio.Semaphore) -> None:
        try:
            await self._search(s, engine)
        finally:
            live.release()

    async def _search(self, s: Search, engine: Engine) -> None:
        spent, calls = Spent(s.age), 0

        async def answer(xs: Sequence[Candidate]) -> list[Score]:
            nonlocal calls
            scores = await engine.score(xs, s.plan.reward, spent)
            self.journal.add(
                {
                    "kind": "answer",
                    "search": s.id,
                    "call": calls,
                    "asked": [x.id for x in xs],
                    "components": [list(a.components) for a in scores],
                    "seconds": [a.seconds for a in scores],
                }
            )
            calls += 1
            return scores

        ctx = context(s, answer, self.clock)
        winner: Candidate | None = None
        finished: Finished | None = None
        status, reason = "done", ""
        try:
            winner, exhausted = await run_policy(s, ctx)
            if exhausted:
                status, reason = "budget", str(ctx.history.exhausted)
            winner = denoise(winner, winner.sampler.num_steps)
            ctx.meter.charged += ctx.meter.ledger.finish(winner)
            judges = list({r.key: r for _, r in _judges(s.plan)}.values())
            finished = await engine.finish(winner, judges, self._outputs(), spent)
            ctx.meter.charged += Cost(replica_seconds=finished.seconds)
        except asyncio.CancelledError:
            self._record(s, ctx, spent, winner, None, "cancelled", "interrupted")
            raise
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        self._record(s, ctx, spent, winner, finished, status, reason)

    def _outputs(self) -> dict[str, Any]:
        o = self.config.output
        return {"mp4": o.videos, "safetensors": o.latents, "npy": o.frames, "fps": o.fps, "scale": o.scale}

    def _record(
        self,
        s: Search,
        ctx: Context,
        spent: Spent,
        winner: Candidate | None,
        finished: Finished | None,
        status: str,
        reason: str,
    ) -> None:
        arm, charged = s.plan.arm, ctx.charged
        video = self.directory.save(s.id, finished.files) if finished else None
        row: dict[str, Any] = {
            "search_id": s.id,
            "arm": arm.name,
            "prompt": s.prompt.text,
            "seed": s.seed,
            "policy": arm.policy,
            "policy_args": canonical_json(arm.arguments),
            "status": status,
            "reason": reason,
            "winner": winner.id if winner else None,
            "origin": canonical_json(winner.origin.describe()) if winner else None,
            "reward_search": ctx.history.reward_of(winner) if winner else None,
            "nfe": charged.nfe,
            "decodes": charged.decodes,
            "reward_calls": charged.reward_calls,
            "nfe_spent": spent.nfe,
            "replica_seconds": charged.replica_seconds,
            "wall_seconds": ctx.meter.wall_seconds,
            "video": video,
        }
        for k, reward in _judges(s.plan):
            if finished:
                components = finished.rewards[reward.key]
                row[f"reward_{k}"] = reward.total(components)
                row |= {f"{k}_{c}": v for c, v in zip(reward.components, components, strict=True)}
        self.directory.searches.add([row])
        self.directory.candidates.add(_history_rows(s, ctx.history, winner))
        self.journal.add({"kind": "search", **row})
        self._tally(s, row, finished)

    def _tally(self, s: Search, row: dict[str, Any], finished: Finished | None) -> None:
        tally = self.progress.arms[s.plan.arm.name]
        tally.done += 1
        tally.failed += row["status"] == "failed"
        tally.budget += row["status"] == "budget"
        tally.cost += Cost(row["nfe"], row["decodes"], row["reward_calls"], row["replica_seconds"])
        tally.nfe_spent += row["nfe_spent"]
        if finished and s.plan.holdout:
            tally.judged.add(finished.rewards[s.plan.holdout.key])
        if row["reward_search"] is not None:
            self.progress.best = max(self.progress.best or row["reward_search"], row["reward_search"])
        if row["status"] == "failed":
            self.report(f"{s.id} failed: {row['reason']}")


async def _admitted(source: Iterator[Search], live: asyncio.Semaphore) -> AsyncIterator[Search]:
    while True:
        await live.acquire()
        s = next(source, None)
        if s is None:
            live.release()
            return
        yield s


def _judges(plan: ArmPlan) -> list[tuple[str, Reward]]:
    return [(k, r) for k, r in (("final", plan.final), ("holdout", plan.holdout)) if r is not None]


def _history_rows(s: Search, history: History, winner: Candidate | None) -> list[dict[str, Any]]:
    """A candidate is kept if it was asked again later, had a child that was asked, or led to the winner."""
    used: dict[bytes, int] = {}  # trajectory -> the latest step that something was made of
    sources = [row.candidate for row in history.rows] + ([winner] if winner else [])
    for x in sources:
        used[x.trajectory] = max(used.get(x.trajectory, -1), x.step)
    parents = {a.trajectory: a.step for x in sources for a in x.ancestors()}
    rows = []
    for row in history.rows:
        x = row.candidate
        kept = used[x.trajectory] > x.step or parents.get(x.trajectory, -1) >= x.step or x is winner
        rows.append(
            {
                "search_id": s.id,
                "candidate": x.id,
                "parent": x.parent.id if x.parent else None,
                "origin": canonical_json(x.origin.describe()),
                "step": x.step,
                "sigma": x.sigma,
                "reward": row.reward,
                "kept": kept,
                **dict(zip(s.plan.reward.components, row.components, strict=True)),
            }
        )
    return rows
