"""Makes what candidates need, and no others: latents from recipes, rewards from latents, videos from winners.

Everything is made once and shared: by the store (what exists), by jobs (what is on its way), and by the memo of
rewards. What was lost or evicted is made again from its recipe. It knows nothing of policies, budgets or Ray.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Generic, TypeVar

from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.protocol import Answer, Call
from raysearch.engine.spill import Spill
from raysearch.engine.store import Entry, Store
from raysearch.errors import InputLost, ReplicaDied, RewardError
from raysearch.recipe.candidate import Candidate, Sampler, denoise
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.origins import Extend, Obstacle, Push, Recording, Renoise, Slide
from raysearch.recipe.reward import Reward, Score, score_key

T = TypeVar("T")
ATTEMPTS = 8  # at making something whose inputs keep getting lost
IN_FLIGHT = 8  # candidates of one call that are worked on at a time, for each slot: no slot waits, and little is held


@dataclass
class Spent:
    """What was really run for one search (what it shares with others is counted where it was asked first)."""

    age: int = 0
    nfe: int = 0
    spilled: list[Digest] = field(default_factory=list)


@dataclass
class Pace:
    """How many there were, and the replica-seconds that they took."""

    n: int = 0
    seconds: float = 0.0

    def add(self, n: int, seconds: float) -> None:
        self.n += n
        self.seconds += seconds

    @property
    def each(self) -> float | None:
        return self.seconds / self.n if self.n else None


@dataclass(frozen=True)
class Finished:
    """A winner: of each chunk (one, unless the video is long) rewards by their key; files by their extension.

    And the replica-seconds of each part's trajectory, and of decoding all.
    """

    rewards: tuple[dict[str, tuple[float, ...]], ...]
    files: dict[str, bytes]
    making: tuple[float, ...]
    decoding: float

    def by_chunk(self, key: str) -> list[tuple[float, ...]]:
        """Of each of a reward's components its values, chunk by chunk."""
        return list(zip(*(r[key] for r in self.rewards), strict=True))

    def reward(self, key: str) -> tuple[float, ...]:
        """The components of a reward: of a long video their means over chunks."""
        return tuple(sum(c) / len(c) for c in self.by_chunk(key))


class Memo(OrderedDict[Digest, T], Generic[T]):
    """A bounded, least-recently-used dictionary."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def recall(self, key: Digest) -> T | None:
        if key not in self:
            return None
        self.move_to_end(key)
        return self[key]

    def keep(self, key: Digest, value: T) -> None:
        self[key] = value
        self.move_to_end(key)
        while len(self) > self._size:
            self.popitem(last=False)


@dataclass
class _Job(Generic[T]):
    task: "asyncio.Task[tuple[T | None, Exception | None]]"
    waiters: int = 0


@dataclass
class _Trajectory:
    """The stops asked for on one trajectory; one item runs on it at a time, the earliest stop first."""

    stops: list[int] = field(default_factory=list)
    running: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class Engine:
    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        fetch: Callable[[Any], Awaitable[dict[str, bytes]]],
        tasks: asyncio.TaskGroup,
        recorded: Mapping[Digest, Score] | None = None,
        spill: Spill | None = None,
    ) -> None:
        """`recorded` are the scores of an earlier run, by `score_key`: they stand; `spill` is for long videos."""
        self.store = store
        self._recorded = recorded or {}
        self.nfe = self.decodes = self.rewards = self.recomputed = 0
        self.steps, self.scores = Pace(), Pace()
        self._dispatcher, self._fetch, self._tasks = dispatcher, fetch, tasks
        self._jobs: dict[Digest, _Job[Any]] = {}
        self._trajectories: dict[Digest, _Trajectory] = {}
        self._scores: Memo[Score] = Memo(200_000)
        self._conditions: Memo[Any] = Memo(256)
        self._making: Memo[float] = Memo(200_000)  # replica-seconds of trajectories
        self._spill = spill

    # -- rewards ---------------------------------------------------------------------------------------------------

    async def score(self, xs: Sequence[Candidate], reward: Reward, spent: Spent) -> list[Score]:
        for x in xs:
            self.store.watch(x)
        at_a_time = min(len(xs), IN_FLIGHT * max(1, sum(self._dispatcher.tally.slots.values())))
        return await gather((self._score(x, reward, spent) for x in xs), at_a_time)

    async def _score(self, x: Candidate, reward: Reward, spent: Spent) -> Score:
        key = score_key(x.identity, reward)
        known = self._recorded.get(key) or self._scores.recall(key)
        if known is None:
            known = await self._share(key, lambda: self._measure(x, reward, spent))
            self._scores.keep(key, known)
        return known

    async def _measure(self, x: Candidate, reward: Reward, spent: Spent) -> Score:
        before = (x.before, x.opening if reward.earlier else None)
        ids = [None if c is None else c.id for c in before]
        arguments = {"sigma": x.sigma, "earlier": ids, "links": [_link(x)]}
        look = ("score", (x,), [x.text], [reward], reward.preview)
        (entry,), answer, (found,) = await self._view(*look, arguments, spent, before)
        self.scores.add(1, answer.meta["seconds"])
        seconds = tuple(self._making.get(c.trajectory, 0.0) for c in x.unseen)
        return Score(found[reward.key], entry.seconds, answer.meta["seconds"], seconds)

    async def finish(
        self,
        x: Candidate,
        rewards: Sequence[Reward],
        outputs: dict[str, Any],
        spent: Spent,
        kept: Sequence[Candidate] = (),
    ) -> Finished:
        """The video of `x`, denoised to the end, with `rewards` of it; and a file of the latents `kept` on its way."""
        x = denoise(x, x.sampler.num_steps)
        for c in (x, *kept):
            self.store.watch(c)
        arguments: dict[str, Any] = {"outputs": outputs, "kept": [(c.step, c.sigma) for c in kept]}
        parts, texts = x.parts, [x.prompt.caption(i) for i in range(x.chunk + 1)]
        if (q := x.sampler.queue) is None:
            arguments["links"] = [_link(c) for c in parts]
        else:  # its frames are seen as chunks that go on with latents
            arguments["links"] = [None, *([{"prefix": q.prefix, "anew": False}] * x.chunk)]
        look = ("finish", [c for c in parts if c.shows], texts, rewards, False)
        for _ in range(ATTEMPTS):
            _, answer, found = await self._view(*look, arguments, spent, kept)
            try:
                files = await self._fetch(answer.ref)
            except (InputLost, ReplicaDied):  # the files were lost with their node; the latents may be there still
                continue
            making = tuple(self._making.get(c.trajectory, 0.0) for c in parts)
            return Finished(tuple(found), files, making, answer.meta["seconds"])
        raise InputLost(f"the files of {x} were lost {ATTEMPTS} times")

    async def _view(
        self,
        method: str,
        xs: Sequence[Candidate],
        captions: Sequence[str],
        rewards: Sequence[Reward],
        velocity: bool,
        arguments: dict[str, Any],
        spent: Spent,
        others: Sequence[Candidate | None],
    ) -> tuple[list[Entry], Answer, list[dict[str, tuple[float, ...]]]]:
        """Make `xs`, parts of one video, and `others`, and have a scorer look at them: the rewards under each caption.

        Again if something got lost on the way, and elsewhere if that saw NaN. Inputs: the states of `xs`, the
        embeddings of their captions, the points of the obstacles, the states of others.
        """
        obstacles = next((r.obstacles for r in rewards if r.obstacles), ())  # an arm has but one set of them
        arguments = arguments | {"rewards": [r.key for r in rewards], "obstacles": layout(obstacles)}
        arguments |= {"parts": len(xs), "prompts": captions}
        reads, sampler = any(r.text for r in rewards), xs[0].sampler
        doubted = ""
        for _ in range(ATTEMPTS):
            points = await self._points(_flat(obstacles), sampler, spent)
            texts = [await self._text(text, sampler, spent) if reads else None for text in captions]
            more = await gather((self.latent(c, False, spent) for c in others if c is not None), len(others))
            found = iter(more)
            beside = [None if c is None else next(found).ref for c in others]
            entries = [await self.latent(x, velocity, spent) for x in xs]
            refs = (*(e.ref for e in entries), *texts, *points, *beside)
            place = entries[-1].place
            try:
                call = Call(method, arguments, refs)
                answer = await self._dispatcher.submit("scorer", call, age=spent.age, place=place, avoid=doubted)
            except InputLost:
                self._lost((*xs, *others, *_flat(obstacles)))
                continue
            self.decodes += answer.meta["decodes"]
            self.rewards += len(rewards) * len(captions)
            scores = answer.meta["rewards"]
            if not doubted and not all(isfinite(c) for s in scores for r in rewards for c in s[r.key]):
                doubted = answer.place
                continue
            return entries, answer, [{r.key: _components(s[r.key], r) for r in rewards} for s in scores]
        raise InputLost(f"{xs[-1]} was lost {ATTEMPTS} times")

    # -- latents ---------------------------------------------------------------------------------------------------

    async def latent(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        """The stored state of `x`; with the velocity at its own point if asked (a finished one needs none)."""
        velocity = velocity and not x.finished
        chain = [x]
        while self._base(chain[-1]) is None and chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        for child, ancestor in reversed(list(pairwise(chain))):  # not recursive: a chain may be thousands long
            await self._shared_latent(ancestor, child.origin.needs_velocity, spent)
        return await self._shared_latent(x, velocity, spent)

    async def _shared_latent(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        entry = self._stored(x, velocity)
        if entry is None:
            key = digest("latent", x.identity, velocity)
            entry = await self._share(key, lambda: self._make(x, velocity, spent))
        return entry

    def _base(self, x: Candidate) -> int | None:
        """The latest step of `x`'s trajectory that exists, in the store or on disk, and that it can be made from."""
        base = self.store.base(x)
        if self._spill is None or base == x.step or x not in self._spill or (found := self._spill.read(x)) is None:
            return base
        ref, nbytes, seconds = found
        self.store.put(x, Entry(ref, nbytes, "", False, seconds[0]))
        for c, making in zip((x, *x.unseen), seconds, strict=True):
            self._making.keep(c.trajectory, making)
        return x.step

    def _stored(self, x: Candidate, velocity: bool) -> Entry | None:
        entry = self.store.get(x)
        return entry if entry is not None and entry.velocity >= velocity else None

    async def _make(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        """Wait for this trajectory's turn, then run one leg from the latest state that exists."""
        t = self._trajectories.setdefault(x.trajectory, _Trajectory())
        t.stops.append(x.step)
        try:
            await asyncio.sleep(0)  # stops asked for in the same turn are all known before the first leg starts
            async with t.changed:
                await t.changed.wait_for(lambda: not t.running and x.step == min(t.stops))
                t.running = True
            try:
                return self._stored(x, velocity) or await self._leg(x, velocity, spent)
            finally:
                t.running = False
        finally:
            t.stops.remove(x.step)
            if not t.stops:
                self._trajectories.pop(x.trajectory, None)
            async with t.changed:
                t.changed.notify_all()

    async def _leg(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        for _ in range(ATTEMPTS):
            base = self._base(x)
            source = x.parent if base is None else Candidate(x.prompt, x.sampler, x.origin, base)
            state = None
            if source is not None:
                needs = base is None and x.origin.needs_velocity
                state = self._stored(source, needs) or await self.latent(source, needs, spent)
                if self._spill is not None and base is None and isinstance(x.origin, Extend | Slide):
                    try:
                        await self._spilled(source, state, spent)
                    except (InputLost, ReplicaDied):  # lost with its node
                        self._lost((source,))
                        continue
            arguments: dict[str, Any] = {
                "sampler": x.sampler,
                "origin": _start(x) if base is None else None,
                "lineage": x.origin.lineage,
                "step": x.origin.step if base is None else base,
                "until": x.step,
                "velocity": velocity,
            }
            points = await self._points(x.origin.beside, x.sampler, spent) if base is None else []
            place = state.place if state else ""
            try:
                condition = await self._condition(x, source, state, spent)
                if x.sampler.queue is not None:  # frames of other chunks are in it, too
                    arguments |= {"part": x.part, "captions": x.captions}
                    points += [await self._text(x.prompt.caption(i), x.sampler, spent) for i in x.captions]
                inputs = (state.ref if state else None, *condition, *points)
                call = Call("denoise", arguments, inputs)
                answer = await self._dispatcher.submit("denoiser", call, age=spent.age, place=place)
            except InputLost:
                self._lost((source, *x.origin.beside))
                continue
            meta = answer.meta
            earlier = state.seconds if state is not None and base is not None else 0.0
            entry = Entry(answer.ref, meta["nbytes"], answer.place, velocity, earlier + meta["seconds"])
            self.store.put(x, entry)
            self._making.keep(x.trajectory, entry.seconds)
            self.nfe += meta["nfe"]
            self.steps.add(meta["nfe"] // x.sampler.nfe_per_step, meta["seconds"])
            spent.nfe += meta["nfe"]
            return entry
        raise InputLost(f"the inputs of {x} were lost {ATTEMPTS} times")

    async def _spilled(self, x: Candidate, entry: Entry, spent: Spent) -> None:
        """Have a part that others go on from, and its seconds and those of the parts that it shows, on disk."""
        assert self._spill is not None
        if x.kept and self._spill.claim(x):
            try:
                payload = await self._fetch(entry.ref)
            except BaseException:
                self._spill.drop([x.identity])
                raise
            seconds = [self._making.get(c.trajectory, 0.0) for c in (x, *x.unseen)]
            if self._spill.write(x, payload, seconds):
                spent.spilled.append(x.identity)

    def forget(self, spent: Spent) -> None:
        """The search has ended: nothing of it is to be gone on from."""
        if self._spill is not None:
            self._spill.drop(spent.spilled)

    def _lost(self, inputs: Sequence[Candidate | Recording | None]) -> None:
        """Which of an item's inputs is gone nobody says, so all are made again."""
        for p in inputs:
            if isinstance(p, Candidate):
                self.store.drop(p)
        self._conditions.clear()
        self.recomputed += 1

    async def _points(self, points: Sequence[Candidate | Recording], sampler: Sampler, spent: Spent) -> list[Any]:
        """References to the latents of what an item looks at beside a candidate; those of files fit the sampler."""
        size = (sampler.num_frames, sampler.height, sampler.width)
        refs = []
        for p in points:
            if isinstance(p, Recording):
                refs.append(await self._encoded("encode_video", (p.path, p.content, size), sampler, spent))
            else:
                self.store.watch(p)
                refs.append((await self.latent(p, False, spent)).ref)
        return refs

    async def _condition(
        self, x: Candidate, source: Candidate | None, state: Entry | None, spent: Spent
    ) -> tuple[Any, Any, Any]:
        """References to embeddings of caption and negative prompt, and to given first frames' latents.

        The latter are needed where a chunk begins: from then on they are part of the state.
        """
        s, prompt = x.sampler, x.prompt
        text = await self._text(x.text, s, spent)
        negative = await self._text(s.negative_prompt, s, spent) if s.guided else None
        first = None
        if source is None and prompt.image is not None:
            image = (prompt.image, prompt.image_digest, (s.num_frames, s.height, s.width))
            first = await self._encoded("encode_image", image, s, spent)
        elif state is not None and source is x.before and isinstance(x.origin, Extend) and x.origin.anew:
            what = (x.origin.prefix, x.origin.parent.identity)
            first = await self._encoded("encode_prefix", what, s, spent, state.ref)
        return text, negative, first

    async def _text(self, text: str, sampler: Sampler, spent: Spent) -> Any:
        return await self._encoded("encode_text", (text, sampler.max_sequence_length), sampler, spent)

    async def _encoded(self, method: str, what: tuple[Any, ...], sampler: Sampler, spent: Spent, *inputs: Any) -> Any:
        key = digest(method, sampler.model, sampler.fingerprint, what)
        known = self._conditions.recall(key)
        if known is None:

            async def encode() -> Any:
                arguments: dict[str, Any] = {"what": what}
                if method in ("encode_image", "encode_video"):
                    arguments["data"] = Path(what[0]).read_bytes()
                call = Call(method, arguments, inputs)
                return (await self._dispatcher.submit("encoder", call, age=spent.age)).ref

            known = await self._share(key, encode)
            self._conditions.keep(key, known)
        return known

    # -- sharing ---------------------------------------------------------------------------------------------------

    async def _share(self, key: Digest, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the job that makes `key`, or start it; it is cancelled when its last waiter leaves."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(self._tasks.create_task(_outcome(make())))
        job.waiters += 1
        try:
            value, error = await asyncio.shield(job.task)
        finally:
            job.waiters -= 1
            if not job.waiters:
                job.task.cancel()
                if self._jobs.get(key) is job:
                    del self._jobs[key]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


async def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """The error is the waiters', not the task group's."""
    try:
        return await work, None
    except Exception as error:
        return None, error


async def gather(works: Iterable[Coroutine[Any, Any, T]], at_a_time: int) -> list[T]:
    """All results in order; the first error cancels the rest and is raised as it is.

    A work is drawn, and may hold references, only when it starts: so ten thousand may pass through a small store.
    """
    results: dict[int, T] = {}
    left = enumerate(works)

    async def work() -> None:
        for i, w in left:
            results[i] = await w

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_a_time):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [results[i] for i in range(len(results))]


def layout(obstacles: Sequence[Obstacle]) -> tuple[tuple[str, int], ...]:
    """For each obstacle its space, and how many of an item's last inputs are its points."""
    return tuple((o.space, len(o.points)) for o in obstacles)


def _flat(obstacles: Sequence[Obstacle]) -> list[Candidate | Recording]:
    return [p for o in obstacles for p in o.points]


def _start(x: Candidate) -> dict[str, Any]:
    """How a denoiser makes the origin of `x` from its parent's state: noise key and numbers, no recipe."""
    o = x.origin
    numbers = {k: v for k, v in o.describe().items() if k not in ("parent", "scope", "ordinal", "seed", "index")}
    if isinstance(o, Push):
        numbers["obstacles"] = layout(o.obstacles)
    if isinstance(o, Extend | Slide):
        numbers["start"] = o.start is not None
    if isinstance(o, Slide):
        numbers["carries"] = not o.parent.kept  # what came out of the queue before
    if o.parent is None:
        return numbers | {"key": o.key}
    clean = o.parent.sampler.queue is not None and isinstance(o, Renoise)
    return numbers | {"key": o.key, "from_step": x.sampler.num_steps if clean else o.parent.step}


def _link(x: Candidate) -> dict[str, Any] | None:
    """How a chunk goes on from the one before it."""
    return {"prefix": x.link.prefix, "anew": x.link.anew} if isinstance(x.link, Extend) else None


def _components(given: Sequence[float], reward: Reward) -> tuple[float, ...]:
    components = tuple(float(c) for c in given)
    if len(components) != len(reward.components):
        raise RewardError(f"reward {reward.key} answered {len(components)} components, not {len(reward.components)}")
    if not all(isfinite(c) for c in components):
        raise RewardError(f"reward {reward.key} is not finite: {dict(zip(reward.components, components, strict=True))}")
    return components
