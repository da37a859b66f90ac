"""The bytes of the states that a real denoiser makes, by step and by whether the velocity is there."""

import asyncio

from actors.backend import Backend
from raysearch.config import prompts
from raysearch.config.config import Config, arms
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.engine.sharing import Spent
from raysearch.engine.store import Store
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.origins import Noise
from raysearch.session.plan import Plan


def sizes(config: Config) -> tuple[Plan, dict[tuple[int, bool], int]]:
    """The plan of a config, and its first arm's states at every step."""
    backend = Backend()
    plan = backend.prepare(config, arms(config))
    sampler, prompt = plan.arms[0].sampler, prompts.load(config)[0].prompt

    async def made() -> dict[tuple[int, bool], int]:
        found = {}
        async with (
            backend.fleet(config, plan, print) as fleet,
            Dispatcher.open(fleet.replicas) as dispatcher,
            asyncio.TaskGroup() as tasks,
        ):
            engine = Engine(dispatcher, Store(10**9), fleet.fetch, tasks)
            for step in range(sampler.num_steps + 1):
                for velocity in (False, True)[: 1 + (step < sampler.num_steps)]:
                    x = Candidate(prompt, sampler, Noise(step, int(velocity)), step)
                    found[step, velocity] = (await engine.latent(x, velocity, Spent())).nbytes
        return found

    return plan, asyncio.run(made())
