"""Guesses: whose turn it is on a trajectory, what comes true with what, and the bounds of work ahead."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from test_speculation import REWARD, ended, noise, straight, with_engine

from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.protocol import Call, Encode, Text
from raysearch.engine.sharing import Guess, Spent, Turns
from raysearch.engine.speculation import FARTHEST, MOST
from raysearch.testing import FakeFleet, FakeReplica, run_virtual


def on_a_trajectory(*stops, until=60):
    """Which of the stops, (step, guess, turns of the loop before it is asked for and while it runs), get their turn."""
    turns, begun = Turns(), []

    async def stop(step, guess, wait, hold):
        for _ in range(wait):
            await asyncio.sleep(0)
        async with turns.turn(b"t", step, guess, 0):
            begun.append(step)
            for _ in range(hold):
                await asyncio.sleep(0)

    async def work():
        tasks = [asyncio.create_task(stop(*s)) for s in stops]
        for guess in (s[1] for s in stops if s[1] is not None):
            guess.drop = next(t for t, s in zip(tasks, stops, strict=True) if s[1] is guess).cancel
        for i in range(until):
            await asyncio.sleep(0)
            yield i
        for t in tasks:
            t.cancel()

    async def all_of_it(confirm, at):
        async for i in work():
            if i == at:
                confirm.confirm(0)

    return begun, all_of_it


@pytest.mark.parametrize("hold", range(4))
@pytest.mark.parametrize("wait", range(4))
def test_whenever_a_guess_comes_true_every_stop_gets_its_turn(wait, hold):
    """Also if it comes true after another one was told that it is next."""
    for at in range(12):
        far = Guess()
        begun, run = on_a_trajectory((3, Guess(), 0, hold), (7, far, wait, 1), (5, Guess(), 0, 1))
        asyncio.run(run(far, at))
        assert sorted(begun) == [3, 5, 7]


def test_a_guess_that_begins_while_a_search_asks_does_not_keep_it():
    for wait in range(4):
        begun, run = on_a_trajectory((7, Guess(), 0, 10**6), (5, None, wait, 0))
        asyncio.run(run(Guess(), -1))
        assert 5 in begun


def test_what_a_guess_needs_comes_true_with_it_whenever_that_is_known():
    guess, before, after = Guess(), Guess(), Guess()
    guess.need(before)
    assert before.age is None
    guess.confirm(3)
    guess.need(after)
    assert (guess.age, before.age, after.age) == (3, 3, 3)


def test_a_guess_that_has_come_true_waits_as_an_item_of_the_oldest_search_that_asked():
    async def work():
        ran = []
        async with Dispatcher.open([FakeReplica("e", "encoder")], lambda r: ran.append(r.call.request.what.text)) as d:
            calls = [Call(Encode(Text(name, 0))) for name in ("busy", "other", "guess")]
            guess = Guess()
            guess.confirm(1)
            given = zip(calls, (0, 2, 5), (None, None, guess), strict=True)
            await asyncio.gather(*(d.submit(c, age=age, guess=g) for c, age, g in given))
        return ran

    assert run_virtual(work()) == ["busy", "guess", "other"]


def test_near_stops_of_all_candidates_go_before_far_ones():
    async def work(engine):
        spent = Spent(sequels=straight())
        await engine.score([noise(0, 3), noise(1, 3)], REWARD, spent)
        await ended(engine, spent)

    _, legs = with_engine(work, denoisers=1, scoring=20.0)
    assert [step for _, step, _, _ in legs] == [0, 0, 3, 3, 6, 6]


def test_a_question_makes_guesses_come_true_before_its_candidates_have_their_turn():
    """Of many candidates some wait: meanwhile no other item may displace what is on its way to them."""

    async def work(engine):
        spent = Spent(sequels=straight())
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(4)
        before = engine._dispatcher.tally.busy["denoiser"]
        with engine.speculation.question([noise(0, 6)], spent):
            during = engine._dispatcher.tally.busy["denoiser"]
            await asking
        await ended(engine, spent)
        return before, during

    assert with_engine(work)[0] == (0, 1)


def test_what_is_gone_on_from_without_being_asked_for_counts_for_the_search_too():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 6)))
        await engine.score([noise(0, 3)], REWARD, spent)
        at = engine.nfe, engine.speculation.wasted
        await engine.latent(noise(0, 10), False, spent)
        await ended(engine, spent)
        return at, (engine.nfe, spent.nfe, engine.speculation.wasted)

    found, legs = with_engine(work)
    assert found == ((6, 6), (20, 20, 0))
    assert [leg[1:3] for leg in legs] == [(0, 3), (3, 6), (6, 10)]


def test_work_ahead_goes_so_many_questions_far_and_no_farther():
    async def work(engine):
        spent = Spent(sequels=straight(stops=range(1, 11)))
        await engine.score([noise(0, 1)], REWARD, spent)
        await ended(engine, spent)

    _, legs = with_engine(work, scoring=100.0)
    assert max(until for *_, until, _ in legs) == FARTHEST


def test_so_many_are_made_for_a_search_at_a_time_and_no_more():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        await engine.score([noise(i, 3) for i in range(300)], REWARD, spent)
        await ended(engine, spent)

    _, legs = with_engine(work, denoisers=1, slots=400, capacity=10**8)
    assert legs.count((3, 3, 10, "done")) == MOST
    assert len(legs) == 300 + MOST


def test_a_guess_that_failed_is_not_tried_again_until_the_search_asks():
    """Though a second question finds the same way once more."""

    async def work(engine):
        spent = Spent(sequels=straight())
        await engine.score([noise(0, 3)], REWARD, spent)
        await engine.score([noise(0, 6)], REWARD, spent)
        with pytest.raises(FloatingPointError):
            await engine.score([noise(0, 10)], REWARD, spent)
        await ended(engine, spent)

    fleet = FakeFleet(2, 1, 1, {"scorer": 10.0, "encoder": 0.0})
    for replica in fleet.replicas:
        replica.fault = lambda call: FloatingPointError("always") if getattr(call.request, "step", 0) == 6 else None
    _, legs = with_engine(work, fleet=fleet)
    assert legs == [(0, 0, 3, "done"), (3, 3, 6, "done"), (6, 6, 10, "failed"), (23, 6, 10, "failed")]


def test_a_guess_that_was_given_up_may_be_made_again():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        for i, reward in ((0, REWARD), (1, REWARD), (0, replace(REWARD, key="other", identity=b"other"))):
            await engine.score([noise(i, 3)], reward, spent)
        await ended(engine, spent)
        return engine.speculation.wasted

    found, legs = with_engine(work, scoring=4.0)
    assert found == 3 * 2 * 4
    assert [leg for leg in legs if leg[1] == 3] == [(t, 3, 10, "cancelled") for t in (3, 10, 14)]


def test_a_guess_displaced_before_any_step_was_timed_is_made_again_and_counts_nothing():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(0, 5)))
        asking = asyncio.create_task(engine.score([noise(0, 0)], REWARD, spent))
        await asyncio.sleep(2)
        await engine.latent(noise(5, 2), False, Spent(1))
        await asyncio.sleep(0)
        wasted = engine.speculation.wasted
        await asking
        await ended(engine, spent)
        return wasted, engine.speculation.wasted

    found, legs = with_engine(work, denoisers=1)
    assert found == (0, 2 * 5)
    assert legs == [(0, 0, 0, "done"), (0, 0, 5, "cancelled"), (2, 0, 2, "done"), (4, 0, 5, "done")]


def test_what_came_true_before_it_was_given_up_was_no_vain_guess():
    async def work(engine):
        spent = Spent(sequels=straight(stops=(3, 10)))
        asking = asyncio.create_task(engine.score([noise(0, 3)], REWARD, spent))
        await asyncio.sleep(5)
        joining = asyncio.create_task(engine.latent(noise(0, 10), False, Spent(1)))
        await asyncio.sleep(1)
        for task in (joining, asking):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await ended(engine, spent)
        return engine.speculation.wasted

    found, legs = with_engine(work)
    assert found == 0
    assert legs == [(0, 0, 3, "done"), (3, 3, 10, "cancelled")]


@pytest.mark.parametrize("first", [0, 1])
def test_an_item_displaces_the_guess_of_the_younger_search(first):
    """Whichever began first. Each has one on a replica of its own; the older search's goes to step 10."""

    async def work(engine):
        searches = [Spent(age, sequels=straight(stops=(3, 10 - age))) for age in (first, 1 - first)]
        asking = [asyncio.create_task(engine.score([noise(s.age, 3)], REWARD, s)) for s in searches]
        await asyncio.sleep(5)
        await engine.latent(noise(5, 2), False, Spent(2))
        await asyncio.gather(*asking)
        await ended(engine, *searches)

    _, legs = with_engine(work)
    assert [leg for leg in legs if leg[0] == 3] == [(3, 3, 9, "cancelled"), (3, 3, 10, "done")]
