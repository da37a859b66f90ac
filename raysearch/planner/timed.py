"""Replicas that take virtual time as real ones were measured to take real time, and the fleet of them.

A denoiser steps all occupied slots together, and legs join between two steps, as `actors.workers.denoiser` does; but
here only the moments at which a leg joins or ends are events. A scorer computes for one item at a time; only rewards
that wait for others are waited for side by side.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

import numpy as np

from raysearch.config.config import Config
from raysearch.config.fleet import PoolConfig
from raysearch.engine.protocol import (
    Answer,
    Call,
    Compare,
    Components,
    Denoise,
    Denoised,
    Encode,
    Encoded,
    Finish,
    Look,
    Scored,
    Text,
    Whole,
)
from raysearch.planner.facts import Facts
from raysearch.planner.timings import Timings
from raysearch.recipe import long_video
from raysearch.recipe.digests import Digest

KINDS = ("scorer", "denoiser", "encoder")
PER_NODE = 8  # replicas of a kind


@dataclass(frozen=True)
class Made:
    """What stands for a state: the step, and whether it holds the velocity there."""

    step: int
    velocity: bool


@dataclass(eq=False)
class Shared:
    """All that the replicas of a fleet share: how long things take, and what they have done so far."""

    timings: Timings
    facts: Facts
    components: Mapping[str, int]  # of rewards, by key
    decoded: frozenset[str]  # the keys of rewards that read frames
    encoded: frozenset[str] = frozenset()  # texts whose embeddings are there
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    cores: float = inf  # that all replicas share
    active: int = 0  # replicas that run something
    nfe: int = 0  # run
    again: int = 0  # of these, evaluations that had been run before, of states that were lost or evicted
    items: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # replica-seconds, by what was done
    _known: dict[tuple[Digest, bytes, Any], int] = field(default_factory=dict)  # a bit for each step's evaluation

    def ran(self, r: Denoise, text: Any, known: bool, evaluations: int) -> None:
        """Count the evaluations of a leg."""
        n = r.sampler.nfe_of(evaluations)
        self.nfe += n
        if r.queue is not None or not evaluations:
            return
        key = r.lineage, r.sampler.identity, text
        bits = ((1 << r.until) - (1 << (r.step + known))) | (r.velocity << r.until)
        before = self._known.get(key, 0)
        self.again += (bits & before).bit_count() * r.sampler.nfe_per_step
        self._known[key] = before | bits

    def crowd(self) -> float:
        """How many times longer things take now, as more replicas run something than there are cores."""
        return max(1.0, self.active / self.cores)

    def factor(self, what: str) -> float:
        """A draw of a duration over its mean."""
        quantiles = self.timings.spread.get(what)
        if not quantiles:
            return 1.0
        return float(np.interp(self.rng.random(), np.linspace(0, 1, len(quantiles)), quantiles))


@dataclass(eq=False)
class TimedReplica:
    """A replica as the engine's `Replica`; `busy` are the seconds in which it ran something."""

    id: str
    kind: str
    node: str
    slots: int
    ahead: int
    shared: Shared
    busy: float = 0.0
    began: float = 0.0  # when it came into service
    ended: float | None = None
    _running: int = 0
    _since: float = 0.0

    async def ping(self) -> None:
        """Return at once: no death is foreseen."""

    async def restart(self) -> None:
        """Return at once: no death is foreseen."""

    async def run(self, call: Call) -> Answer:
        """The answer of a real replica, without what it is about, after as many seconds as that takes."""
        loop = asyncio.get_running_loop()
        self._running += 1
        if self._running == 1:
            self._since = loop.time()
            self.shared.active += 1
        try:
            return await self._run(call)
        finally:
            self._running -= 1
            if not self._running:
                self.busy += loop.time() - self._since
                self.shared.active -= 1

    async def _run(self, call: Call) -> Answer:
        raise NotImplementedError


@dataclass(eq=False)
class Leg:
    """A leg in a slot, and the evaluations that it still needs; `forwards` are those of one step."""

    left: float
    forwards: int
    done: "asyncio.Future[None]"
    seconds: float = 0.0


@dataclass(eq=False)
class TimedDenoiser(TimedReplica):
    """A denoiser: the legs in its slots go on together, and others wait."""

    _legs: list[Leg] = field(default_factory=list)
    _queue: deque[Leg] = field(default_factory=deque)
    _at: float = 0.0  # the moment of which `left` of each leg tells
    _pace: float = 0.0  # seconds of a step of all legs
    _timer: asyncio.TimerHandle | None = None

    async def _run(self, call: Call) -> Answer:
        r, t = call.request, self.shared.timings
        assert isinstance(r, Denoise)
        base: Made | None = call.inputs.get("base")
        known = base is not None and base.velocity and (r.start is None or r.start.how.keeps_velocity)
        steps = r.until - r.step
        evaluations = long_video.evaluations(r.sampler, r.queue.part if r.queue else 0, r.step, r.until)
        evaluations = 0 if not steps and known else evaluations + r.velocity - (known and steps > 0)
        nfe = r.sampler.nfe_of(evaluations)
        whole = nfe / r.sampler.nfe_per_step
        units = (whole - r.velocity * (1 - t.preview)) * self.shared.factor("denoise")
        leg = Leg(max(units, 0.0), r.sampler.nfe_per_step, asyncio.get_running_loop().create_future())
        if t.item:
            await asyncio.sleep(t.item)
        self._queue.append(leg)
        self._meet()
        try:
            await leg.done
        except BaseException:
            self._advance()
            for held in (self._legs, self._queue):
                with suppress(ValueError):
                    held.remove(leg)
            self._plan()
            raise
        self.shared.ran(r, call.inputs.get("text"), known, evaluations)  # as a run counts: not what is cancelled
        self.shared.seconds["denoise"] += leg.seconds
        nbytes = self.shared.facts.state(r.sampler, r.until, r.velocity)
        reply = Denoised(nfe, leg.seconds, nbytes)
        return Answer(reply, Made(r.until, r.velocity))

    def _advance(self) -> None:
        """Let the legs go on until now."""
        now = asyncio.get_running_loop().time()
        if self._legs and now > self._at:
            passed = now - self._at
            for leg in self._legs:
                leg.left -= passed / self._pace
                leg.seconds += passed / len(self._legs)
        self._at = max(self._at, now)

    def _meet(self) -> None:
        """A leg has come: it is admitted when the current step is done, if a slot is free."""
        if not self._legs:
            self._turn()
        elif len(self._legs) < self.slots:
            now = asyncio.get_running_loop().time()
            steps = max(ceil((now - self._at) / self._pace - 1e-9), 0)
            self._wake(min(self._at + steps * self._pace, self._ends()))

    def _ends(self) -> float:
        return self._at + max(min(leg.left for leg in self._legs), 0.0) * self._pace

    def _turn(self) -> None:
        """Settle the legs that are done, and fill their slots: what happens between two steps."""
        self._advance()
        for leg in [leg for leg in self._legs if leg.left <= 1e-6]:
            self._legs.remove(leg)
            if not leg.done.done():
                leg.done.set_result(None)
        while self._queue and len(self._legs) < self.slots:
            self._legs.append(self._queue.popleft())
            self._at += self.shared.timings.leg  # the slots wait while a leg begins
        self._plan()

    def _plan(self) -> None:
        if self._legs:
            together = Counter(leg.forwards for leg in self._legs)
            self._pace = sum(n * self.shared.timings.evaluation(k) for n, k in together.items()) * self.shared.crowd()
            self._wake(self._ends())
        elif self._timer:
            self._timer.cancel()
            self._timer = None

    def _wake(self, when: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._turn)


@dataclass(eq=False)
class TimedScorer(TimedReplica):
    """A scorer, which computes for one item at a time."""

    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def _run(self, call: Call) -> Answer:
        r, t = call.request, self.shared.timings
        assert isinstance(r, Look | Compare | Finish)
        n, name = len(r.captions), call.name
        shown = 2 if isinstance(r, Compare) else n
        decodes = shown if isinstance(r, Finish) or any(k in self.shared.decoded for k in r.rewards) else 0
        waits = self.shared.facts.waiting
        judging = n * sum(t.reward(k) for k in r.rewards if k not in waits)
        extra = {"finish": t.finish if isinstance(r, Finish) and r.outputs.asked else 0.0, "compare": t.compare}
        extra["look"] = t.picture if isinstance(r, Look) and r.preview and decodes else 0.0
        factor = self.shared.factor(name)
        decoding = (decodes * t.decode + extra.get(name, 0.0)) * factor
        own, waited = decoding + judging * factor, n * sum(t.reward(k) for k in r.rewards if k in waits) * factor
        async with self._turn:
            await asyncio.sleep(own * self.shared.crowd() + t.item)
        if waited:
            await asyncio.sleep(waited)
        for what, seconds in (("decode", decoding), ("reward", judging * factor + waited)):
            self.shared.seconds[what] += seconds
        self.shared.items[name] += 1
        zeros: Components = {k: (0.0,) * self.shared.components[k] for k in r.rewards}
        charged = decoding if isinstance(r, Finish) else own + waited
        return Answer(Scored((zeros,) * n, decodes, charged), {})


@dataclass(eq=False)
class TimedEncoder(TimedReplica):
    """An encoder; texts whose embeddings are on disk take no time, as they are read from there."""

    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def _run(self, call: Call) -> Answer:
        assert isinstance(call.request, Encode)
        what = call.request.what
        text = what.text if isinstance(what, Text | Whole) else repr(what)
        if text not in self.shared.encoded:
            async with self._turn:
                await asyncio.sleep(self.shared.timings.encode * self.shared.factor("encode"))
        return Answer(Encoded(), text)


REPLICAS: dict[str, type[TimedReplica]] = {"denoiser": TimedDenoiser, "scorer": TimedScorer, "encoder": TimedEncoder}


@dataclass(eq=False)
class TimedFleet:
    """The replicas of a config's fleet; those beyond `min` join `arrival` seconds after the run has begun."""

    shared: Shared
    replicas: list[TimedReplica]
    later: Sequence[TimedReplica] = ()
    arrival: float = 0.0
    kinds: Sequence[str] = KINDS  # that a real fleet has: without encoders, texts are read from disk in no time

    @property
    def all(self) -> list[TimedReplica]:
        """All replicas that came into service, whenever they did."""
        return [*self.replicas, *(r for r in self.later if r.began)]

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: Config, shared: Shared, arrival: float, *, encoders: bool, opened: Callable[["TimedFleet"], None]
    ) -> AsyncIterator["TimedFleet"]:
        """A fleet that is up once its models are loaded: one after the other in one process, else side by side.

        `opened` is told of it.
        """
        pools: dict[str, PoolConfig] = {k: getattr(config.fleet, f"{k}s") for k in KINDS}
        started = [k for k in KINDS if k != "encoder" or encoders]
        load, local = shared.timings.load, config.fleet.backend == "local"
        loads = [load.get(k, 0.0) * (p.fewest if local else 1) for k, p in pools.items() if k in started]
        await asyncio.sleep(sum(loads) if local else max(loads))

        def made(kind: str, i: int) -> TimedReplica:
            ahead = 0 if local else 1
            return REPLICAS[kind](f"{kind}-{i}", kind, f"node-{i // PER_NODE}", pools[kind].slots, ahead, shared)

        first = [made(k, i) for k, p in pools.items() for i in range(p.fewest)]
        more = [made(k, i) for k, p in pools.items() for i in range(p.fewest, p.fewest if local else p.most)]
        fleet = cls(shared, first, more, arrival, started)
        opened(fleet)
        yield fleet

    async def arrivals(self) -> AsyncIterator[TimedReplica]:
        """The replicas beyond `min`, all at one time, their models loaded."""
        if self.later:
            loop = asyncio.get_running_loop()
            load = max(self.shared.timings.load.get(r.kind, 0.0) for r in self.later)
            await asyncio.sleep(self.arrival + load)
            for replica in self.later:
                replica.began = loop.time() - load
                yield replica

    async def fetch(self, ref: Any) -> dict[str, Any]:
        """No files of a video; of a state what `put` makes one of."""
        return {"step": np.array([ref.step])} if isinstance(ref, Made) else {}

    def put(self, arrays: dict[str, Any]) -> Made:
        """What stands for a finished state that was kept on disk."""
        return Made(int(arrays["step"][0]), False)

    def condition(self, what: Text | Whole, arrays: dict[str, Any]) -> Any:
        """What stands for a condition that was kept on disk."""
        return what.text

    async def release(self, kind: str) -> None:
        """The replicas of a kind are used no longer from now on."""
        for r in self.replicas:
            if r.kind == kind:
                r.ended = asyncio.get_running_loop().time()
