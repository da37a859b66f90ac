"""Fakes that ship: replicas that behave like real ones in virtual time, with no model, no Ray and no sleeping.

    fleet = FakeFleet(denoisers=3, slots=5)
    progress = run_virtual(Session(config, FakeBackend(fleet), run_dir=path).run())

A fake latent is the digest of how it was made, and its reward a number drawn from that, so that whatever made a
candidate differently than its recipe says would be seen in a reward or a winner.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from raysearch.config import step_cache
from raysearch.config.config import Arm, Config
from raysearch.engine.protocol import (
    Answer,
    Call,
    Compare,
    Components,
    Denoise,
    Denoised,
    Encode,
    Encoded,
    File,
    Finish,
    Look,
    Prefix,
    Request,
    Scored,
    Start,
    Text,
    Whole,
    series,
)
from raysearch.errors import InputLost, ReplicaDied
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import digest
from raysearch.recipe.origins import Noise, Push, Slide
from raysearch.recipe.reward import Reward
from raysearch.search.obstacles import barriers
from raysearch.session import dataset
from raysearch.session.plan import ArmPlan, Plan
from raysearch.session.snapshot import Snapshot
from raysearch.virtual import VirtualLoop, run_virtual, virtual_now

__all__ = [
    "FakeBackend",
    "FakeFleet",
    "FakeLatent",
    "FakeReplica",
    "Fault",
    "VirtualLoop",
    "run_virtual",
    "virtual_now",
]

Inputs: TypeAlias = Mapping[str, Any]

CLIP = 5  # latent frames of a fake video
GLIMPSE = "glimpse"  # an early reward, which is ten times the quality
DUEL = "duel"  # a reward that compares: it prefers the higher quality, surely if that is twice the other's


# -- fakes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeLatent:
    """How it was made: `value` is the digest of the origin, `step` the steps done."""

    value: bytes
    step: int
    velocity: bool = False
    lost: bool = False

    @property
    def quality(self) -> float:
        """Uniform in [0, 1): fixed by the origin, seen through noise that fades as steps are done."""
        final = int.from_bytes(digest("quality", self.value)[:6], "big") / 2**48
        seen = int.from_bytes(digest("seen", self.value, self.step)[:6], "big") / 2**48
        return final + 0.1 * (seen - 0.5) / (1 + self.step)


Fault = Callable[[Call], Exception | None]


@dataclass
class FakeReplica:
    """A replica whose calls take virtual time. `fault(call)` may return an error to raise, ReplicaDied to die."""

    id: str
    kind: str
    node: str = "node"
    slots: int = 1
    seconds: float = 1.0  # per solver step, score or encoding
    nbytes: int = 1000
    tokens: int = 0  # that a comparison costs
    fault: Fault | None = None
    revives_after: float | None = 1.0
    ahead: int = 0
    gone: bool = False  # whoever calls it finds out; until it is restarted
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=1000))  # the latest
    running: int = 0
    most_running: int = 0
    busy_seconds: float = 0.0

    async def run(self, call: Call) -> Answer:
        """Answer a call after its virtual seconds. Raises what `fault` returns, InputLost, or ReplicaDied if gone."""
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        began = asyncio.get_running_loop().time()
        try:
            await self.ping()
            error = self.fault(call) if self.fault else None
            if error is not None:
                await asyncio.sleep(self.seconds / 2)
                raise error
            if any(isinstance(i, FakeLatent) and i.lost for i in call.inputs.values()):
                raise InputLost("a fake latent was lost")
            return await self._answer(call.request, call.inputs)
        finally:
            self.running -= 1
            self.busy_seconds += asyncio.get_running_loop().time() - began

    async def ping(self) -> None:
        """Raises ReplicaDied if the replica is gone."""
        if self.gone:
            raise ReplicaDied(f"{self.id} is gone")

    async def restart(self) -> None:
        """Come back after `revives_after` virtual seconds. Raises ReplicaDied if that is None."""
        if self.revives_after is None:
            raise ReplicaDied(f"{self.id} does not come back")
        await asyncio.sleep(self.revives_after)
        self.gone = False

    async def _answer(self, request: Request, inputs: Inputs) -> Answer:
        match request:
            case Denoise():
                return await self._denoise(request, inputs)
            case Look():
                return await self._score(request, inputs)
            case Finish():
                return await self._finish(request, inputs)
            case Compare():
                await asyncio.sleep(self.seconds)
                x, y = (latent.quality for latent in series(inputs, "state"))
                won = min(max(x / (x + y) * 3 - 1, 0.0), 1.0)
                return Answer(Scored(({DUEL: (won,)},), 2, self.seconds, self.tokens))
            case Encode():
                await asyncio.sleep(self.seconds)
                return Answer(Encoded(), _condition(request, inputs))

    async def _denoise(self, request: Denoise, inputs: Inputs) -> Answer:
        base: FakeLatent | None = inputs.get("base")
        if request.start is None:
            assert base is not None and base.step == request.step, "a leg starts where its base ends"
            value, known = base.value, base.velocity
        else:
            # In this order, and every input whether it is there or not: golden winners were made so.
            read = [inputs.get(name) for name in ("text", "negative", "first")]
            read += series(inputs, "point") + series(inputs, "text")
            made = (base.value, base.step) if base else (None, None)
            value = digest(*made, *_told(request.start, inputs), *_values(read))
            known = base is not None and base.velocity and request.start.how.keeps_velocity
        steps = request.until - request.step
        part = request.queue.part if request.queue else 0
        evaluations = long_video.evaluations(request.sampler, part, request.step, request.until)
        evaluations += request.velocity - (known and steps > 0)
        if not steps and known:
            evaluations = 0
        await asyncio.sleep(self.seconds * evaluations)
        reply = Denoised(request.sampler.nfe_of(evaluations), self.seconds * evaluations, self.nbytes)
        return Answer(reply, FakeLatent(value, request.until, request.velocity))

    async def _score(self, request: Look | Finish, inputs: Inputs) -> Answer:
        n, states = len(request.captions), series(inputs, "state")
        latents: list[FakeLatent] = [states[min(i, len(states) - 1)] for i in range(n)]
        await asyncio.sleep(self.seconds * n)
        if request.obstacles:
            read = _values(series(inputs, "point"))
            latents = [FakeLatent(digest(x.value, *request.obstacles, *read), x.step) for x in latents]
        rewards: tuple[Components, ...] = tuple(
            {key: (x.quality * (10 if key == GLIMPSE else 1),) for key in request.rewards} for x in latents
        )
        preview = _strip(latents[0]) if isinstance(request, Look) and request.preview else b""
        return Answer(Scored(rewards, n, self.seconds * n, preview=preview))

    async def _finish(self, request: Finish, inputs: Inputs) -> Answer:
        answer = await self._score(request, inputs)
        latent: FakeLatent = series(inputs, "state")[-1]
        kinds = request.outputs.asked
        files = dict.fromkeys([*kinds, *(["poster"] if request.outputs.poster else [])], latent.value)
        if request.outputs.previews:
            files["preview"] = b"".join(request.outputs.previews)
        if kept := request.kept:
            way: list[FakeLatent] = series(inputs, "kept")
            assert [c.step for c in way] == [step for step, _ in kept]
            latents = np.array([_picture(c) for c in way])
            files["arrow"] = dataset.rollout(latents, _picture(latent), list(kept), first=False)
        return replace(answer, ref=files)


def _values(read: Sequence[Any]) -> list[Any]:
    return [i.value if isinstance(i, FakeLatent) else i for i in read]


def _told(start: Start, inputs: Inputs) -> list[tuple[str, Any]]:
    """What a denoiser is told of an origin, sorted by name: whatever it is told wrongly changes the fake's latent."""
    told: dict[str, Any] = {"kind": start.how.kind, "key": start.key}
    if isinstance(start.how, Noise):
        return sorted(told.items())
    told |= {"from_step": start.from_step, **vars(start.how)}
    if start.how.begins_part:
        told["start"] = "point 0" in inputs
    if isinstance(start.how, Slide):
        told["carries"] = start.carries
    if isinstance(start.how, Push):
        told["obstacles"] = told.pop("layout")
    return sorted(told.items())


def _condition(request: Encode, inputs: Inputs) -> bytes:
    match request.what:
        case Text(text, length):
            return digest("text", (text, length))
        case File(_, recording, size):
            return digest("text", (recording.path, *recording.parts, size))
        case Prefix(frames, state):
            return digest("prefix", (frames, state), inputs["state"].value)
        case Whole(text, sampler, pictures):
            shown = ((name, f.recording.path, *f.recording.parts, f.size) for name, f in pictures)
            return digest("whole", text, sampler.identity, *shown)


@dataclass
class FakeFleet:
    """`denoisers` replicas with `slots` each, scorers and one encoder; `seconds` per kind.

    `arriving` are replicas that join while a run goes on, each with the time at which it does.
    """

    denoisers: int = 1
    slots: int = 1
    scorers: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)
    replicas: Sequence[FakeReplica] = ()
    arriving: Sequence[tuple[float, FakeReplica]] = ()

    def __post_init__(self) -> None:
        kinds = [("denoiser", self.denoisers, self.slots), ("scorer", self.scorers, 1), ("encoder", 1, 1)]
        self.replicas = self.replicas or [
            FakeReplica(f"{kind}-{i}", kind, f"node-{i}", slots, self.seconds.get(kind, 1.0))
            for kind, n, slots in kinds
            for i in range(n)
        ]

    async def arrivals(self) -> AsyncIterator[FakeReplica]:
        """The arriving replicas, each at its virtual time."""
        for when, replica in self.arriving:
            await asyncio.sleep(when - asyncio.get_running_loop().time())
            yield replica

    async def fetch(self, ref: Any) -> dict[str, Any]:
        """The fields of a fake latent, the bytes of a fake condition, or the files of a fake video."""
        if isinstance(ref, bytes):
            return {"value": np.frombuffer(ref, np.uint8)}
        return vars(ref) if isinstance(ref, FakeLatent) else dict(ref)

    def put(self, value: dict[str, Any]) -> Any:
        """A fake latent of these fields."""
        return FakeLatent(value["value"].tobytes(), int(value["step"]))

    def condition(self, what: Text | Whole, arrays: dict[str, Any]) -> Any:
        """A fake condition of these bytes."""
        return arrays["value"].tobytes()

    async def release(self, kind: str) -> None:
        """Make the replicas of a kind go for good."""
        for r in self.replicas:
            if r.kind == kind:
                r.gone, r.revives_after = True, None


@dataclass
class FakeBackend:
    """A backend whose models are fakes, with an evenly spaced grid and the reward `quality`."""

    fake: FakeFleet = field(default_factory=FakeFleet)
    needs: str = "frames"
    stochastic: bool = False
    published: list[Snapshot] = field(default_factory=list)
    encoding: bytes = b""  # see `Plan`; without one no embedding is kept on disk

    def prepare(self, config: Config, arms: Sequence[Arm], begun: Config | None = None) -> Plan:
        """A plan whose arms all have the fake reward and an evenly spaced grid."""
        reward, at_steps = fake_reward(self.needs), partial(fake_sampler, stochastic=self.stochastic)
        return Plan(
            tuple(
                ArmPlan(
                    a,
                    at_steps(a.sampler.num_steps),
                    reward,
                    reward if config.collect else None,
                    reward,
                    at_steps,
                    barriers(a.obstacles, at_steps(a.sampler.num_steps), lambda key, block: reward, config.model),
                    config.long.course(at_steps(a.sampler.num_steps).sigmas, CLIP),
                    Reward(GLIMPSE, b"glimpse", (GLIMPSE,), (1.0,), "latent") if a.rewards.early else None,
                    Reward(DUEL, b"duel", (DUEL,), (1.0,), "frames", pairwise=True) if a.rewards.compare else None,
                )
                for a in arms
            ),
            encoding=self.encoding,
        )

    @asynccontextmanager
    async def fleet(self, config: Config, plan: Plan, report: Callable[[str], None]) -> AsyncIterator[FakeFleet]:
        """The fake fleet, without its encoders where the config asks for none."""
        without = replace(self.fake, replicas=[r for r in self.fake.replicas if r.kind != "encoder"])
        yield self.fake if config.fleet.encoders.most else without

    def publish(self, snapshot: Snapshot) -> None:
        """Keep the snapshot for a test to look at."""
        self.published.append(snapshot)


def _strip(x: FakeLatent) -> bytes:
    """A preview of 16 bytes that says which latent it shows; a fake sprite is one preview after the other."""
    return digest("preview", x.value, x.step)


def _picture(x: FakeLatent) -> np.ndarray:
    """A latent (1, 1, 1, 2) that says which one it is."""
    return np.array([x.quality, 1 + x.step]).reshape(1, 1, 1, 2)


def fake_reward(needs: str = "frames") -> Reward:
    """The reward `quality`, which reads what `needs` says: see `raysearch.recipe.reward.Reward`."""
    return Reward("quality", b"quality", ("quality",), (1.0,), needs)


def fake_sampler(num_steps: int = 10, stochastic: bool = False) -> Sampler:
    """A sampler of fakes with evenly spaced noise levels from 1 to 0."""
    sigmas = tuple(1 - i / num_steps for i in range(num_steps + 1))
    return Sampler(b"fake", "fake", num_steps, sigmas, stochastic=stochastic, caches=tuple(step_cache.KINDS))
