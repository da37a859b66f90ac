"""Replicas that die, come back, hang or do not start, in virtual time: the actors are fakes, and there is no Ray."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors.cluster import fleet as ray_fleet
from actors.cluster import head
from actors.cluster.fleet import RayFleet
from actors.cluster.replica import STARTS, RayGang, RayReplica
from raysearch.errors import NoReplica, ReplicaDied
from raysearch.testing import run_virtual, virtual_now

TIMEOUT = 60


class Actor:
    """Its methods take these seconds, or raise these errors; ready says that it is on this node."""

    def __init__(self, node="a", ready=0.0, pulse=(0.0, 0), listen=0.0, follow=1e9, lead=0.0):
        self.node, self.killed = node, False
        self._ends = {"ready": ready, "pulse": 0.0, "listen": listen, "follow": follow, "lead": lead, "watch": 0.0}
        self._answers = {"ready": (node, f"on {node}"), "pulse": pulse, "listen": ("host", 1)}
        if not isinstance(pulse, tuple):
            self._ends["pulse"] = pulse

    def __getattr__(self, method):
        async def call(*arguments):
            end = self._ends[method]
            if isinstance(end, Exception):
                raise end
            until = virtual_now() + end
            while virtual_now() < until:
                await asyncio.sleep(min(1, until - virtual_now()))
                if self.killed:
                    raise ActorDiedError
            return self._answers.get(method)

        return SimpleNamespace(remote=lambda *arguments: asyncio.ensure_future(call(*arguments)))


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def kill(actor, no_restart=True):
        actor.killed = True

    monkeypatch.setattr(ray_fleet, "time", SimpleNamespace(monotonic=virtual_now))
    monkeypatch.setattr(ray_fleet.ray, "kill", kill)


@asynccontextmanager
async def fleet(lines):
    async with asyncio.TaskGroup() as tasks:
        made = RayFleet(TIMEOUT, tasks, lines.append)
        yield made
        made.stop()


def test_how_long_it_has_been_away_is_counted_from_each_time_anew():
    async def work():
        async with fleet([]) as f:
            r = replica(f, [[Actor()], *([Actor(ready=50)] for _ in range(3))])
            await r.ready()
            for _ in range(3):
                await r.restart()
                await asyncio.sleep(500)
            return bool(f._serving["denoiser"])

    assert run_virtual(work())


def test_a_gang_that_is_given_up_starts_once_more_and_not_twice_at_a_time():
    async def work():
        lines = []
        async with fleet(lines) as f:
            slow, back = [Actor(lead=1000), Actor()], [Actor(lead=10), Actor()]
            r = replica(f, [[Actor(), Actor()], slow, back], RayGang)
            await r.ready()
            with pytest.raises(ReplicaDied, match="in service for"):
                await r.restart()
            await anext(f.arrivals())
            await asyncio.sleep(2000)
            return r.actors == back, [a.killed for a in (*slow, *back)]

    assert run_virtual(work()) == (True, [True, True, False, False])


def replica(of, actors, made=RayReplica, name="denoiser-0"):
    """One that is launched on these actors, a list each time."""
    return made(name, "denoiser", 1, iter(actors).__next__, of)


def test_one_that_comes_back_elsewhere_says_so_and_serves():
    async def work():
        lines = []
        async with fleet(lines) as f:
            r = replica(f, [[Actor()], [Actor("b", ready=50)]])
            await r.ready()
            await r.restart()
            return lines, r.node, virtual_now()

    assert run_virtual(work()) == (["denoiser-0 moved to on b"], "b", pytest.approx(50))


def test_one_that_stays_away_is_given_up_once_none_has_served_for_long_and_joins_when_it_is_back():
    async def work():
        lines = []
        async with fleet(lines) as f:
            r = replica(f, [[Actor()], [Actor(ready=500)], [Actor(ready=500)]])
            other = replica(f, [[Actor()]], name="denoiser-1")
            await r.ready()
            await other.ready()
            away = asyncio.create_task(r.restart())
            await asyncio.sleep(100)
            assert not away.done()  # the other does its work
            f.left(other)
            with pytest.raises(ReplicaDied, match=r"no denoiser has been in service for fleet.timeout_s, 60 s"):
                await away
            given_up = virtual_now()
            joined = await anext(f.arrivals())
            return given_up, joined is r, lines

    given_up, joined, lines = run_virtual(work())
    assert 160 <= given_up < 221  # it looks again every 60 seconds
    assert joined and lines == ["on a: denoiser-0 joined"]


@pytest.mark.parametrize(
    ("pulse", "hangs"),
    [
        ((59.0, 5), False),
        ((61.0, 5), True),
        ((179.0, 0), False),  # the first step may compile
        ((181.0, 0), True),
        (61.0, True),  # it does not answer at all
        (ActorDiedError(), False),  # that is not hanging
    ],
)
def test_what_hangs_is_killed_while_it_serves(pulse, hangs):
    async def work():
        async with fleet([]) as f:
            r = replica(f, [[Actor(pulse=pulse)]])
            await r.ready()
            f.background(f._watch(r))
            await asyncio.sleep(75)
            found = r.actor.killed
            r.actor.killed = False
            f.left(r)
            await asyncio.sleep(500)
            return found, r.actor.killed

    found, later = run_virtual(work())
    assert found is hangs and (not later or not isinstance(pulse, tuple))


def test_an_elastic_one_that_cannot_start_is_reported_and_the_run_goes_on():
    async def work():
        lines = []
        async with fleet(lines) as f:
            lost = [[Actor(ready=ActorDiedError())] for _ in range(STARTS)]
            await f.start([replica(f, [[Actor()]])], [replica(f, lost, name="denoiser-1")])
            await asyncio.sleep(1)
            return lines

    here, there = run_virtual(work())
    assert here == "on a: denoiser-0"
    assert there.startswith("denoiser-1 does not start: a process was lost 3 times while it loaded: ")


def test_what_raises_as_it_is_built_is_built_once():
    async def work():
        error = RayTaskError(
            "__init__", "Traceback ...\nValueError: no such weights", ValueError("no such weights"), actor_id="00"
        )
        async with fleet([]) as f:
            with pytest.raises(ReplicaDied, match="denoiser-0 does not start: ValueError: no such weights"):
                await replica(f, [[Actor(ready=ActorDiedError(error))]]).ready()

    run_virtual(work())


@pytest.mark.parametrize(("losses", "starts"), [(STARTS - 1, True), (STARTS, False)])
def test_a_gang_may_lose_ranks_while_it_starts_but_not_for_ever(losses, starts):
    async def work():
        lost = [[Actor(lead=ActorDiedError()), Actor()] for _ in range(losses)]
        good = [Actor("a"), Actor("b")]
        async with fleet([]) as f:
            r = replica(f, [*lost, good], RayGang)
            if starts:
                await r.ready()
                assert r.actors == good and r.where == "on a + on b" and f._serving["denoiser"]
            else:
                with pytest.raises(ReplicaDied, match="denoiser-0 does not start"):
                    await r.ready()
                assert r.actors == [] and not f._serving["denoiser"]
            r.close()
            return all(a.killed for gang in lost for a in gang)

    assert run_virtual(work())


def test_a_gang_says_which_fault_of_a_follower_ended_it_and_does_not_try_again():
    async def work():
        bad = RayTaskError("follow", "ValueError: no such weights", ValueError("no such weights"))
        ranks = [Actor(lead=ActorDiedError()), Actor(follow=bad)]
        async with fleet([]) as f:
            with pytest.raises(ReplicaDied, match="no such weights"):
                await replica(f, [ranks], RayGang).ready()

    run_virtual(work())


@pytest.mark.parametrize("joining", [False, True])
def test_one_that_is_released_while_it_starts_does_not_start_again_and_nothing_is_said(monkeypatch, joining):
    removed = []
    monkeypatch.setattr(ray_fleet, "remove_placement_group", removed.append)

    async def work():
        lines, actors = [], [Actor(), Actor(ready=1000), Actor()]
        async with fleet(lines) as f:
            r = replica(f, [[a] for a in (actors[1:] if joining else actors)])
            other = replica(f, [[Actor()]], name="scorer-0")
            other.kind = "scorer"
            await other.ready()
            f.tenants = [(r, "its group"), (other, "another group")]
            if joining:
                f.expect(r)
            else:
                await r.ready()
                f.background(raises(r.restart()))
            await asyncio.sleep(10)
            await f.release("denoiser")
            await asyncio.sleep(2000)
            assert r.actors == [] and not f._serving["denoiser"] and f._serving["scorer"]
            return lines, [a.killed for a in actors], [t for t, _ in f.tenants] == [other]

    lines, killed, rest = run_virtual(work())
    assert (lines, killed[1:], rest, removed) == ([], [True, False], True, ["its group"])


async def raises(work):
    with pytest.raises(ReplicaDied, match="denoiser-0 was released"):
        await work


def test_a_gang_that_is_closed_while_it_starts_leaves_no_actor():
    async def work():
        ranks = [Actor(lead=1000), Actor()]
        async with fleet([]) as f:
            r = replica(f, [ranks], RayGang)
            coming = asyncio.create_task(r.ready())
            await asyncio.sleep(10)
            coming.cancel()
            await asyncio.wait([coming])
            r.close()
            return [a.killed for a in ranks]

    assert run_virtual(work()) == [True, True]


@pytest.mark.parametrize(
    ("away", "node_ends", "line"),
    [
        ((7, 36), 1e9, None),  # a head that is started again in time
        ((7, 1e9), 1e9, "the fleet is lost: the head of the Ray cluster, 10.0.0.1:6379, has not answered for 30 s"),
        ((1e9, 1e9), 7, "the fleet is lost: Ray's node of this process has ended (0123abcd)"),
    ],
)
def test_a_cluster_that_is_lost_is_found_within_a_minute(monkeypatch, away, node_ends, line):
    """Ray ends the driver, without a word of ours, when its head has been away for a minute."""

    async def here(work, *arguments):
        return work(*arguments)

    context = SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: "0123abcd4567")
    nodes = lambda: [{"NodeID": "0123abcd4567", "Alive": virtual_now() < node_ends}]  # noqa: E731
    monkeypatch.setattr(head, "ray", SimpleNamespace(get_runtime_context=lambda: context, nodes=nodes))
    monkeypatch.setattr(head, "time", SimpleNamespace(monotonic=virtual_now))
    monkeypatch.setattr(head, "answers", lambda address: not away[0] < virtual_now() < away[1])
    monkeypatch.setattr(head.asyncio, "to_thread", here)

    async def work():
        try:
            async with asyncio.timeout(300):
                await head.standing()
        except NoReplica as error:
            return str(error), virtual_now()
        except TimeoutError:
            return None, 0.0

    found, at = run_virtual(work())
    assert found == line and at < 45


def test_no_actor_is_started_or_killed_while_the_head_is_away(monkeypatch):
    """Ray would hold up the driver until the head is back, and end it after a minute."""

    async def here(work, *arguments):
        return work(*arguments)

    monkeypatch.setattr(ray_fleet, "answers", lambda address: not 10 < virtual_now() < 35)
    monkeypatch.setattr(ray_fleet.asyncio, "to_thread", here)

    async def work():
        async with fleet([]) as f:
            f.head = "10.0.0.1:6379"
            r = replica(f, [[first := Actor()], [Actor("b")]])
            await r.ready()
            await asyncio.sleep(20)
            coming = asyncio.create_task(r.ready())
            await asyncio.sleep(10)
            assert not first.killed and r.actors == [first]
            await coming
            return first.killed, r.node, virtual_now()

    killed, node, at = run_virtual(work())
    assert killed and node == "b" and 35 <= at <= 40
