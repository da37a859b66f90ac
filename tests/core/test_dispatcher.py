import asyncio

import pytest

from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.protocol import Answer, Call, Encode, Encoded, Text
from raysearch.errors import NoReplica, OutOfMemory, PoisonousItem, ReplicaDied, single
from raysearch.testing import FakeReplica, run_virtual


def named(name: str) -> Call:
    return Call(Encode(Text(name, 0)))


CALL = named("x")


def encoder(name: str = "e", **values) -> FakeReplica:
    return FakeReplica(name, "encoder", **values)


def dies(*names: str, times: int = 10**6):
    """A fault that kills the replica whenever it runs one of the named calls, `times` times in all."""
    left = [times]

    def fault(call: Call):
        if call.request.what.text in names and left[0] > 0:
            left[0] -= 1
            return ReplicaDied("killed")
        return None

    return fault


def dispatch(replicas, *calls: Call):
    """What each call ends in, all submitted at once: an answer, or the exception."""

    async def work():
        async with Dispatcher.open(replicas) as d:
            return await asyncio.gather(*(d.submit(c, age=i) for i, c in enumerate(calls)), return_exceptions=True)

    return run_virtual(work())


def test_a_result_and_an_error_go_to_their_own_waiters():
    broken = ValueError("no such text")
    fault = lambda call: broken if call.request.what.text == "bad" else None  # noqa: E731
    good, bad, other = dispatch([encoder(fault=fault)], CALL, named("bad"), named("y"))
    assert isinstance(good, Answer)
    assert bad is broken
    assert isinstance(other, Answer)
    assert good.ref != other.ref


def test_slots_bound_what_runs_at_a_time():
    replicas = [encoder("a", slots=2), encoder("b", slots=3)]
    assert len(dispatch(replicas, *[CALL] * 20)) == 20
    assert [r.most_running for r in replicas] == [2, 3]


def test_a_waiting_item_that_is_cancelled_never_runs():
    async def work():
        replica = encoder()
        async with Dispatcher.open([replica]) as d:
            first = asyncio.create_task(d.submit(named("first"), age=0))
            second = asyncio.create_task(d.submit(named("second"), age=1))
            await asyncio.sleep(0.5)
            second.cancel()
            await first
            await d.submit(named("third"), age=2)
        assert second.cancelled()
        return [c.request.what.text for c in replica.calls]

    assert run_virtual(work()) == ["first", "third"]


def test_a_running_item_that_is_cancelled_frees_its_slot():
    async def work():
        replica = encoder(seconds=100)
        async with Dispatcher.open([replica]) as d:
            task = asyncio.create_task(d.submit(CALL, age=0))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (replica.running, d.tally.busy["encoder"]) == (0, 0)
            began = asyncio.get_running_loop().time()
            await d.submit(CALL, age=1)
            return asyncio.get_running_loop().time() - began

    assert run_virtual(work()) == 100


def test_an_item_cancelled_in_the_turn_in_which_it_gets_its_slot_gives_it_back():
    async def work():
        async with Dispatcher.open([replica := encoder()]) as d:
            first = asyncio.create_task(d.submit(named("first"), age=0))
            await asyncio.sleep(0)
            second = asyncio.create_task(d.submit(named("second"), age=1))

            async def follow():
                await d.submit(named("zeroth"), age=-1)
                second.cancel()  # in the turn in which the slot is granted to it

            await asyncio.gather(follow(), first, second, return_exceptions=True)
            assert second.cancelled() and d.tally.busy["encoder"] == 0
            await d.submit(named("third"), age=2)
        return [c.request.what.text for c in replica.calls]

    assert run_virtual(work()) == ["first", "zeroth", "third"]


def test_an_item_cancelled_in_the_turn_in_which_a_slot_is_free_does_not_take_it():
    class Gated(FakeReplica):
        async def run(self, call):
            self.calls.append(call)
            if gate := gates.get(call.request.what.text):
                await gate
            return Answer(Encoded())

    gates = {}

    async def work():
        gates["first"] = asyncio.get_running_loop().create_future()
        async with Dispatcher.open([replica := Gated("e", "encoder")]) as d:
            items = [asyncio.create_task(d.submit(named(n), age=0)) for n in ("first", "second", "third")]
            await asyncio.sleep(1)
            gates["first"].set_result(None)
            items[1].cancel()  # its waiter runs after the first's
            ends = await asyncio.gather(*items, return_exceptions=True)
            assert [type(e) for e in ends] == [Answer, asyncio.CancelledError, Answer]
            assert d.tally.busy["encoder"] == 0
        return [c.request.what.text for c in replica.calls]

    assert run_virtual(work()) == ["first", "third"]


def test_the_slots_of_a_replica_that_died_and_came_back_are_counted_once():
    async def work():
        async with Dispatcher.open([encoder(slots=3, fault=dies("x", times=1), revives_after=5)]) as d:
            item = asyncio.create_task(d.submit(named("x"), age=0))
            await asyncio.sleep(2)
            away = dict(d.tally.slots)
            await item
            return away, d.tally.slots

    assert run_virtual(work()) == ({"encoder": 0}, {"encoder": 3})


def test_an_item_whose_replica_died_is_done_elsewhere():
    a, b = encoder("a", fault=dies("x", times=1), revives_after=None), encoder("b")
    answers = dispatch([a, b], named("x"), named("y"), named("z"))
    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(a.calls) == 1


def test_a_replica_that_comes_back_is_used_again():
    replica = encoder(fault=dies("x", times=2), revives_after=5)
    (answer,) = dispatch([replica], named("x"))
    assert isinstance(answer, Answer)
    assert len(replica.calls) == 3


def test_only_the_item_that_kills_alone_is_given_up():
    """The poison takes its neighbours' replica down once; from then on it runs alone, and only it fails."""
    replica = encoder(slots=4, fault=dies("poison"))
    poisoned, *others = dispatch([replica], named("poison"), named("a"), named("b"), named("c"))
    assert isinstance(poisoned, PoisonousItem)
    assert all(isinstance(o, Answer) for o in others)


def test_deaths_in_company_do_not_count():
    """A machine dies five times under an innocent item that ran beside others each time but the first retry."""
    replica = encoder(slots=2, fault=dies("x", times=3))  # one death in company, two alone: below the limit
    x, y = dispatch([replica], named("x"), named("y"))
    assert isinstance(x, Answer)
    assert isinstance(y, Answer)


def test_with_no_replica_left_no_item_is_to_blame_and_all_that_goes_on_is_cancelled():
    async def work(ends):
        async with Dispatcher.open([encoder(fault=dies("x"), revives_after=None)]) as d:
            ends += await asyncio.gather(*(d.submit(named(n), age=0) for n in "xyz"), return_exceptions=True)

    ends: list[object] = []
    with pytest.raises(ExceptionGroup) as lost:
        run_virtual(work(ends))
    assert ends == []
    assert str(single(lost.value)) == "no encoder is left (e does not come back)"


def test_a_replica_that_joins_takes_what_waits():
    async def work():
        slow, late = encoder("slow", seconds=10), encoder("late")
        async with Dispatcher.open([slow]) as d:
            items = [asyncio.create_task(d.submit(named(str(i)), age=i)) for i in range(5)]
            await asyncio.sleep(2)
            d.join(late)
            assert d.tally.slots == {"encoder": 2}
            answers = await asyncio.gather(*items)
        return [a.place for a in answers], asyncio.get_running_loop().time()

    places, end = run_virtual(work())
    assert places == ["slow@node", *["late@node"] * 4]
    assert end == 10


def test_while_one_is_away_the_others_do_its_work():
    async def work():
        away, other = encoder("away", fault=dies("x", times=1), revives_after=1000), encoder("other")
        async with Dispatcher.open([away, other]) as d:
            await asyncio.gather(*(d.submit(named(n), age=i) for i, n in enumerate("xyz")))
            assert (d.tally.slots, d.tally.deaths) == ({"encoder": 1}, 1)
            assert asyncio.get_running_loop().time() < 10
            await asyncio.sleep(1000)
            assert d.tally.slots == {"encoder": 2}
        return len(away.calls), len(other.calls)

    assert run_virtual(work()) == (1, 3)


def test_items_wait_for_the_only_replica_while_it_is_away_and_one_that_joins_takes_them():
    async def work():
        gone, late = encoder("gone", fault=dies("x"), revives_after=10**6), encoder("late")
        async with Dispatcher.open([gone]) as d:
            item = asyncio.create_task(d.submit(named("x"), age=0))
            await asyncio.sleep(1000)
            assert not item.done()
            d.join(late)
            return (await item).place

    assert run_virtual(work()) == "late@node"


def test_older_searches_go_first():
    async def work():
        replica = encoder()
        async with Dispatcher.open([replica]) as d:
            busy = asyncio.create_task(d.submit(named("busy"), age=9))
            await asyncio.sleep(0.1)
            rest = [asyncio.create_task(d.submit(named(str(age)), age=age)) for age in (5, 3, 4)]
            await asyncio.gather(busy, *rest)
        return [c.request.what.text for c in replica.calls]

    assert run_virtual(work()) == ["busy", "3", "4", "5"]


@pytest.mark.parametrize("ahead", [0, 1])
def test_where_memory_runs_out_fewer_run_from_then_on(ahead):
    async def work():
        replica = encoder(slots=4, ahead=ahead)
        replica.fault = lambda call: OutOfMemory("full") if replica.running > 2 + ahead else None
        async with Dispatcher.open([replica]) as d:
            await asyncio.gather(*(d.submit(CALL, age=i) for i in range(40)))
            return len(replica.calls), d.tally.slots, d.tally.busy

    calls, slots, busy = run_virtual(work())
    assert calls == 40 + 2  # of the first ones, two went back
    assert (slots, busy) == ({"encoder": 2}, {"encoder": 0})


def test_an_item_that_fits_nowhere_is_given_up_though_others_wait_there():
    replica = encoder(ahead=1, fault=lambda call: OutOfMemory("full") if call.request.what.text == "big" else None)
    big, *others = dispatch([replica], named("big"), *[CALL] * 5)
    assert isinstance(big, OutOfMemory)
    assert all(isinstance(o, Answer) for o in others)


def test_an_item_that_does_not_fit_alone_is_given_up():
    b = encoder("b")
    b.fault = lambda call: OutOfMemory("full") if call.request.what.text == "big" else None
    big, *others = dispatch([b], named("big"), named("x"), named("y"))
    assert isinstance(big, OutOfMemory)
    assert str(big) == "encode: full, 3 times while it ran alone"
    assert all(isinstance(o, Answer) for o in others)


def test_a_node_that_took_idle_replicas_with_it_poisons_no_item():
    """Nobody has noticed that those are gone; an item that comes to them did not begin there."""
    gone = [encoder(n, gone=True, revives_after=10**6) for n in "abcde"]
    busy = encoder("busy", slots=2)

    async def work():
        async with Dispatcher.open([*gone, busy]) as d:
            long = asyncio.create_task(d.submit(named("long"), age=0, place="busy@node"))
            await asyncio.sleep(0)
            answer = await d.submit(named("x"), age=1)
            await long
            return answer.place, d.tally.deaths

    assert run_virtual(work()) == ("busy@node", 5)


def test_an_item_that_gives_up_the_replica_kept_for_it_lets_others_in_at_once():
    async def work():
        a = encoder(slots=2, seconds=100)
        async with Dispatcher.open([a]) as d:
            long = asyncio.create_task(d.submit(named("long"), age=0))
            alone = asyncio.create_task(d.submit(named("alone"), age=1, avoid="elsewhere"))
            other = asyncio.create_task(d.submit(named("other"), age=2))
            await asyncio.sleep(1)
            assert a.running == 1  # the other slot is kept free
            alone.cancel()
            await asyncio.gather(long, other)
            return asyncio.get_running_loop().time()

    assert run_virtual(work()) == 101


def test_an_item_that_avoids_a_replica_waits_for_another():
    async def work():
        a, b = encoder("a"), encoder("b", seconds=50)
        async with Dispatcher.open([a, b]) as d:
            busy = asyncio.create_task(d.submit(named("long"), age=0, place="b@node"))
            await asyncio.sleep(0)
            await d.submit(named("doubted"), age=1, avoid="a@node")
            await busy
        async with Dispatcher.open([a]) as d:
            await d.submit(named("here then"), age=1, avoid="a@node")
        return [[c.request.what.text for c in r.calls] for r in (a, b)]

    assert run_virtual(work()) == [["here then"], ["long", "doubted"]]


def test_items_go_ahead_to_a_busy_replica_and_the_tally_counts_slots():
    async def work():
        replica = encoder(slots=2, ahead=1)
        async with Dispatcher.open([replica]) as d:
            tasks = [asyncio.create_task(d.submit(CALL, age=i)) for i in range(6)]
            await asyncio.sleep(0.5)
            seen = replica.running, d.tally.busy["encoder"]
            await asyncio.gather(*tasks)
            return seen, replica.most_running, d.tally.busy["encoder"]

    assert run_virtual(work()) == ((3, 2), 3, 0)


def test_an_item_that_went_ahead_to_a_replica_that_dies_is_not_lost():
    replica = encoder(ahead=1, fault=dies("poison"))
    poisoned, *others = dispatch([replica], named("poison"), named("a"), named("b"))
    assert isinstance(poisoned, PoisonousItem)
    assert all(isinstance(o, Answer) for o in others)


def test_a_kind_is_retired_only_while_no_item_needs_it():
    async def work():
        async with Dispatcher.open([encoder(), encoder("f")]) as d, asyncio.TaskGroup() as tasks:
            running = tasks.create_task(d.submit(CALL, age=0))
            await asyncio.sleep(0.5)
            early = d.retire("encoder")
            assert isinstance(await running, Answer) and isinstance(await d.submit(CALL, age=0), Answer)
            return early, d.retire("encoder"), dict(d.tally.slots), dict(d.tally.busy)

    assert run_virtual(work()) == (False, True, {"encoder": 0}, {"encoder": 0})


def test_what_restarts_or_joins_after_its_kind_was_retired_is_not_used():
    slow, lost = encoder("slow", revives_after=50.0), encoder("lost", revives_after=None)
    slow.gone = lost.gone = True

    async def work():
        async with Dispatcher.open([slow, lost, encoder("good")]) as d:
            await asyncio.gather(*(d.submit(named(n), age=0) for n in ("x", "y", "z")))
            assert d.retire("encoder")
            d.join(late := encoder("late"))
            await asyncio.sleep(100)
            with pytest.raises(
                NoReplica, match=r"^encode: no encoder is left: none was foreseen; fleet.encoders.cache"
            ):
                await d.submit(CALL, age=0)
            return late.calls, d.tally.slots["encoder"], slow.gone

    calls, slots, gone = run_virtual(work())
    assert not calls and slots == 0 and gone
