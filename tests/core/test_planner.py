"""The planner's rehearsals, on fakes: closed forms, the same as a run of fakes, and what is said about fleets."""

import asyncio
import json
import math
import os
import signal
import tempfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, GLIMPSES, config, session

from raysearch.config import config as configuration
from raysearch.engine.protocol import Call, Denoise, Start
from raysearch.errors import ConfigError
from raysearch.planner import against, report, traced
from raysearch.planner.facts import Facts
from raysearch.planner.fleets import seconds, tried
from raysearch.planner.forecast import Forecast, Stage, sentences
from raysearch.planner.rehearsal import rehearse
from raysearch.planner.rewards import MadeUp, recorded
from raysearch.planner.timed import Shared, TimedDenoiser
from raysearch.planner.timings import KEY, NUMBERS, Timings, by_hand, merged, read
from raysearch.recipe.origins import Noise
from raysearch.testing import FakeBackend, FakeFleet, fake_sampler, run_virtual, virtual_now

SINGLE = {"policy": {"name": "single"}}
FLEET = {"backend": "local"}


def prepared(**values):
    """A config with a fleet in one process, and its plan."""
    c = config(**{"fleet": FLEET} | values)
    return c, FakeBackend().prepare(c, configuration.arms(c))


def went(timings, facts=None, draws=None, **values):
    c, plan = prepared(**values)
    return rehearse(c, plan, facts or Facts(), timings, draws or MadeUp())


def stage(timings, facts=None, most=1, **values):
    c, plan = prepared(**values)
    return Stage(plan, facts or Facts(), timings, lambda i: MadeUp(i, most), most), c


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7])
def test_one_denoiser_takes_its_steps_one_after_the_other(n):
    timings = Timings({1: 0.5}, decode=3, finish=2, other_rewards=1, load={"denoiser": 20, "scorer": 10})
    r = went(timings, prompts=[f"p {i}" for i in range(n)], **SINGLE)
    assert r.startup == 30  # one after the other, in one process
    assert r.wall == pytest.approx(n * 10 * 2 * 0.5 + 3 + 2 + 1)  # the last video is written after the last step
    assert r.nfe == r.charged == n * 20 and r.again == 0
    assert r.use["denoiser"].busy == pytest.approx(n * 10 / r.wall)
    assert r.use["scorer"].busy == pytest.approx(n * 6 / r.wall)
    assert r.hours == pytest.approx(2 * (r.wall + 30) / 3600 + r.use["encoder"].hours)


def test_slots_share_a_denoiser():
    timings = Timings({1: 0.5, 2: 0.8})
    fleet = FLEET | {"denoisers": {"slots": 2}}
    r = went(timings, prompts=["a"], policy={"name": "best_of_n", "n": 2}, fleet=fleet)
    assert r.wall == pytest.approx(10 * 2 * 0.8)
    assert r.seconds["denoise"] == pytest.approx(r.wall)


def test_work_ahead_is_rehearsed():
    policy = {"name": "halving", "n": 4, "schedule": [3, 6]}
    timings, fleet = Timings({1: 0.5}, decode=2), FLEET | {"denoisers": {"replicas": 4}}
    off, on = (went(timings, prompts=["a"], policy=policy, fleet=fleet | {"speculate": s}) for s in (False, True))
    assert on.wall < 0.9 * off.wall
    assert on.nfe > off.nfe and on.charged == off.charged
    assert [a.nfe_run for a in on.arms.values()] == [a.nfe_run for a in off.arms.values()]


@pytest.mark.parametrize(("cores", "asked", "slower"), [(None, 0.5, 1), (2, 0.5, 1), (1, 0.5, 2), (1, 1.0, 2)])
def test_replicas_share_the_cores_of_a_machine(cores, asked, slower):
    """Two denoisers, each with one of two candidates: on a single core both take twice as long.

    A fleet in one process is on one machine, also where its replicas ask for more CPUs than that has.
    """
    pool = {"replicas": 2, "slots": 1, "num_cpus": asked}
    others = {"scorers": {"replicas": 1, "num_cpus": 0}, "encoders": {"num_cpus": 0}}
    r = went(
        Timings({1: 0.5}, cores=cores),
        prompts=["a", "b"],
        seeds=[0],
        fleet=FLEET | {"denoisers": pool} | others,
        **SINGLE,
    )
    assert r.wall == pytest.approx(slower * 10 * 2 * 0.5, rel=0.01)


def test_a_plan_that_is_ended_leaves_nothing_on_disk(tmp_path, monkeypatch):
    """The signal comes while code of a policy may run, in which it is no failure of that."""
    asked = []

    class Ending(MadeUp):
        def components(self, x, reward):
            assert list(tmp_path.iterdir())
            if not asked:
                os.kill(os.getpid(), signal.SIGTERM)
            asked.append(x)
            return super().components(x, reward)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or else the signal would end the tests
    try:
        with pytest.raises(KeyboardInterrupt):
            went(Timings({1: 0.5}), draws=Ending(), policy={"name": "best_of_n", "n": 2})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


def test_a_leg_joins_between_two_steps():
    """Steps of one leg take 2 s and of two 3 s; the second leg comes at 3 s and joins at 4 s."""
    shared = Shared(Timings({1: 1.0, 2: 1.5}), Facts(), {}, frozenset())
    denoiser = TimedDenoiser("d", "denoiser", "node", 2, 0, shared)
    call = Call(Denoise(fake_sampler(10), b"", 0, 10, start=Start(Noise(0, 0), 0)))

    async def ended(after):
        await asyncio.sleep(after)
        answer = await denoiser.run(call)
        return virtual_now(), answer.reply

    async def both():
        return await asyncio.gather(ended(0), ended(3))

    (first, one), (second, two) = run_virtual(both())
    assert first == pytest.approx(4 + 8 * 3)
    assert second == pytest.approx(28 + 2 * 2)
    assert one.seconds == pytest.approx(4 + 12) and two.seconds == pytest.approx(12 + 4)
    assert one.nfe == two.nfe == 20 and denoiser.busy == pytest.approx(32)


def test_a_leg_that_is_cancelled_counts_no_more_than_in_a_run():
    """A denoiser tells what it ran in its answer, and one that is cancelled gives none."""
    shared = Shared(Timings({1: 1.0}), Facts(), {}, frozenset())
    denoiser = TimedDenoiser("d", "denoiser", "node", 1, 0, shared)
    call = Call(Denoise(fake_sampler(10), b"", 0, 10, start=Start(Noise(0, 0), 0)))

    async def both():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(denoiser.run(call), 5)
        cancelled = shared.nfe
        return cancelled, (await denoiser.run(call)).reply.nfe

    assert run_virtual(both()) == (0, 20) and shared.nfe == 20


def test_a_scorer_computes_for_one_item_at_a_time_and_waits_for_many():
    fleet = FLEET | {"denoisers": {"slots": 4}, "scorers": {"slots": 4}}
    best = {"policy": {"name": "best_of_n", "n": 4}, "prompts": ["a"], "fleet": fleet}
    timings = Timings({1: 1e-9}, other_rewards=5)
    assert went(timings, **best).wall == pytest.approx(4 * 5 + 5)  # and the judge of the winner
    assert went(timings, Facts(waiting=frozenset(["quality"])), **best).wall == pytest.approx(5 + 5)


def test_replicas_beyond_min_join_later():
    timings = Timings({1: 0.5}, load={"denoiser": 7})
    pool = {"denoisers": {"replicas": {"min": 1, "max": 2}}}
    c, plan = prepared(prompts=["a", "b", "c", "d"], fleet=pool, **SINGLE)
    slow, fast = (rehearse(c, plan, Facts(), timings, MadeUp(), arrival=a) for a in (1000.0, 0.0))
    assert slow.wall == pytest.approx(40) and slow.use["denoiser"].replicas == 1
    assert fast.wall == pytest.approx(7 + 2 * 10) and fast.use["denoiser"].replicas == 2  # it comes after 7 s


def test_evictions_are_run_again():
    """Latents of 1 MB: best-of-8 whose store holds two makes what it cannot keep once more."""
    heavy = Facts(state=lambda sampler, step, velocity: 1_000_000)
    values = {"policy": {"name": "rgrp", "schedule": [2, 5, 7]}, "prompts": ["a", "b"]}
    timings = Timings({1: 0.5})
    ample, tight = (went(timings, heavy, fleet=FLEET | {"store_gb": gb}, **values) for gb in (1.0, 0.002))
    assert ample.again == 0 and tight.again > 0 and tight.nfe == ample.nfe + tight.again
    assert tight.evicted > 0 and tight.store_most <= 3e6 and tight.charged == ample.charged


# -- the same as a run of fakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arms", [ARMS, GLIMPSES])
@pytest.mark.parametrize(("denoisers", "scorers"), [(1, 1), (3, 2)])
def test_a_rehearsal_goes_as_the_run_whose_rewards_it_has(tmp_path, arms, denoisers, scorers):
    """With the same seconds on one slot, the time is the same, and with the run's rewards so is every NFE.

    Where several replicas are free at the same moment, another may be first in line, which moves the end a little.
    """
    pools = {"denoisers": {"replicas": denoisers}, "scorers": {"replicas": scorers}}
    values = {"arms": arms, "seeds": [0, 1], "fleet": FLEET | pools, "rewards": {"search": {"name": "tiny"}}}
    ran = session(tmp_path / "run", FakeBackend(FakeFleet(denoisers, 1, scorers)), **values)

    async def whole():
        await ran.run([])
        return virtual_now()

    end = run_virtual(whole())
    c, plan = prepared(**values)
    timings = Timings({1: 0.5}, decode=1, encode=1, rewards={"glimpse": 1.0})
    draws = recorded(tmp_path / "run", plan, 0, 1)
    r = rehearse(c, plan, Facts(), timings, draws)
    assert draws.resampled == 0 and draws.asked > 0
    assert r.wall == pytest.approx(end - ran.progress.started, rel=0.05 if denoisers > 1 else 1e-9)
    assert r.nfe == ran.progress.engine.nfe
    assert {n: a.nfe for n, a in r.arms.items()} == {n: t.cost.nfe for n, t in ran.progress.arms.items()}
    done = against.actual(tmp_path / "run")
    rows = {row["what"]: row for row in against.rows(Forecast("", c, (r,)), done)}
    assert rows["NFE shared"]["off"] == rows["NFE alone"]["off"] == 0
    assert rows["wall"]["off"] == pytest.approx(0, abs=0.05 if denoisers > 1 else 1e-9)


def test_rewards_of_another_run_keep_to_one_trajectory(tmp_path):
    """Other seeds are asked about: each trajectory has the rewards of one recorded trajectory at the nearest steps."""
    arms = [a for a in ARMS if a["name"] == "rgrp"]
    values = {"arms": arms, "fleet": FLEET, "rewards": {"search": {"name": "tiny"}}}
    run_virtual(session(tmp_path / "run", **values).run([]))
    c, plan = prepared(**values | {"seeds": [7]})
    draws = recorded(tmp_path / "run", plan, 0, 1)
    rehearse(c, plan, Facts(), Timings({1: 0.5}), draws)
    assert draws.resampled == draws.asked > 0
    known = {v for those in draws.rollouts.values() for r in those for _, names in r.points for v in names.values()}
    assert known and set(draws.rollouts) == {"a", "b"}


def test_made_up_rewards_of_several_draws_span_what_a_policy_may_cost():
    values = {"policy": {"name": "sequential", "n": 6, "looks": [3], "bars": [0.0], "enough": 1.0}, "prompts": ["a"]}
    s, c = stage(Timings({1: 0.5}), most=9, seeds=list(range(6)), **values)
    f = s.forecast("1 + 1", c)
    low, high = f.spans(lambda r: r.nfe)
    assert low < f.mid(lambda r: r.nfe) < high
    assert any("--rewards" in line for line in sentences(s, [f], True))
    assert not sentences(s, [f], False)
    assert len(f.runs) == 9
    plain, c = stage(Timings({1: 0.5}), most=9, **SINGLE)
    assert len(plain.forecast("", c).runs) == 1  # rewards change nothing


# -- fleets, sentences, and the table ----------------------------------------------------------------------------------


def test_fleets_are_all_ways_to_choose():
    c, _ = prepared()
    found = tried(c, ["scorers=1,2", "denoisers=8,64"])
    assert [name for name, _ in found] == [" 8 + 1", "64 + 1", " 8 + 2", "64 + 2"]
    assert [f.fleet.denoisers.most for _, f in found] == [8, 64, 8, 64]
    ((name, f),) = tried(c, ["slots=4", "store_gb=0.5"])
    assert name == "1 + 1, slots 4, store_gb 0.5" and (f.fleet.denoisers.slots, f.fleet.store_gb) == (4, 0.5)
    assert [name for name, _ in tried(c, [])] == ["1 + 1"]


@pytest.mark.parametrize("text", ["90m", "1h30m", "1.5h", "5400s", "1h30min"])
def test_times(text):
    assert seconds("--deadline", text) == 5400


@pytest.mark.parametrize("text", ["", "1", "h", "1 h", "1x", "-1h", "0s", "1h-", "1e3s"])
def test_no_times(text):
    with pytest.raises(ConfigError, match="--deadline"):
        seconds("--deadline", text)


def test_what_starves_what_and_what_one_more_would_save():
    """A reward takes as long as two rollouts, so two denoisers are half idle beside one scorer."""
    timings = Timings({1: 0.5}, other_rewards=20)
    pools = {"denoisers": {"replicas": 2}}
    values = {"policy": {"name": "best_of_n", "n": 8}, "prompts": ["a", "b", "c", "d"], "fleet": FLEET | pools}
    s, c = stage(timings, **values)
    f = s.forecast("2 + 1", c)
    (line,) = [line for line in sentences(s, [f], False) if "starve" in line]
    assert line.startswith("scorers starve denoisers at 2 + 1: one more saves 4") and "of money" in line
    more, _ = stage(timings, **values | {"fleet": FLEET | pools | {"scorers": {"replicas": 2}}})
    two = more.forecast("2 + 2", replace(c, fleet=replace(c.fleet, scorers=replace(c.fleet.scorers, replicas=2))))
    lines = report.table([f, two], report.Bounds(price=3.0))
    assert "cheapest, fastest" in lines[2] and lines[1].count("<") == 1
    fits = report.fitting([f, two], report.Bounds(3.0, deadline=f.runs[0].total - 1, budget=100))
    assert fits == [f"fits deadline {report.duration(f.runs[0].total - 1)}: 2 + 2", "fits budget $100: 2 + 1; 2 + 2"]
    values = report.as_json([f, two], report.Bounds(3.0, 1.0, 1e6), [line], {}, {})
    assert json.loads(json.dumps(values))["fleets"][0]["fits_deadline"] is False


def test_what_one_more_saves_is_what_the_table_shows():
    """Of three draws the first is another than the median: the sentence has the median, as the table."""
    values = {"policy": {"name": "best_of_n", "n": 8}, "prompts": ["a", "b", "c", "d"]}
    fleets = [FLEET | {"denoisers": {"replicas": 2}} | {"scorers": {"replicas": n}} for n in (1, 2)]
    (s, one), (_, two) = [stage(Timings({1: 0.5}, other_rewards=20), **values | {"fleet": f}) for f in fleets]
    slow = s.forecast("2 + 1", one)
    usual = replace(slow.runs[0], wall=400 - slow.runs[0].startup)
    fast = replace(usual, wall=usual.wall - 300)
    f = Forecast("2 + 1", one, (usual, usual, usual))
    more = Forecast("2 + 2", two, (usual, fast, fast))
    (line,) = [line for line in sentences(s, [f, more], False) if "starve" in line and "at 2 + 1" in line]
    assert "one more saves 75% of time" in line


async def failing(ctx):
    """A policy of a user's, whose code raises where rewards are not from 0 to 1, as those of the dry run are."""
    xs = ctx.denoise(ctx.noise(4))
    if (await ctx.score(xs)).min() < 0:
        raise RuntimeError("no idea")
    return xs[0]


def test_a_policy_that_fails_is_told_of_and_ends_no_plan():
    s, c = stage(Timings({1: 0.5}), most=3, policy={"name": f"{__name__}:failing"}, prompts=["a", "b"], seeds=[0])
    f = s.forecast("1 + 1", c)
    (line,) = sentences(s, [f], False)
    assert line.startswith("2 searches fail at 1 + 1: ") and line.endswith("RuntimeError: no idea")


def test_a_full_store_is_said():
    heavy = Facts(state=lambda sampler, step, velocity: 990_000)
    fleet = FLEET | {"store_gb": 0.002}
    s, c = stage(Timings({1: 0.5}), heavy, policy={"name": "rgrp", "schedule": [2, 5, 7]}, fleet=fleet)
    f = s.forecast("1 + 1", c)
    again = f.runs[0].again / f.runs[0].nfe
    assert sentences(s, [f], False) == [f"1 + 1 reaches store_gb=0.002 and remakes {again:.0%} of its NFE"]


# -- timings -----------------------------------------------------------------------------------------------------------


def test_evaluations_lie_on_a_line_between_what_was_measured():
    t = Timings({1: 1.0, 2: 1.4, 4: 2.0})
    assert [t.evaluation(n) for n in (1, 2, 3, 4)] == pytest.approx([1.0, 1.4, 1.7, 2.0])
    assert t.evaluation(6) == pytest.approx(2.6)
    assert Timings({1: 1.0}).evaluation(3) == 3.0  # a device that is full with one


def test_what_is_given_by_hand_counts_over_a_file():
    base = Timings({1: 1.0, 2: 1.5}, decode=2, rewards={"quality": 4.0}, finish=1)
    assert by_hand(base, 2, None, None, None) == base
    mixed = by_hand(base, 2, 3.0, None, 5.0)
    assert (mixed.forward, mixed.decode, mixed.finish, mixed.reward("quality")) == ({1: 1.5}, 2, 1, 5.0)


def test_numbers_of_a_file_that_cannot_be(tmp_path):
    file = tmp_path / "a.json"
    seconds = dict.fromkeys(NUMBERS, 1.0) | {"forward": {"1": 1.0}, "load": {}, "rewards": {}}
    entry = dict.fromkeys(KEY, "x") | {"seconds": seconds, "state": {}, "peak": {"denoiser": 5}, "video": 3, "date": ""}
    merged(file, entry)
    assert read(file, {"model": "x"}, "x").peak == {"denoiser": 5}
    endless = ({"cores": math.inf}, {"video": math.inf}, {"state": {"whole": 10**400}})
    for wrong in ({"peak": {"denoiser": -1}}, {"state": {"whole": -1}}, {"video": -3}, {"cores": 0}, *endless):
        merged(file, entry | wrong)
        with pytest.raises(ConfigError, match=r"--timings: '.*a.json' is not allowed; it must be a file whose entries"):
            read(file, {"model": "x"}, "x")


@pytest.mark.parametrize("entry", [" ".join((*KEY, "seconds")), [*KEY, "seconds"], {k: [] for k in (*KEY, "seconds")}])
def test_a_file_whose_entries_are_none(tmp_path, entry):
    (tmp_path / "a.json").write_text(json.dumps({"timings": 1, "entries": [entry]}))
    with pytest.raises(ConfigError, match="it must be a file that `raysearch calibrate` has written, or the folder"):
        read(tmp_path / "a.json", {}, "x")


def test_durations_are_drawn_from_their_quantiles():
    shared = Shared(Timings({1: 1.0}, spread={"denoise": [0.5, 1.0, 1.5]}), Facts(), {}, frozenset())
    drawn = np.array([shared.factor("denoise") for _ in range(2000)])
    assert 0.5 <= drawn.min() < 0.6 and 1.4 < drawn.max() <= 1.5 and abs(drawn.mean() - 1) < 0.02
    assert shared.factor("look") == 1.0


def test_timings_of_a_trace(tmp_path):
    """Two replicas: one runs two legs side by side, the other one leg alone; then a look and a video."""
    item = {"session": 0, "waited": 0.0, "node": "n", "search": 0, "nbytes": 1, "ended": "done"}

    def denoise(replica, start, end, slots, seconds):
        own = {"kind": "denoiser", "what": "denoise", "replica": replica, "slots": slots, "seconds": seconds}
        return item | own | {"start": start, "end": end, "nfe": 20, "evaluations": 10, "decodes": 0}

    def looked(what, start, end, seconds):
        own = {"kind": "scorer", "what": what, "replica": "s", "slots": 1, "seconds": seconds}
        return item | own | {"start": start, "end": end, "nfe": 0, "evaluations": 1, "decodes": 1}

    rows = [
        denoise("a", 0.0, 16.0, 1, 8.0),
        denoise("a", 0.0, 16.0, 2, 8.0),
        denoise("b", 0.0, 10.0, 1, 10.0),
        looked("look", 16.0, 19.0, 2.5),
        looked("finish", 20.0, 26.0, 4.0),
        denoise("b", 30.0, 99.0, 1, None) | {"ended": "died"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "trace.parquet")
    _, plan = prepared()
    t = traced.read(tmp_path, plan)
    assert t.forward == pytest.approx({1: 0.5, 2: 0.8})
    assert (t.decode, t.finish, t.reward("quality"), t.spread) == (2.5, 3.5, 0.0, {})
    columns = {k: np.array(v) for k, v in pq.read_table(tmp_path / "trace.parquet").to_pydict().items()}
    assert traced.busy_seconds(columns, "denoiser") == (16 + 10 + 69, 2)
