"""One run: a dry run of every arm against fakes, the fleet up, the searches, their results, the fleet down.

For each (prompt, seed, arm), at most `max_searches` at a time, a search task runs the policy; its winner is denoised
to the end, decoded, judged and written. Prompts stream, so memory does not grow with their number.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from raysearch.config import config as configuration
from raysearch.config import prompts
from raysearch.config.config import Config
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine, Finished, Spent
from raysearch.engine.protocol import Fleet, Outputs, Replica
from raysearch.engine.spill import SPILL, Spill
from raysearch.engine.store import Store
from raysearch.files import write
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Sampler
from raysearch.recipe.digests import canonical_json
from raysearch.recipe.reward import Reward, Score
from raysearch.search.budget import Cost
from raysearch.search.context import Context
from raysearch.search.history import History
from raysearch.session import dataset, replay
from raysearch.session.directory import CONTENT, RunDirectory, check_content, claimed
from raysearch.session.journal import Journal
from raysearch.session.plan import Backend, Search, content_of, context, estimate, in_its_own_loop, run_policy, searches
from raysearch.session.progress import ArmTally, Progress, Sink, follow
from raysearch.session.snapshot import STATUS, Snapshot

SAVE_EVERY = 2.0  # seconds between snapshots in status.json and in the fleet's metrics


class Session:
    """A checked run: construct (raises ConfigError before anything is loaded), then `await run()`.

    Where `config.resume` says so, a run that `run_dir` holds is gone on with: its finished searches are kept, and the
    others are replayed as far as their answers were recorded.
    """

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
        resolved = OmegaConf.to_yaml(OmegaConf.structured(config))
        with claimed(run_dir, resolved, config.resume) as before:
            begun = configuration.build(OmegaConf.to_container(OmegaConf.create(before))) if before else None
            self.prompts = prompts.load(config)
            prompts.check_captions(self.prompts, config.long.chunks)
            self.plan = backend.prepare(config, configuration.arms(config), begun)
            prompts.check_images(self.prompts, self.plan.images)
            for arm in self.plan.arms:
                self._stops(arm.sampler)
            self.costs = estimate(self.plan, self.prompts, config.seeds)
            content = content_of(self.plan, self.prompts)
            check_content(run_dir, content)
        self.directory = RunDirectory(
            run_dir,
            resolved,
            sorted({c for a in self.plan.arms for c in a.components}),
            sorted({f"{k}_{c}" for a in self.plan.arms for k, r in a.judges for c in r.components}),
            long=config.long.chunks > 1,
        )
        self.journal = Journal(self.directory.path / "journal")
        write(run_dir / CONTENT, content)
        self.searches_per_arm = len(self.prompts) * len(config.seeds)
        self.progress = Progress(
            run_dir.resolve().name, {a.arm.name: self._tally(a.holdout) for a in self.plan.arms}, clock()
        )
        self.past = self._past(run_dir / "journal") if begun else replay.Past()
        for row in self.past.finished.values():
            self.progress.add(row)
        self.progress.kept = len(self.past.finished)

    def _past(self, folder: Path) -> replay.Past:
        """The earlier run's record; tables that it left behind it are completed."""
        done = replay.finished(folder)
        self.directory.keep(list(done.values()))
        bare = done.keys() - self.directory.shown()  # those that never scored are among them
        past = replay.read(folder, self.plan, done, bare.__contains__)
        bare &= past.calls.keys()
        for s in self._searches() if bare else ():
            if s.id in bare:
                ctx, winner = in_its_own_loop(replay.replayed(s, past))
                self.directory.candidates.add(_history_rows(s, ctx.history, winner))
        return past

    def _searches(self) -> Iterator[Search]:
        """When latents are collected every rollout has a noise of its own; else prompts may share theirs."""
        apart = self.config.seeds_apart or self.config.collect is not None
        return searches(self.plan, self.prompts, self.config.seeds, apart=apart)

    def _stops(self, sampler: Sampler) -> list[int]:
        return dataset.stops(sampler.sigmas, self.config.collect.levels) if self.config.collect else []

    def _tally(self, judge: Reward | None) -> ArmTally:
        if judge is None:
            return ArmTally(self.searches_per_arm)
        return ArmTally(self.searches_per_arm, judge.key.rpartition("-")[0] or judge.key, judge.components)

    async def run(self, sinks: Sequence[Sink] | None = None) -> Progress:
        """Run every search that is missing; with `sinks` it is watched and its status written, else no timer is set."""
        try:
            if sinks is None or self.progress.kept == self.progress.total:  # what has nothing to do changes no file
                await self._run()
            else:
                await follow(self._run(), self.progress, [(SAVE_EVERY, self._save), *sinks], clock=self.clock)
        finally:  # only now: who sees the journal free and no end in status.json takes the run for killed
            self.journal.close()
        return self.progress

    def _save(self, snapshot: Snapshot) -> None:
        write(self.directory.path / STATUS, snapshot.json())
        if self.progress.engine:
            self.backend.publish(snapshot)

    async def _run(self) -> None:
        try:
            if self.progress.done == self.progress.total:
                return
            async with (
                self.backend.fleet(self.config, self.plan, self.report) as fleet,
                Dispatcher.open(fleet.replicas) as dispatcher,
                asyncio.TaskGroup() as tasks,
            ):
                store = Store(int(self.config.fleet.store_gb * 1e9))
                long = self.config.long.chunks > 1
                spill = Spill(self.directory.path / SPILL, fleet.put) if long else None
                engine = Engine(dispatcher, store, fleet.fetch, tasks, self.past.scores, spill)
                self.progress.engine, self.progress.dispatcher = engine, dispatcher
                self.progress.started = self.clock()
                live = asyncio.Semaphore(self.config.max_searches or max(2, self._alive_for(fleet.replicas)))
                arrivals = tasks.create_task(self._welcome(fleet, dispatcher, live))
                await self._run_searches(engine, live)
                arrivals.cancel()
                if spill is not None:
                    spill.close()
        finally:
            self.directory.flush()

    def _alive_for(self, replicas: Sequence[Replica]) -> int:
        """How many searches keep these replicas busy: two per slot of a denoiser."""
        return 2 * sum(r.slots for r in replicas if r.kind == "denoiser")

    async def _welcome(self, fleet: Fleet, dispatcher: Dispatcher, live: asyncio.Semaphore) -> None:
        """Take into service what joins the fleet, and have more searches alive for it."""
        async for replica in fleet.arrivals():
            dispatcher.join(replica)
            if self.config.max_searches is None:
                for _ in range(self._alive_for([replica])):
                    live.release()

    async def _run_searches(self, engine: Engine, live: asyncio.Semaphore) -> None:
        async with asyncio.TaskGroup() as tasks:
            every = (s for s in self._searches() if s.id not in self.past.finished)
            async for s in _admitted(every, live):
                tasks.create_task(self._guarded(s, engine, live))

    async def _guarded(self, s: Search, engine: Engine, live: asyncio.Semaphore) -> None:
        try:
            await self._search(s, engine)
        finally:
            live.release()

    async def _search(self, s: Search, engine: Engine) -> None:
        spent, calls = Spent(s.age, self.past.spent.get(s.id, 0)), 0
        recorded, walls = self.past.calls.get(s.id, 0), self.past.walls.get(s.id, ())

        async def answer(xs: Sequence[Candidate], reward: Reward) -> list[Score]:
            nonlocal calls
            at = ctx.meter.asked_at
            scores = await engine.score(xs, reward, spent)
            calls += 1
            if calls > recorded:
                self.journal.add(
                    {
                        "kind": "answer",
                        "search": s.id,
                        "reward": reward.key,
                        "asked": [x.id for x in xs],
                        "components": [list(a.components) for a in scores],
                        "seconds": [[a.making, a.scoring, *a.earlier] for a in scores],
                        "wall": at,
                        "spent": spent.nfe,
                    }
                )
            return scores

        ctx = context(s, answer, self.clock, walls)
        winner: Candidate | None = None
        finished: Finished | None = None
        status, reason = "done", ""
        try:
            winner, exhausted = await run_policy(s, ctx)
            if exhausted:
                self.journal.add({"kind": "exhausted", "search": s.id, "wall": ctx.meter.asked_at})
                status, reason = "budget", str(ctx.history.exhausted)
            ctx.meter.charged += ctx.meter.ledger.finish(winner)
            judges = list({r.key: r for _, r in s.plan.judges}.values())
            finished = await engine.finish(winner, judges, self._outputs(), spent, self._kept(winner))
            for part, making in zip(long_video.parts(winner), finished.making, strict=True):
                ctx.meter.charge_seconds(part, making, 0.0)
            ctx.meter.charged += Cost(replica_seconds=finished.decoding)
        except asyncio.CancelledError:
            self._record(s, ctx, spent, winner, None, "cancelled", "interrupted")
            raise
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        self._record(s, ctx, spent, winner, finished, status, reason)
        engine.forget(spent)

    def _kept(self, x: Candidate) -> list[Candidate]:
        return [Candidate(x.prompt, x.sampler, x.origin, t) for t in self._stops(x.sampler) if t >= x.origin.step]

    def _outputs(self) -> Outputs:
        o = self.config.output
        return Outputs(mp4=o.videos, safetensors=o.latents, npy=o.frames, fps=o.fps, scale=o.scale)

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
            "prompt": s.prompt.title,
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
        for k, reward in s.plan.judges:
            if finished:
                components = finished.reward(reward.key)
                row[f"reward_{k}"] = reward.total(components)
                row |= {f"{k}_{c}": v for c, v in zip(reward.components, components, strict=True)}
                if len(finished.rewards) > 1:
                    chunks = zip(reward.components, finished.by_chunk(reward.key), strict=True)
                    row |= {f"{k}_{c}_chunks": list(v) for c, v in chunks}
        self.directory.searches.add([row])
        self.directory.candidates.add(_history_rows(s, ctx.history, winner))
        self.journal.add({"kind": "search", **row})
        self.progress.add(row)
        if status == "failed":
            self.report(f"{s.id} failed: {reason}")


async def _admitted(source: Iterator[Search], live: asyncio.Semaphore) -> AsyncIterator[Search]:
    while True:
        await live.acquire()
        s = next(source, None)
        if s is None:
            live.release()
            return
        yield s


def _history_rows(s: Search, history: History, winner: Candidate | None) -> list[dict[str, Any]]:
    """A candidate is kept if it was asked again later, had a child that was asked, or led to the winner."""
    used: dict[bytes, int] = {}  # trajectory -> the latest step that something was made of
    origins = {row.origin for row in history.rows}
    for trajectory, step in [(r.trajectory, r.step) for r in history.rows]:
        used[trajectory] = max(used.get(trajectory, -1), step)
    if winner is not None:
        used[winner.trajectory] = winner.step
        origins.add(winner.origin)
    parents: dict[bytes, int] = {}
    for parent in {o.parent for o in origins if o.parent is not None}:
        for x in (parent, *parent.ancestors()):
            parents[x.trajectory] = max(parents.get(x.trajectory, -1), x.step)
    return [
        {
            "search_id": s.id,
            "candidate": row.id,
            "parent": row.origin.parent.id if row.origin.parent else None,
            "origin": canonical_json(row.origin.describe()),
            "part": row.part,
            "step": row.step,
            "sigma": row.sampler.sigmas[row.step],
            "reward": row.reward,
            "kept": used[row.trajectory] > row.step
            or parents.get(row.trajectory, -1) >= row.step
            or (winner is not None and winner.id == row.id),
            **dict(zip(s.plan.components, row.components, strict=True)),
        }
        for row in history.rows
    ]
