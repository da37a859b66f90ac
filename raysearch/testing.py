"""Fakes that ship: replicas that behave like real ones in virtual time, with no model, no Ray and no sleeping.

    fleet = FakeFleet(denoisers=3, slots=5)
    progress = run_virtual(Session(config, FakeBackend(fleet), run_dir=path).run())

A fake latent is the digest of how it was made, and its reward a number drawn from that, so that whatever made a
candidate differently than its recipe says would be seen in a reward or a winner.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from raysearch.config.config import Arm, Config
from raysearch.engine.protocol import Answer, Call
from raysearch.errors import InputLost, ReplicaDied
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import digest
from raysearch.recipe.reward import Reward
from raysearch.search.obstacles import barriers
from raysearch.session import dataset
from raysearch.session.plan import ArmPlan, Plan
from raysearch.session.snapshot import Snapshot

T = TypeVar("T")

CLIP = 5  # latent frames of a fake video


# -- virtual time ----------------------------------------------------------------------------------------------------


class _Jump(selectors.SelectSelector):
    """Where a real selector would wait, move the clock on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: every task waits and no timer is set")
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer; a deadlock is an error, not a hang."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def virtual_now() -> float:
    """The clock of the running loop, 0 outside of one: a `clock` for Session."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


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
    fault: Fault | None = None
    revives_after: float | None = 1.0
    ahead: int = 0
    gone: bool = False  # whoever calls it finds out; until it is restarted
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=1000))  # the latest
    running: int = 0
    most_running: int = 0
    busy_seconds: float = 0.0

    async def run(self, call: Call) -> Answer:
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
            if any(isinstance(i, FakeLatent) and i.lost for i in call.inputs):
                raise InputLost("a fake latent was lost")
            answer: Answer = await getattr(self, f"_{call.method}")(call)
            return answer
        finally:
            self.running -= 1
            self.busy_seconds += asyncio.get_running_loop().time() - began

    async def ping(self) -> None:
        if self.gone:
            raise ReplicaDied(f"{self.id} is gone")

    async def restart(self) -> None:
        if self.revives_after is None:
            raise ReplicaDied(f"{self.id} does not come back")
        await asyncio.sleep(self.revives_after)
        self.gone = False

    async def _denoise(self, call: Call) -> Answer:
        a = call.arguments
        base: FakeLatent | None = call.inputs[0]
        if a["origin"] is None:
            assert base is not None and base.step == a["step"], "a leg starts where its base ends"
            value, known = base.value, base.velocity
        else:
            start = tuple(sorted((k, v) for k, v in a["origin"].items()))
            read = [i.value if isinstance(i, FakeLatent) else i for i in call.inputs[1:]]
            value = digest(base.value if base else None, base.step if base else None, *start, *read)
            known = base is not None and base.velocity and a["origin"]["kind"] in ("branch", "lookahead")
        q, steps = a["sampler"].queue, a["until"] - a["step"]
        evaluations = steps if q is None else q.evaluations(a["part"], a["step"], a["until"])
        evaluations += a["velocity"] - (known and a["until"] > a["step"])
        if a["until"] == a["step"] and known:
            evaluations = 0
        await asyncio.sleep(self.seconds * evaluations)
        nfe = evaluations * a["sampler"].nfe_per_step
        meta = {"nbytes": self.nbytes, "seconds": self.seconds * evaluations, "nfe": nfe}
        return Answer(meta, FakeLatent(value, a["until"], a["velocity"]))

    async def _score(self, call: Call) -> Answer:
        n, parts = len(call.arguments["prompts"]), call.arguments["parts"]
        latents: list[FakeLatent] = [call.inputs[min(i, parts - 1)] for i in range(n)]
        await asyncio.sleep(self.seconds * n)
        if call.arguments["obstacles"]:
            points = call.inputs[parts + n :][: sum(n for _, n in call.arguments["obstacles"])]
            read = [i.value if isinstance(i, FakeLatent) else i for i in points]
            latents = [FakeLatent(digest(x.value, *call.arguments["obstacles"], *read), x.step) for x in latents]
        rewards = [{key: [x.quality] for key in call.arguments["rewards"]} for x in latents]
        return Answer({"rewards": rewards, "decodes": n, "seconds": self.seconds * n})

    async def _finish(self, call: Call) -> Answer:
        answer = await self._score(call)
        latent: FakeLatent = call.inputs[call.arguments["parts"] - 1]
        kinds = [k for k in ("mp4", "safetensors", "npy") if call.arguments["outputs"].get(k)]
        files = dict.fromkeys(kinds, latent.value)
        if kept := call.arguments["kept"]:
            way: list[FakeLatent] = list(call.inputs[-len(kept) :])
            assert [c.step for c in way] == [step for step, _ in kept]
            latents = np.array([_picture(c) for c in way])
            files["arrow"] = dataset.rollout(latents, _picture(latent), kept, first=False)
        return Answer(answer.meta, files)

    async def _encode_text(self, call: Call) -> Answer:
        await asyncio.sleep(self.seconds)
        return Answer({}, digest("text", call.arguments["what"]))

    _encode_image = _encode_video = _encode_text

    async def _encode_prefix(self, call: Call) -> Answer:
        await asyncio.sleep(self.seconds)
        return Answer({}, digest("prefix", call.arguments["what"], call.inputs[0].value))


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
        for when, replica in self.arriving:
            await asyncio.sleep(when - asyncio.get_running_loop().time())
            yield replica

    async def fetch(self, ref: Any) -> dict[str, Any]:
        return vars(ref) if isinstance(ref, FakeLatent) else dict(ref)

    def put(self, value: dict[str, Any]) -> Any:
        return FakeLatent(value["value"].tobytes(), int(value["step"]))


@dataclass
class FakeBackend:
    """A backend whose models are fakes, with an evenly spaced grid and the reward `quality`."""

    fake: FakeFleet = field(default_factory=FakeFleet)
    needs: str = "frames"
    stochastic: bool = False
    published: list[Snapshot] = field(default_factory=list)

    def prepare(self, config: Config, arms: Sequence[Arm], begun: Config | None = None) -> Plan:
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
                    barriers(a.obstacles, at_steps(a.sampler.num_steps), lambda key, block: reward),
                    config.long.course(at_steps(a.sampler.num_steps).sigmas, CLIP),
                )
                for a in arms
            )
        )

    @asynccontextmanager
    async def fleet(self, config: Config, plan: Plan, report: Callable[[str], None]) -> AsyncIterator[FakeFleet]:
        yield self.fake

    def publish(self, snapshot: Snapshot) -> None:
        self.published.append(snapshot)


def _picture(x: FakeLatent) -> np.ndarray:
    """A latent (1, 1, 1, 2) that says which one it is."""
    return np.array([x.quality, 1 + x.step]).reshape(1, 1, 1, 2)


def fake_reward(needs: str = "frames") -> Reward:
    return Reward("quality", b"quality", ("quality",), (1.0,), needs)


def fake_sampler(num_steps: int = 10, stochastic: bool = False) -> Sampler:
    sigmas = tuple(1 - i / num_steps for i in range(num_steps + 1))
    return Sampler(b"fake", "fake", num_steps, sigmas, stochastic=stochastic)
