"""Work ahead of searches that wait: what is made, in which order, what makes room, comes true, and what it costs."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.engine.protocol import Denoise, Outputs
from raysearch.engine.sharing import Spent
from raysearch.engine.store import Store
from raysearch.errors import OutOfMemory, ReplicaDied
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.origins import Noise
from raysearch.recipe.sequels import Sequels
from raysearch.testing import FakeFleet, FakeReplica, fake_reward, fake_sampler, run_virtual

SAMPLER = fake_sampler(10)
REWARD = fake_reward("latent")  # so that a leg takes as many seconds as it has steps
STOPS = (3, 6, 10)


def noise(i: int, step: int = 0, sampler=SAMPLER) -> Candidate:
    return Candidate(Prompt("ahead"), sampler, Noise(0, i), step)


def straight(sampler=SAMPLER, stops=STOPS) -> Sequels:
    """Of a policy that stops three times on each trajectory."""
    sequels = Sequels()
    sequels.learn([[(noise(99, t, sampler), False)] for t in stops])
    return sequels


def with_engine(work, denoisers=2, scoring=10.0, fleet=None, capacity=10**6, slots=1):
    """The result of `work(engine)`, and its legs: (noise, step, until), replica, when it began and how it ended."""
    fleet = fleet or FakeFleet(denoisers, slots, 1, {"scorer": scoring, "encoder": 0.0})
    legs = []

    def tell(ran):
        if isinstance(ran.call.request, Denoise):
            legs.append(ran)

    async def run():
        async with Dispatcher.open(fleet.replicas, tell) as dispatcher, asyncio.TaskGroup() as tasks:
            engine = Engine(dispatcher, Store(capacity), fleet.fetch, tasks)
            result = await work(engine)
            tidy = dispatcher._scheduler.guessing, sum(dispatcher.tally.busy.values()), len(engine._jobs)
            assert tidy == (0, 0, 0)
            return result

    result = run_virtual(run())
    return result, [(r.began, r.call.request.step, r.call.request.until, r.how) for r in legs]


async def ended(engine: Engine, *searches: Spent) -> None:
    for spent in searches:
        engine.forget(spent)
    for _ in range(20):
        await asyncio.sleep(0)


# -- one search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [SAMPLER, replace(SAMPLER, call="{}")], ids=["latents", "whole pipeline"])
def test_candidates_that_wait_go_on_to_their_next_stops(sampler):
    async def work(engine):
        spent = Spent(sequels=straight(sampler))
        await engine.score([noise(0, 3, sampler), noise(1, 3, sampler)], REWARD, spent)
        at = asyncio.get_running_loop().time(), engine.nfe, spent.nfe, engine.speculation.wasted
        await engine.score([noise(1, 6, sampler)], REWARD, spent)
        later = engine.nfe, spent.nfe, engine.speculation.wasted
        await engine.finish(noise(1, 10, sampler), [], Outputs(), spent)
        done = asyncio.get_running_loop().time()
        await ended(engine, spent)
        return at, later, (done, engine.nfe, spent.nfe, engine.speculation.wasted)

    (at, later, done), legs = with_engine(work)
    assert sorted(legs) == sorted([(t, s, u, "done") for t, s, u in ((0, 0, 3), (3, 3, 6), (6, 6, 10)) for _ in "ab"])
    assert at == (23, 12, 12, 28)  # two looks of 10 after 3 steps; all legs were run meanwhile, and none asked for yet
    assert later == (18, 18, 22)
    assert done == (43, 26, 26, 14)  # a look and the finish; the other candidate's 7 steps were in vain


def test_without_sequels_nothing_is_made_ahead():
    async def work(engine):
        await engine.score([noise(0, 3)], REWARD, Spent())
        return engine.speculation.wasted

    wasted, legs = with_engine(work)
    assert (wasted, legs) == (0, [(0, 0, 3, "done")])


def test_the_best_goes_first_and_the_near_before_the_far():
    """One denoiser, which is idle once all candidates are made; by then the first rewards are known."""
    xs = [noise(i, 3) for i in range(4)]

    async def work(engine):
        spent = Spent(sequels=straight())
        scores = await engine.score(xs, REWARD, spent)
        await ended(engine, spent)
        return [s.components[0] for s in scores]

    order = []
    fleet = FakeFleet(1, 1, 1, {"scorer": 2.9, "encoder": 0.0})
    fleet.replicas[0].fault = lambda call: order.append((call.inputs.get("base"), call.request.step)) or None
    rewards, _ = with_engine(work, fleet=fleet)
    by_reward = sorted(range(3), key=lambda i: -rewards[i])  # the fourth is looked at last, when the others are known
    firsts = [base.quality for base, step in order if step == 3]
    assert len(firsts) >= 1
    assert firsts[0] == rewards[by_reward[0]]
    assert [step for _, step in order] == sorted(step for _, step in order)


def test_a_leg_under_way_is_joined_and_goes_on():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        await engine.score([noise(0, 3)], REWARD, spent)  # until 3 + 4; the leg goes on until 3 + 7
        await engine.finish(noise(0, 10), [], Outputs(), spent)
        done = asyncio.get_running_loop().time()
        await ended(engine, spent)
        return done, engine.nfe, engine.speculation.wasted

    found, legs = with_engine(work, scoring=4.0)
    assert found == (14, 20, 0)
    assert legs == [(0, 0, 3, "done"), (3, 3, 10, "done")]


def test_what_is_dropped_is_given_up_and_counted():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        await engine.score([noise(0, 3), noise(1, 3)], REWARD, spent)  # until 3 + 2 * 2
        await engine.score([noise(0, 10)], REWARD, spent)
        await ended(engine, spent)
        return engine.nfe, engine.speculation.wasted

    found, legs = with_engine(work, scoring=2.0)
    assert found == (12 + 14, 2 * 4)
    assert legs == [(0, 0, 3, "done"), (0, 0, 3, "done"), (3, 3, 10, "cancelled"), (3, 3, 10, "done")]


def test_what_a_search_no_longer_asks_for_ends_with_it():
    async def work(engine):
        spent = Spent(sequels=straight())
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(4)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await ended(engine, spent)
        return engine.speculation.wasted, engine.speculation._searches

    found, legs = with_engine(work)
    assert found == (2, {})
    assert legs == [(0, 0, 3, "done"), (3, 3, 6, "cancelled")]


def test_a_stop_that_nobody_foresaw_does_not_wait_for_a_guess():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(4.5)
        entry = await engine.latent(noise(0, 5), False, Spent(1))
        at = asyncio.get_running_loop().time()
        await asking
        await ended(engine, spent)
        return at, entry.ref.step

    found, legs = with_engine(work)
    assert found == (4.5 + 2, 5)
    assert legs[:3] == [(0, 0, 3, "done"), (3, 3, 10, "cancelled"), (4.5, 3, 5, "done")]


def test_a_later_stop_makes_the_guess_on_its_way_come_true():
    """No other item may displace it any more, or the search would wait for idle replicas."""

    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 6)))
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(4)
        asked = [asyncio.create_task(engine.latent(noise(i, 8), False, Spent(i))) for i in (0, 1)]
        await asyncio.gather(asking, *asked)
        await ended(engine, spent)

    _, legs = with_engine(work, denoisers=1)
    assert legs == [(0, 0, 3, "done"), (3, 3, 6, "done"), (6, 0, 8, "done"), (14, 6, 8, "done")]


# -- beside others ----------------------------------------------------------------------------------------------------


def test_an_item_takes_the_replica_of_the_guess_that_matters_least():
    async def work(engine):
        spent = Spent(sequels=straight())
        asking = asyncio.create_task(engine.score([noise(0, 3), noise(1, 3)], REWARD, spent))
        await asyncio.sleep(7)  # 3 to 6 is made of both, and 6 to 10 under way
        await engine.latent(noise(5, 2), False, Spent(1))
        at = asyncio.get_running_loop().time()
        await asking
        await ended(engine, spent)
        return at

    at, legs = with_engine(work)
    assert at == 9
    assert [leg for leg in legs if leg[0] == 7] == [(7, 0, 2, "done")]
    assert sorted(leg for leg in legs if leg[1] == 6) == [
        (6, 6, 10, "cancelled"),
        (6, 6, 10, "done"),
        (9, 6, 10, "done"),
    ]


@pytest.mark.parametrize("slots", [1, 3])
def test_no_guess_runs_beside_an_item(slots):
    """Of many searches; and whatever they ask for waits for no guess."""
    working, guessing = {}, {}

    class Watched(FakeReplica):
        async def run(self, call):
            kind = guessing if dispatchers[0]._guesses and self._guess() else working
            kind[self.id] = kind.get(self.id, 0) + 1
            try:
                if kind is guessing:
                    await asyncio.sleep(0)
                    assert not working.get(self.id)
                return await super().run(call)
            finally:
                kind[self.id] -= 1

        def _guess(self):
            return bool(dispatchers[0]._scheduler.replicas[self.id].guesses)

    dispatchers = []
    replicas = [Watched(f"d{i}", "denoiser", slots=slots) for i in range(3)]
    replicas += [FakeReplica("s", "scorer"), FakeReplica("e", "encoder", seconds=0)]
    fleet = FakeFleet(replicas=replicas)
    rng = random.Random(0)

    async def work(engine):
        dispatchers.append(engine._dispatcher)

        async def search(age):
            spent = Spent(age, sequels=straight())
            xs = [noise(10 * age + i, 3) for i in range(4)]
            for step in STOPS:
                await engine.score([denoise(x, step) for x in xs], REWARD, spent)
                xs = rng.sample(xs, max(len(xs) // 2, 1))
                await asyncio.sleep(rng.random())
            await ended(engine, spent)

        await asyncio.gather(*(search(i) for i in range(4)))
        return engine.nfe

    nfe, legs = with_engine(work, fleet=fleet)
    assert nfe == 4 * 2 * (4 * 3 + 2 * 3 + 1 * 4)
    assert any(how == "cancelled" for *_, how in legs)


def test_guesses_leave_a_replica_on_which_one_comes_true():
    """But for those that come true with it."""

    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        asking = asyncio.create_task(engine.score([noise(i, 3) for i in range(3)], REWARD, spent))
        await asyncio.sleep(5)
        asked = [asyncio.create_task(engine.latent(noise(i, 10), False, Spent(1))) for i in (0, 2)]
        await asyncio.gather(*asked)
        at = asyncio.get_running_loop().time()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await ended(engine, spent)
        return at

    at, legs = with_engine(work, denoisers=1, slots=3)
    assert at == 10
    assert legs[3:6] == [(3, 3, 10, "cancelled"), (3, 3, 10, "done"), (3, 3, 10, "done")]


def test_one_search_joins_the_guess_of_another():
    async def work(engine):
        first, second = Spent(0, sequels=straight(stops=(3, 10))), Spent(1)
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, first))
        await asyncio.sleep(5)
        joining = asyncio.create_task(engine.latent(noise(0, 10), False, second))
        await asyncio.sleep(0)
        await ended(engine, first)  # the guess would be given up, but that somebody has asked
        await joining
        await asking
        return asyncio.get_running_loop().time(), first.nfe, second.nfe, engine.speculation.wasted

    found, legs = with_engine(work)
    assert found == (13, 6, 14, 0)
    assert legs == [(0, 0, 3, "done"), (3, 3, 10, "done")]


def test_a_kind_of_replicas_that_goes_ends_its_guesses():
    async def work(engine):
        spent = Spent(sequels=straight())
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(4)
        gone = engine._dispatcher.retire("denoiser")
        await asking
        await ended(engine, spent)
        return gone

    gone, legs = with_engine(work)
    assert gone
    assert legs == [(0, 0, 3, "done"), (3, 3, 6, "cancelled")]


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ReplicaDied, OutOfMemory, FloatingPointError])
@pytest.mark.parametrize("joined", [True, False])
def test_a_guess_that_fails_fails_nobody(error, joined):
    """Neither a search that asks for it later, nor one that has joined it."""
    failed = []

    def fault(call):
        if call.request.step == 3 and not failed:
            failed.append(call)
            return error("once")
        return None

    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(3.2 if joined else 5)  # the fault strikes half a second into the leg
        entry = await engine.latent(noise(0, 10), False, Spent(1))
        await asking
        await ended(engine, spent)
        return entry.ref.step, engine._dispatcher.tally.slots["denoiser"]

    fleet = FakeFleet(1, 4, 1, {"scorer": 10.0, "encoder": 0.0})
    fleet.replicas[0].fault = fault
    (step, slots), _ = with_engine(work, fleet=fleet)
    assert (step, len(failed)) == (10, 1)
    assert slots == (4 if not (joined and error is OutOfMemory) else 1)  # as if it had run it alone


@pytest.mark.parametrize("latents", [3, 6, 9, 12, 16])
def test_work_ahead_takes_no_room_that_searches_need(latents):
    """Hardly anything is made more often than without it, however small the store is."""

    async def work(engine, sequels):
        spent = Spent(sequels=sequels)
        for step in STOPS:
            await engine.score([noise(i, step) for i in range(8)], REWARD, spent)
        await ended(engine, spent)
        return engine.nfe

    small = {"denoisers": 20, "scoring": 3.0, "capacity": latents * 2024}
    off, on = (with_engine(lambda engine, s=s: work(engine, s), **small)[0] for s in (None, straight()))
    assert 160 <= on <= 1.1 * off
