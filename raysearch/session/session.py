"""One run: check and price every arm, start the fleet, run the searches, write their results, stop the fleet.

For each prompt, seed and arm, at most `max_searches` at a time, a task runs the policy; the winner is denoised to the
end, decoded, judged and written. Prompts are read one by one, so memory does not grow with their number. It does where
an allocator shares a total budget out: all searches of the arm are then under way, and keep their histories.
"""

import asyncio
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raysearch.bootstrap import RunningGains
from raysearch.config import config as configuration
from raysearch.config import prompts
from raysearch.config.config import Config
from raysearch.config.prompts import Entry
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine, Finished
from raysearch.engine.protocol import Fleet, Outputs, Replica
from raysearch.engine.sharing import Spent
from raysearch.engine.spill import Spill
from raysearch.engine.store import Store
from raysearch.errors import ConfigError, FolderError, NoReplica, counted, single, told
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Sampler
from raysearch.recipe.reward import Question, Reward, Score
from raysearch.search.budget import Cost
from raysearch.search.context import Context
from raysearch.session import about, dataset, encoders, journal, previews, replay, tables
from raysearch.session.allocation import Allocation
from raysearch.session.directory import (
    CONFIG,
    CONTENT,
    GROWING,
    JOURNAL,
    RunDirectory,
    check_claim,
    check_content,
    claimed,
    entries_so_far,
)
from raysearch.session.plan import (
    Backend,
    Search,
    check_kept,
    content_of,
    context,
    estimate,
    group_of,
    outputs,
    run_policy,
    searches,
)
from raysearch.session.progress import ArmTally, Progress, Sink, follow
from raysearch.session.recording import EVERY, Recording
from raysearch.session.snapshot import STATUS, Snapshot
from raysearch.session.tables import Outcome

SAVE_EVERY = 2.0  # seconds between snapshots in status.json and in the fleet's metrics
SPARE = b" " * 2048  # the end of status.json: how a run ended on a full disk is written there


class Session:
    """A checked run: construct it (raises ConfigError before any model is loaded), then `await run()`.

    If `config.resume` allows and `run_dir` holds an earlier run of the config, that run is resumed: its finished
    searches are kept, and the policies of the others run against the recorded answers first.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        *,
        run_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = lambda line: None,
        elsewhere: Container[str] = (),
    ) -> None:
        """`elsewhere` are names of files of the run that lie in an object store alone, and are not made again."""
        self.config, self.backend, self.clock, self._report = config, backend, clock, report
        resolved = configuration.resolved(config)
        with claimed(run_dir, config, config.resume) as begun:
            self.prompts = prompts.load(config)
            self.searches_per_arm = sum(len(e.seeds(config.seeds)) for e in self.prompts)
            prompts.check_captions(self.prompts, config.long.chunks)
            self.plan = backend.prepare(config, configuration.arms(config), begun)
            prompts.check_images(self.prompts, self.plan.images, last=self.plan.last_images)
            for arm in self.plan.arms:
                dataset.check_arm(config, arm)
            self._embeddings = encoders.embeddings(config, self.plan, self._searches())
            texts = [e.prompt for e in self.prompts]
            self.costs = estimate(self.plan, texts, config.seeds, self.searches_per_arm, report)
            so_far: Sequence[Entry] = self.prompts
            if begun and config.resume == "extend":
                so_far = entries_so_far(run_dir, self.prompts)
                before = searches(self.plan, so_far, begun.seeds, apart=self.config.noises_apart)
                check_kept(before, self._searches(), config.seeds)
            check_content(run_dir, content_of(self.plan, so_far))
        self.journal = journal.Journal(run_dir / JOURNAL)
        with self.journal.understood():
            check_claim(run_dir, begun)
        self.directory = RunDirectory(
            run_dir,
            resolved,
            sorted({c for a in self.plan.arms for c in a.components}),
            sorted({f"{k}_{c}" for a in self.plan.arms for k, r in a.judges for c in r.components}),
            sorted({tag for e in self.prompts for tag in e.tags}),
            prompts=len(self.prompts),
            searches_per_prompt=max(len(e.seeds(config.seeds)) for e in self.prompts) * len(self.plan.arms),
            long=config.long.chunks > 1,
            elsewhere=elsewhere,
        )
        self._new = begun is None
        self._digest = about.config_digest(config)
        self.directory.folder.write(CONTENT, content_of(self.plan, self.prompts))
        if begun and config.resume == "extend":
            grown = replace(begun, **{k: getattr(config, k) for k in GROWING})
            self.directory.folder.write(CONFIG, configuration.resolved(grown).encode())
        over = configuration.baseline(config, [a.arm for a in self.plan.arms])
        judge = over.rewards.holdout
        arms = {p.arm.name: self._tally(p.holdout, p.arm.rewards.holdout != judge) for p in self.plan.arms}
        self.progress = Progress(run_dir.resolve().name, arms, clock(), RunningGains(list(arms), over.name))
        with self.journal.understood():
            self.past = replay.read(self.directory.journal, self.plan, self._lacking)
            for row in self.past.finished.values():
                self.progress.add(row)
            self.directory.flush()
        self.progress.kept, self._ended = len(self.past.finished), self.past.ended
        self._whole: asyncio.Task[Any] | None = None  # the task of all searches
        self._allocations: dict[str, Allocation] = {}  # of the arms that have one
        self._recording: Recording | None = None
        self._ending = False  # one search's error ends the run, and cancels the others

    def report(self, line: str) -> None:
        """Show a line, if anybody is there to see it."""
        with suppress(Exception):
            self._report(line)

    def _searches(self) -> Iterator[Search]:
        return searches(self.plan, self.prompts, self.config.seeds, apart=self.config.noises_apart)

    def _stops(self, sampler: Sampler) -> list[int]:
        return dataset.stops(sampler.sigmas, self.config.collect.levels) if self.config.collect else []

    def _tally(self, judge: Reward | None, unlike: bool) -> ArmTally:
        if judge is None:
            return ArmTally(self.searches_per_arm, components=("reward",))
        name = judge.key.rpartition("-")[0] or judge.key
        apart = self.config.noises_apart and len({e.prompt.title for e in self.prompts}) > 1
        return ArmTally(self.searches_per_arm, name, judge.components, apart, unlike)

    @property
    def _idle(self) -> bool:
        """True if an earlier run has finished every search and no file is lacking."""
        return self.progress.kept == self.progress.total and not self.past.lacking

    def discard(self) -> None:
        """Leave nothing of a new run that is not wanted after all."""
        self.journal.close()
        if self._new:
            self.directory.discard()

    async def run(self, sinks: Sequence[Sink] | None = None) -> Progress:
        """Run every unfinished search. With `sinks`, even none, snapshots go to them and to status.json meanwhile.

        Raises NoReplica if the fleet is gone: the searches that are left are then undone, and not failed. Raises
        ConfigError for a mistake that only the fleet could find; of a new run nothing is left behind then.
        """
        try:
            await self._watched(sinks)
        except (ConfigError, BaseExceptionGroup) as error:
            if self._new and self.progress.engine is None and isinstance(single(error), ConfigError):
                self.directory.discard()
            raise
        return self.progress

    async def _watched(self, sinks: Sequence[Sink] | None) -> None:
        try:
            if sinks is None or self._idle:  # with nothing to do no file changes
                await self._run()
            else:
                self._recording = Recording(self.directory.folder, self.report)
                own = [(SAVE_EVERY, self._save), (SAVE_EVERY, self._publish), (EVERY, self._recording.snapshot)]
                await follow(self._run(), self.progress, [*own, *sinks], report=self.report, clock=self.clock)
        except* NoReplica as lost:
            again = f"to go on, give the same command again with run_dir={self.directory.path} resume=require"
            raise NoReplica(f"{single(lost)}; {again}") from None
        finally:
            if self._recording is not None:
                self._recording.close()
            self.journal.close()  # after the last status: `raysearch status` calls a run killed that is not locked

    def _save(self, snapshot: Snapshot) -> None:
        try:
            self.directory.folder.write(STATUS, snapshot.json() + SPARE)
        except FolderError:  # a full disk has no room for two of them
            self.directory.folder.overwrite(STATUS, snapshot.json())

    def _publish(self, snapshot: Snapshot) -> None:
        if self.progress.engine:
            self.backend.publish(snapshot)

    async def _run(self) -> None:
        try:
            if self._idle:
                return
            if self.past.lacking:
                self.report(f"files of {counted(len(self.past.lacking), 'finished search')} are made again")
            kept, left = self._embeddings, (s for s in self._searches() if s.id not in self._ended)
            config, texts = encoders.needed(self.config, kept, left, self.report)
            async with (
                self.backend.fleet(config, self.plan, self.report) as fleet,
                Dispatcher.open(fleet.replicas, self._recording.ran if self._recording else None) as dispatcher,
                asyncio.TaskGroup() as tasks,
            ):
                store = Store(int(self.config.fleet.store_gb * 1e9))
                spill = Spill(self.directory.folder, fleet.put) if self.config.long.chunks > 1 else None
                kept = kept and replace(kept, put=fleet.condition)
                shown = self.config.output.previews != "none"
                engine = Engine(dispatcher, store, fleet.fetch, tasks, self.past.scores, spill, kept, previews=shown)
                self.progress.engine, self.progress.dispatcher = engine, dispatcher
                self.progress.started = self.clock()
                live = asyncio.Semaphore(self.config.max_searches or max(2, self._alive_for(fleet.replicas)))
                released = encoders.release(texts, engine, dispatcher, fleet, self.report)
                beside = [tasks.create_task(w) for w in (self._welcome(fleet, dispatcher, live), released)]
                await self._run_searches(engine, live)
                for task in beside:
                    task.cancel()
                if spill is not None:
                    spill.close()
        finally:
            self.directory.flush()

    def _alive_for(self, replicas: Sequence[Replica]) -> int:
        """The number of searches that keep these replicas busy: two for each slot of a denoiser."""
        return 2 * sum(r.slots for r in replicas if r.kind == "denoiser")

    async def _welcome(self, fleet: Fleet, dispatcher: Dispatcher, live: asyncio.Semaphore) -> None:
        """Use each replica that joins the fleet, and let more searches run for it."""
        async for replica in fleet.arrivals():
            dispatcher.join(replica)
            if self.config.max_searches is None:
                for _ in range(self._alive_for([replica])):
                    live.release()

    async def _run_searches(self, engine: Engine, live: asyncio.Semaphore) -> None:
        self._whole = asyncio.current_task()
        for a in (p for p in self.plan.arms if p.arm.allocate):
            ids, finished = (s.id for s in self._searches() if s.plan.arm is a.arm), self.past.finished.values()
            self._allocations[a.arm.name] = Allocation(a.arm, a.rollout, ids, finished, live, self.report)

        async def one(s: Search) -> None:
            try:
                await (self._restore if s.id in self.past.lacking else self._search)(s, engine)
            except BaseException:
                self._ending = True
                raise
            finally:
                live.release()
                over(s)

        def over(s: Search) -> None:
            group = group_of(s.id)
            arms[group] = arms.get(group, len(self.plan.arms)) - 1
            if not arms[group]:  # what its searches shared is asked for no more
                del arms[group]
                engine.forget_group(group)

        arms: dict[str, int] = {}  # of a prompt and seed, not ended
        async with asyncio.TaskGroup() as tasks:
            for s in self._searches():
                if s.id in self._ended:
                    over(s)
                    continue
                await live.acquire()
                tasks.create_task(one(s))

    def _interrupted(self, error: BaseException) -> bool:
        """True if an error ends the whole run, and not one search."""
        ended = self._ending or bool(self._whole and self._whole.cancelling())
        return isinstance(error, FolderError | NoReplica) or (ended and not isinstance(error, Exception))

    async def _search(self, s: Search, engine: Engine) -> None:
        """Run one search to its end, whatever that is, and record it.

        Whatever a policy raises fails its search alone: a search is cancelled only with the task of all searches.
        """
        spent, calls = Spent(s.age, self.past.spent.get(s.id, 0), group_of(s.id)), 0
        if self.config.fleet.speculate and s.plan.long.parts == 1:
            spent.sequels = s.plan.sequels

        async def answer(xs: Sequence[Question], reward: Reward) -> list[Score]:
            nonlocal calls
            wall = ctx.meter.asked_at
            scores = await engine.score(xs, reward, spent)
            calls += 1
            if calls > self.past.calls[s.id]:
                self.journal.add(replay.answer_record(s, xs, reward, scores, wall=wall, spent=spent.nfe))
            return scores

        allocation = self._allocations.get(s.plan.arm.name)
        gate = partial(allocation.turn, s.id) if allocation else None
        ctx = context(s, answer, self.clock, self.past.walls.get(s.id, ()), gate)
        end = Outcome("done")
        try:
            winner, exhausted = await run_policy(s, ctx)
            if self._interrupted(asyncio.CancelledError()):
                raise asyncio.CancelledError  # which the policy caught
            end = replace(end, winner=winner)
            if exhausted:
                self.journal.add({"kind": "exhausted", "search": s.id, "wall": ctx.meter.asked_at})
                end = replace(end, status="budget", reason=str(ctx.history.exhausted))
            shown = self._previews(s, ctx, winner, engine)
            finished = await self._finish(s, ctx, winner, engine, spent, tuple(shown.values()))
            end = replace(end, finished=finished, previews=tuple(shown))
        except BaseException as error:
            if self._interrupted(error):
                self._record(s, ctx, replace(end, status="cancelled", reason="interrupted"), spent)
                raise
            end = replace(end, status="failed", reason=told(error))
        self._record(s, ctx, end, spent)
        engine.forget(spent)

    async def _restore(self, s: Search, engine: Engine) -> None:
        """Make the files that a finished search lacks; its policy is answered from the journal, and its row stays."""
        spent = Spent(s.age, group=group_of(s.id))
        try:
            ctx = replay.answered(s, self.past, self.clock, int(self.past.finished[s.id]["trials"]))
            winner, _ = await run_policy(s, ctx)
            if winner.id != self.past.finished[s.id]["winner"]:
                raise LookupError("the policy now chooses another winner")
            finished = await engine.finish(winner, [], self._named(self.past.lacking[s.id], s, winner), spent)
        except BaseException as error:
            if self._interrupted(error):
                raise
            self.progress.unmade.add(told(error), s.id)
            self.report(f"{s.id}: its files cannot be made again: {told(error)}")
        else:
            self.directory.save(s.id, finished.files)
        engine.forget(spent)

    def _previews(self, s: Search, ctx: Context, winner: Candidate, engine: Engine) -> dict[str, bytes]:
        rows = tables.candidate_rows(s, ctx.history, winner) if engine.strips else []
        return previews.chosen(rows, engine.strips, self.config.output.previews)

    async def _finish(
        self, s: Search, ctx: Context, winner: Candidate, engine: Engine, spent: Spent, shown: tuple[bytes, ...]
    ) -> Finished:
        """The winner denoised to the end, decoded and judged, for which the search is charged; previews go with it."""
        ctx.meter.charged += ctx.meter.ledger.finish(winner)
        judges = list({r.key: r for _, r in s.plan.judges}.values())
        kept = [t for t in self._stops(winner.sampler) if t >= winner.origin.step]
        collected = [Candidate(winner.prompt, winner.sampler, winner.origin, t) for t in kept]
        files = replace(self._named(outputs(self.config.output, self.plan), s, winner), previews=shown)
        finished = await engine.finish(winner, judges, files, spent, collected)
        for _, judge in s.plan.judges:
            judge.total(finished.reward(judge.key))  # raises where it is not finite
        for part, making in zip(long_video.parts(winner), finished.making, strict=True):
            ctx.meter.charge_seconds(part, making, 0.0)
        ctx.meter.charged += Cost(replica_seconds=finished.decoding)
        return finished

    def _lacking(self, search_id: str) -> Outputs:
        return self.directory.lacking(search_id, outputs(self.config.output, self.plan))

    def _named(self, outputs: Outputs, s: Search, winner: Candidate) -> Outputs:
        return replace(outputs, title=s.prompt.title, comment=about.comment(s, winner, self._digest))

    def _record(self, s: Search, ctx: Context, end: Outcome, spent: Spent) -> None:
        """Write the winner's files, and the search's rows first to the journal, then to the tables, its copies."""
        video = self.directory.save(s.id, end.finished.files) if end.finished else None
        row = tables.search_row(s, ctx, end, nfe_spent=spent.nfe, video=video)
        candidates = tables.candidate_rows(s, ctx.history, end.winner)
        places = {candidate: row for row, candidate in enumerate(end.previews)}
        candidates = [c | {"preview": places.get(c["candidate"])} for c in candidates]
        allocation = self._allocations.get(s.plan.arm.name)
        rounds = allocation.leave(s.id, ctx) if allocation and end.status != "cancelled" else {}
        self.journal.add(tables.search_record(row, candidates) | rounds)
        self.directory.searches.add(s.id, [row])
        self.directory.candidates.add(s.id, candidates)
        self.progress.add(row)
        if end.status == "failed":
            self.report(f"{s.id} failed: {end.reason}")
