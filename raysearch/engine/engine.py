"""Makes what candidates need, and no others: latents from recipes, rewards from latents, videos from winners.

Everything is made once and shared: by the store (what exists), by jobs (what is on its way), and by the memo of
rewards. What was lost or evicted is made again from its recipe. It knows nothing of policies, budgets or Ray.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

from raysearch.engine import requests
from raysearch.engine.dispatcher import Dispatcher, Pace
from raysearch.engine.embeddings import Embeddings
from raysearch.engine.protocol import (
    Answer,
    Call,
    Compare,
    Components,
    Denoise,
    File,
    Finish,
    Look,
    Outputs,
    Prefix,
    Text,
    What,
    Whole,
    numbered,
)
from raysearch.engine.sharing import Jobs, Memo, Spent, Turns, gather
from raysearch.engine.speculation import Speculation
from raysearch.engine.spill import Spill
from raysearch.engine.store import Entry, Store
from raysearch.errors import InputLost, ReplicaDied, RewardError
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Sampler, denoise
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.origins import Extend, Recording, points
from raysearch.recipe.reward import Question, Reward, Score, met, score_key, seen

ATTEMPTS = 8  # at making something whose inputs keep getting lost
STRIPS = 8192  # previews that are remembered until the searches that share them have ended: 16 KiB each at most
IN_FLIGHT = 8  # candidates of one call that are worked on at a time, for each slot: no slot waits, and little is held


@dataclass(frozen=True)
class Finished:
    """A winner's video: the rewards of each chunk by their key, and files by their extension.

    An ordinary video has one chunk. `making` are the replica-seconds of each part's trajectory, `decoding` those of
    decoding the whole video. `tokens` are those that the rewards paid for.
    """

    rewards: tuple[dict[str, tuple[float, ...]], ...]
    files: dict[str, bytes]
    making: tuple[float, ...]
    decoding: float
    tokens: int = 0

    def by_chunk(self, key: str) -> list[tuple[float, ...]]:
        """The values of each component of a reward, chunk by chunk."""
        return list(zip(*(r[key] for r in self.rewards), strict=True))

    def reward(self, key: str) -> tuple[float, ...]:
        """The components of a reward; for a long video, their means over chunks."""
        return tuple(sum(c) / len(c) for c in self.by_chunk(key))


class Engine:
    """Makes and remembers states, scores and videos of candidates, through a dispatcher of items to replicas."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        fetch: Callable[[Any], Awaitable[dict[str, Any]]],
        tasks: asyncio.TaskGroup,
        recorded: Mapping[Digest, Score] | None = None,
        spill: Spill | None = None,
        embeddings: Embeddings | None = None,
        *,
        previews: bool = False,
    ) -> None:
        """`recorded` are the scores of an earlier run, by `score_key`: they stand; `spill` is for long videos.

        `embeddings` are those of texts that earlier runs have left. With `previews`, `strips` has one of each candidate
        that was decoded for a reward, by its identity.
        """
        self.store = store
        self._recorded = recorded or {}
        self.nfe = self.decodes = self.rewards_computed = self.recomputed = 0
        self.step_pace, self.score_pace = Pace(), Pace()
        self._dispatcher, self._fetch, self._jobs = dispatcher, fetch, Jobs(tasks)
        self.speculation, self._turns = Speculation(dispatcher, tasks, self.latent, self._stored, store), Turns()
        self._scores: Memo[Score] = Memo(200_000)
        self._conditions: Memo[Any] = Memo(256)
        self._making: Memo[float] = Memo(200_000)  # replica-seconds of trajectories
        self._spill, self.embeddings = spill, embeddings
        self._previews, self.strips = previews, Memo[bytes](STRIPS)

    # -- rewards ---------------------------------------------------------------------------------------------------

    async def score(self, xs: Sequence[Question], reward: Reward, spent: Spent) -> list[Score]:
        """The answers of a reward about `xs`, in order; the first answer to a question stands."""
        for x in (c for question in xs for c in seen(question)):
            self.store.watch(x)
        at_a_time = min(len(xs), IN_FLIGHT * max(1, sum(self._dispatcher.tally.slots.values())))
        with self.speculation.question(xs, spent):
            return await gather((self._score(x, reward, spent) for x in xs), at_a_time)

    async def _score(self, x: Question, reward: Reward, spent: Spent) -> Score:
        key = score_key(x.identity, reward)
        known = self._recorded.get(key) or self._scores.recall(key)
        if known is None:
            known = await self._jobs.share(key, lambda own: self._measure(x, reward, own), spent)
            self._scores.keep(key, known, spent.group)
        self.speculation.answered(x, reward, known, spent)
        return known

    async def _measure(self, x: Question, reward: Reward, spent: Spent) -> Score:
        request, also = requests.look(x, reward, preview=self._previews)
        (entry, *_), answer, (found,) = await self._view(request, seen(x), [reward], spent, also)
        self.score_pace.add(1, answer.reply.seconds)
        first, *others = seen(x)
        if answer.reply.preview:
            self.strips.keep(first.identity, answer.reply.preview, spent.group)
        earlier = tuple(self._making.get(c.trajectory, 0.0) for c in others or long_video.unseen(first))
        return Score(found[reward.key], entry.seconds, answer.reply.seconds, earlier, answer.reply.tokens)

    async def finish(
        self, x: Candidate, rewards: Sequence[Reward], outputs: Outputs, spent: Spent, kept: Sequence[Candidate] = ()
    ) -> Finished:
        """The video of `x`, denoised to the end, with `rewards` of it; and a file of the latents `kept` on its way."""
        x = denoise(x, x.sampler.num_steps)
        for c in (x, *kept):
            self.store.watch(c)
        request, also = requests.finish(x, rewards, outputs, kept), numbered("kept", kept)
        parts = long_video.parts(x)
        shown = [c for c in parts if long_video.shows(c)]
        for _ in range(ATTEMPTS):
            with self.speculation.question((x, *kept), spent):
                _, answer, found = await self._view(request, shown, rewards, spent, also)
            try:
                files = await self._fetch(answer.ref)
            except (InputLost, ReplicaDied):  # the files were lost with their node; the latents may be there still
                continue
            making = tuple(self._making.get(c.trajectory, 0.0) for c in parts)
            return Finished(tuple(found), files, making, answer.reply.seconds, answer.reply.tokens)
        raise InputLost(f"the files of {x} were lost {ATTEMPTS} times")

    async def _view(
        self,
        request: Look | Compare | Finish,
        xs: Sequence[Candidate],
        rewards: Sequence[Reward],
        spent: Spent,
        also: Mapping[str, Candidate],
    ) -> tuple[list[Entry], Answer, list[Components]]:
        """Make `xs`, the parts of one video or a pair, and `also`, and have a scorer look: rewards under each caption.

        The scorer looks again if an input got lost on the way, and another scorer does if the first one saw NaN.
        """
        obstacles = points(met(rewards))
        velocity = not isinstance(request, Finish) and any(r.needs_velocity for r in rewards)
        reads, sampler = any(r.text for r in rewards), xs[0].sampler
        doubted = ""
        for _ in range(ATTEMPTS):
            inputs = numbered("point", await self._points(obstacles, sampler, spent))
            self.store.share([p.identity for p in obstacles])  # which all searches of an arm have
            if sampler.piped:
                inputs |= numbered("text", [await self._whole(x, spent) for x in xs])
            elif reads:
                inputs |= numbered("text", [await self._text(text, sampler, spent) for text in request.captions])
            others = await gather((self.latent(c, False, spent) for c in also.values()), len(also))
            inputs |= {name: entry.ref for name, entry in zip(also, others, strict=True)}
            entries = [await self.latent(x, velocity, spent) for x in xs]
            inputs |= numbered("state", [entry.ref for entry in entries])
            if not isinstance(request, Finish):  # after which a search asks for nothing
                self.speculation.ready(xs, spent)
            place = entries[-1].place
            try:
                call = Call(request, inputs)
                answer = await self._dispatcher.submit(call, age=spent.age, place=place, avoid=doubted)
            except InputLost:
                self._lost((*xs, *also.values(), *obstacles))
                continue
            self.decodes += answer.reply.decodes
            self.rewards_computed += len(request.rewards) * len(request.captions)
            scores = [{r.key: tuple(c for k in r.keys for c in s[k]) for r in rewards} for s in answer.reply.rewards]
            if not doubted and not all(isfinite(c) for s in scores for found in s.values() for c in found):
                doubted = answer.place
                continue
            return entries, answer, [{r.key: _components(s[r.key], r) for r in rewards} for s in scores]
        raise InputLost(f"{xs[-1]} was lost {ATTEMPTS} times")

    # -- latents ---------------------------------------------------------------------------------------------------

    async def latent(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        """The stored state of `x`, made if need be; with the velocity at its point if asked and `x` is not finished."""
        velocity = velocity and not x.finished
        chain = [x]
        while self._base(chain[-1], spent) is None and chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        for child, ancestor in reversed(list(pairwise(chain))):  # not recursive: a chain may be thousands long
            await self._shared_latent(ancestor, child.origin.how.needs_velocity, spent)
        return await self._shared_latent(x, velocity, spent)

    async def _shared_latent(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        entry = self._stored(x, velocity)
        if entry is None:
            if spent.guess is None:
                self._turns.clear(x.trajectory, x.step, spent.age)
            key = digest("latent", x.identity, velocity)
            entry = await self._jobs.share(key, lambda own: self._make(x, velocity, own), spent)
        self._claim(x, spent)
        return entry

    def _claim(self, x: Candidate, spent: Spent) -> None:
        """Count for a search what was guessed on the way to `x`."""
        if spent.guess is None:
            nfe = self.speculation.claim(x)
            self.nfe, spent.nfe = self.nfe + nfe, spent.nfe + nfe

    def _base(self, x: Candidate, spent: Spent) -> int | None:
        """The latest step of `x`'s trajectory that exists, in the store or on disk, and that it can be made from."""
        base = self.store.base(x)
        if self._spill is None or base == x.step or x not in self._spill or (found := self._spill.read(x)) is None:
            return base
        ref, nbytes, seconds = found
        self.store.put(x, Entry(ref, nbytes, "", False, seconds[0]), spent.group)
        for c, making in zip((x, *long_video.unseen(x)), seconds, strict=True):
            self._making.keep(c.trajectory, making)
        return x.step

    def _stored(self, x: Candidate, velocity: bool) -> Entry | None:
        entry = self.store.get(x)
        return entry if entry is not None and entry.velocity >= velocity else None

    async def _make(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        """Wait for this trajectory's turn, then run one leg from the latest state that exists."""
        async with self._turns.turn(x.trajectory, x.step, spent.guess, spent.age):
            return self._stored(x, velocity) or await self._leg(x, velocity, spent)

    async def _leg(self, x: Candidate, velocity: bool, spent: Spent) -> Entry:
        for _ in range(ATTEMPTS):
            base = self._base(x, spent)
            source = x.parent if base is None else Candidate(x.prompt, x.sampler, x.origin, base)
            state = None
            if source is not None:
                needs = base is None and x.origin.how.needs_velocity
                state = self._stored(source, needs) or await self.latent(source, needs, spent)
                if self._spill is not None and base is None and x.origin.how.begins_part:
                    try:
                        await self._spilled(source, state, spent)
                    except (InputLost, ReplicaDied):  # lost with its node
                        self._lost((source,))
                        continue
            request = requests.leg(x, base, velocity)
            try:
                call = Call(request, await self._inputs(x, request, source, state, spent))
                place = state.place if state else ""
                answer = await self._dispatcher.submit(call, age=spent.age, place=place, guess=spent.guess)
            except InputLost:
                self._lost((source, *x.origin.reads))
                continue
            finally:
                if spent.guess is not None:
                    self.speculation.gave_up(spent.guess, request, self.step_pace)
            reply = answer.reply
            earlier = state.seconds if state is not None and base is not None else 0.0
            entry = Entry(answer.ref, reply.nbytes, answer.place, velocity, earlier + reply.seconds)
            self.store.put(x, entry, spent.group)
            self._making.keep(x.trajectory, entry.seconds, spent.group)
            self.step_pace.add(reply.nfe // x.sampler.nfe_per_step, reply.seconds)
            if spent.guess is not None:
                self.speculation.ran(x, source, reply.nfe, spent.group)
                return entry
            self.nfe, spent.nfe = self.nfe + reply.nfe, spent.nfe + reply.nfe
            if source is not None:
                self._claim(source, spent)
            return entry
        raise InputLost(f"the inputs of {x} were lost {ATTEMPTS} times")

    async def _inputs(
        self, x: Candidate, request: Denoise, source: Candidate | None, state: Entry | None, spent: Spent
    ) -> dict[str, Any]:
        """References that a denoiser reads for a leg of `x`, by name: see `Denoise`."""
        s, prompt = x.sampler, x.prompt
        inputs = {} if state is None else {"base": state.ref}
        if request.start:
            inputs |= numbered("point", await self._points(x.origin.reads, s, spent))
        if s.piped:
            return inputs | {"text": await self._whole(x, spent)}
        if request.queue is None:  # which reads a text for each of its windows
            inputs["text"] = await self._text(long_video.caption(x), s, spent)
        if s.guided:
            inputs["negative"] = await self._text(s.negative_prompt, s, spent)
        # Given first frames are needed where a chunk begins: from then on they are part of the state.
        if source is None and (picture := requests.picture(prompt, s)) is not None:
            inputs["first"] = await self.encoded(picture, spent)
        elif request.start and isinstance(how := request.start.how, Extend) and how.anew:
            assert source is not None and state is not None
            inputs["first"] = await self.encoded(Prefix(how.prefix, source.identity), spent, state=state.ref)
        captions = request.queue.captions if request.queue else ()
        texts = [await self._text(prompt.caption(i), s, spent) for i in captions]
        return inputs | numbered("text", texts)

    async def _spilled(self, x: Candidate, entry: Entry, spent: Spent) -> None:
        """Write a part that others go on from to disk, with its seconds and those of the unseen parts before it."""
        assert self._spill is not None
        if long_video.kept(x) and self._spill.claim(x):
            try:
                payload = await self._fetch(entry.ref)
            except BaseException:
                self._spill.drop([x.identity])
                raise
            seconds = [self._making.get(c.trajectory, 0.0) for c in (x, *long_video.unseen(x))]
            if self._spill.write(x, payload, seconds):
                spent.spilled.append(x.identity)

    def forget(self, spent: Spent) -> None:
        """Delete what a search that has ended left on disk, and end what it waits for no longer."""
        self.speculation.ended(spent)
        if self._spill is not None:
            self._spill.drop(spent.spilled)

    def forget_group(self, group: str) -> None:
        """Forget the latents, the scores and the previews of a group of searches that have all ended."""
        self.store.forget(group)
        self.speculation.forget(group)
        self.strips.forget(group)
        self._scores.forget(group)
        self._making.forget(group)

    def _lost(self, inputs: Sequence[Candidate | Recording | None]) -> None:
        """Forget all inputs of an item, which are then made again: nobody says which of them is gone."""
        for p in inputs:
            if isinstance(p, Candidate):
                self.store.drop(p)
        self._conditions.clear()
        self.recomputed += 1

    async def _points(self, found: Sequence[Candidate | Recording], sampler: Sampler, spent: Spent) -> list[Any]:
        """References to the latents of other inputs of an item; the latents of files fit the sampler."""
        size = (sampler.num_frames, sampler.height, sampler.width)
        refs = []
        for p in found:
            if isinstance(p, Recording):
                refs.append(await self.encoded(File("video", p, size), spent))
            else:
                self.store.watch(p)
                refs.append((await self.latent(p, False, spent)).ref)
        return refs

    async def _text(self, text: str, sampler: Sampler, spent: Spent) -> Any:
        return await self.encoded(Text(text, sampler.max_sequence_length), spent)

    async def _whole(self, x: Candidate, spent: Spent) -> Any:
        """A reference to all that a pipeline's run is conditioned on."""
        s = x.sampler
        return await self.encoded(Whole(long_video.caption(x), s, requests.pictures(x.prompt, s)), spent)

    async def encoded(self, what: What, spent: Spent, **inputs: Any) -> Any:
        """A reference to a condition, which is made once: a run has one model and one kind of encoder."""
        own = (
            (what.text, what.sampler.identity, *((name, *astuple(file)) for name, file in what.pictures))
            if isinstance(what, Whole)
            else astuple(what)
        )
        key = digest(type(what).__name__, *own)
        known = self._conditions.recall(key)
        if known is None:
            known = await self._jobs.share(key, lambda own: self._encode(what, own, inputs), spent)
            self._conditions.keep(key, known)
        return known

    async def _encode(self, what: What, spent: Spent, inputs: Mapping[str, Any]) -> Any:
        kept = self.embeddings if self.embeddings and self.embeddings.key(what) else None
        known = kept.read(what) if kept else None
        if known is None:
            known = (await self._dispatcher.submit(Call(requests.encode(what), inputs), age=spent.age)).ref
            if kept:
                with suppress(InputLost, ReplicaDied):  # lost with its node: whoever reads it will ask again
                    kept.write(what, await self._fetch(known))
        return known


def _components(given: Sequence[float], reward: Reward) -> tuple[float, ...]:
    components = tuple(float(c) for c in given)
    if len(components) != len(reward.components):
        raise RewardError(f"reward {reward.key} answered {len(components)} components, not {len(reward.components)}")
    if not all(isfinite(c) for c in components):
        raise RewardError(f"reward {reward.key} is not finite: {dict(zip(reward.components, components, strict=True))}")
    return components
