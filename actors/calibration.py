"""Measures on one device what a plan needs to know: `raysearch calibrate`.

The workers of a local fleet do real items, asked for by the real engine, so that what is between the items counts, too.
Encoders are ended before the others are loaded, as a device may not hold all three kinds.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from actors.backend import Backend
from actors.facts import device, key
from actors.rewards.planning import installed
from actors.workers.local import LocalFleet, LocalReplica, begun
from actors.workers.worker import Worker
from raysearch.config import prompts
from raysearch.config.config import Config, arms
from raysearch.config.fleet import PoolConfig
from raysearch.engine import requests
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.engine.protocol import Outputs
from raysearch.engine.sharing import Spent, gather
from raysearch.engine.store import Store
from raysearch.planner.facts import alone
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.origins import Noise
from raysearch.recipe.reward import Pair, Reward
from raysearch.session.plan import Plan, outputs

STEPS = 3  # of a timed leg of a large model; a small one's legs are longer
FEW = 4  # of a video that is finished
LEAST, MOST = 3, 20  # repetitions of a measurement
ENOUGH = 1.0  # seconds after which one is not repeated more than LEAST times
SLOW = 2.0  # seconds of one that is not repeated
Say = Callable[[str], None]


class Memory:
    """The most memory that a process or its device held since `begin`, beyond what it held then."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the peak so far."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux then measures the peak anew
        self._before = _resident("VmRSS")

    def peak(self) -> int:
        """Bytes."""
        now = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident("VmHWM")
        return max(now - self._before, 0)


def _resident(name: str) -> int:
    """A line of this process's memory in bytes; 0 where the system does not tell."""
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
    return 0


def measured(config: Config, say: Say) -> dict[str, Any]:
    """The entry of a config, of which no more is loaded than a device holds at a time. Raises ConfigError."""
    return asyncio.run(calibrated(config, Backend(say).prepare(config, arms(config)), say))


async def calibrated(config: Config, plan: Plan, say: Say) -> dict[str, Any]:
    """An entry of a file of timings: see `raysearch.planner.timings`."""
    fleet = LocalFleet()
    try:
        async with Dispatcher.open([]) as dispatcher, asyncio.TaskGroup() as tasks:
            store, shown = Store(int(config.fleet.store_gb * 1e9)), config.output.previews != "none"
            engine = Engine(dispatcher, store, fleet.fetch, tasks, previews=shown)
            return await Bench(config, plan, fleet, dispatcher, engine, say).entry()
    finally:
        await asyncio.gather(*(asyncio.to_thread(r.worker.close, 5.0) for r in fleet.replicas))


class Bench:
    """The measurements, one after the other, on the first arm's sampler and the first prompt."""

    def __init__(
        self, config: Config, plan: Plan, fleet: LocalFleet, dispatcher: Dispatcher, engine: Engine, say: Say
    ) -> None:
        self.config, self.plan, self.fleet, self.engine, self.say = config, plan, fleet, engine, say
        self.dispatcher, self.arm, self.index = dispatcher, plan.arms[0], count()
        self.prompt: Prompt = prompts.load(config)[0].prompt
        self.load: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self.memory = Memory()

    async def entry(self) -> dict[str, Any]:
        """All that is measured, under the key of what it is of."""
        encode = await self.encoding()
        for kind in ("denoiser", "scorer"):
            await self.start(kind)
        forward, leg, item, preview, state = await self.denoising()
        decode, finish, video = await self.finishing(item)
        rewards, compare, picture = await self.judging(decode)
        versions = ", ".join(f"{p} {installed(p)}" for p in ("torch", "diffusers", "transformers"))
        named = {"device": device(), **key(self.config, self.plan), "slots": max(forward), "versions": versions}
        numbers = {"preview": preview, "leg": leg, "encode": encode, "decode": decode}
        numbers |= {"compare": compare, "finish": finish, "item": item, "picture": picture}
        seconds = {"load": self.load, "forward": {str(k): v for k, v in forward.items()}, "rewards": rewards, **numbers}
        cores = None if torch.cuda.is_available() else len(os.sched_getaffinity(0))  # replicas on GPUs have one each
        made = {"state": state, "peak": self.peak, "video": video, "cores": cores, "date": time.strftime("%Y-%m-%d")}
        return {**named, **made, "seconds": seconds}

    async def start(self, kind: str) -> None:
        """Load a worker."""
        self.say(f"the {kind} is loaded")
        pool: PoolConfig = getattr(self.config.fleet, f"{kind}s")
        began, make = time.perf_counter(), partial(Worker, kind, self.config, self.plan)
        worker = await begun(make)
        self.load[kind] = time.perf_counter() - began
        replica = LocalReplica(f"{kind}-0", kind, pool.slots, worker, make, self.config.fleet.timeout_s)
        self.fleet.replicas.append(replica)
        self.dispatcher.join(replica)

    def noises(self, n: int, sampler: Sampler, step: int) -> list[Candidate]:
        """Candidates that nobody has made yet, at a step."""
        return [Candidate(self.prompt, sampler, Noise(next(self.index), 0, "calibration"), step) for _ in range(n)]

    async def repeated(self, *ways: Callable[[], Awaitable[Any]]) -> list[float]:
        """The mean seconds of each of several things, which are done in turns, after once that does not count."""
        for way in ways:
            await way()
        found: list[list[float]] = []
        while len(found) < LEAST or (sum(map(sum, found)) < ENOUGH * len(ways) and len(found) < MOST):
            found.append([])
            for way in ways:
                began = time.perf_counter()
                await way()
                found[-1].append(time.perf_counter() - began)
            if sum(found[0]) > SLOW * len(ways):
                break
        return [fmean(column) for column in zip(*found, strict=True)]

    async def encoding(self) -> float:
        """The seconds of a text; what the first prompt needs is encoded, and the encoder is ended."""
        await self.start("encoder")
        self.say("texts are encoded")
        self.memory.begin()
        needed = requests.conditions(self.prompt, self.arm.sampler)
        for what in needed:
            await self.engine.encoded(what, Spent())
        worker = self.fleet.replicas[0].worker
        again = requests.encode(needed[0])
        (seconds,) = await self.repeated(lambda: asyncio.wrap_future(worker.submit(next(self.index), again, {})))
        self.peak["encoder"] = self.memory.peak()
        if self.dispatcher.retire("encoder"):
            await self.fleet.release("encoder")
        return seconds

    async def made(self, n: int, step: int, velocity: bool = False) -> None:
        """Make `n` candidates at a step, which share the denoiser."""
        xs = self.noises(n, self.arm.sampler, step)
        await gather((self.engine.latent(x, velocity, Spent()) for x in xs), n)

    async def denoising(self) -> tuple[dict[int, float], float, float, float, dict[str, int]]:
        """Seconds of an evaluation by candidates together; of a leg, an item, a preview; bytes of states.

        A leg of one step and one of several differ by the steps alone: what is left belongs to the legs.
        """
        self.memory.begin()
        s, slots = self.arm.sampler, self.config.fleet.denoisers.slots
        (first,) = await self.repeated(partial(self.made, 1, 1))
        most = s.num_steps - 1
        steps = max(min(max(STEPS, int(2 * SLOW / max(first, 1e-6))), most), 2)
        forward: dict[int, float] = {}
        left: dict[int, float] = {}
        for n in sorted({1, 2, 4, 8, 16, 32, slots} & set(range(1, slots + 1))):
            self.say(f"{n} of {slots} slots take {steps} steps")
            short, long = await self.repeated(partial(self.made, n, 1), partial(self.made, n, steps))
            step = (long - short) / (steps - 1) if long > short else long / steps
            forward[n], left[n] = step / s.nfe_per_step, max(short - step, 0.0)
        one, many = min(forward), max(forward)
        leg = max(left[many] - left[one], 0.0) / (many - one) if many > one else 0.0
        leg = min(leg, left[one])
        self.say("previews")
        bare, seen_too = await self.repeated(partial(self.made, 1, 1), partial(self.made, 1, 1, True))
        preview = min(max((seen_too - bare) / (forward[1] * s.nfe_per_step), 0.5), 1.5)
        (plain,), (seen,) = self.noises(1, s, min(2, most)), self.noises(1, s, min(2, most))
        small = (await self.engine.latent(plain, False, Spent())).nbytes
        large = (await self.engine.latent(seen, True, Spent())).nbytes
        self.peak["denoiser"] = self.memory.peak()
        return forward, leg, left[one] - leg, preview, {"whole": small, "velocity": large - small}

    async def finishing(self, item: float) -> tuple[float, float, int | None]:
        """Seconds of decoding a video, of its files beside that, and the bytes of the mp4."""
        self.say("a video is decoded and written")
        self.memory.begin()
        few = self.arm.at_steps(min(FEW, self.arm.sampler.num_steps))
        (self.done,) = self.noises(1, few, few.num_steps)
        wanted = outputs(self.config.output, self.plan)
        finish = partial(self.engine.finish, self.done, [], spent=Spent())
        bare, whole = await self.repeated(lambda: finish(outputs=Outputs()), lambda: finish(outputs=wanted))
        decode, files = max(bare - item, 0.0), max(whole - bare, 0.0) if wanted.asked else 0.0
        made = (await finish(outputs=wanted)).files if wanted.mp4 else {}
        return decode, files, len(made["mp4"]) if made else None

    async def judging(self, decode: float) -> tuple[dict[str, float], float, float]:
        """Seconds of each reward of the arms, without decoding; of comparing a pair; and of a preview's picture."""
        rewards: dict[str, float] = {}
        compare = picture = 0.0
        for r in alone(self.plan):
            if r.key in rewards:
                continue
            if r.obstacles:
                self.say(f"{r.key} is left out: it reads obstacles")
                continue
            self.say(f"the reward {r.key}")

            if r.pairwise:
                compare = await self.scoring(r) - 2 * r.decodes * decode
                continue
            finish = partial(self.engine.finish, self.done, outputs=Outputs(), spent=Spent())
            bare, judged = await self.repeated(lambda: finish(rewards=[]), partial(finish, rewards=[r]))  # noqa: B023
            rewards[r.key] = max(judged - bare, 0.0)
            if r.decodes and not picture and self.config.output.previews != "none":
                picture = max(await self.scoring(r) - decode - rewards[r.key], 0.0)
        self.peak["scorer"] = self.memory.peak()
        return rewards, max(compare, 0.0), picture

    async def scoring(self, r: Reward) -> float:
        """The replica-seconds of a score of a candidate or a pair that is half done, its decodes included."""
        found = []
        for _ in range(1 + LEAST):
            xs = self.noises(1 + r.pairwise, self.done.sampler, 1)
            (score,) = await self.engine.score([Pair.of(*xs) if r.pairwise else xs[0]], r, Spent())
            found.append(score.scoring)
        return fmean(found[1:])
