"""What plans say, and the parts of rehearsals by themselves: each number is worked out by hand."""

from dataclasses import replace

import pytest
from fakes import config

from raysearch.config import config as configuration
from raysearch.engine.protocol import Call, Compare, Denoise, Encode, Finish, Look, Outputs, Start, Text
from raysearch.planner import against, report
from raysearch.planner.facts import Facts
from raysearch.planner.forecast import Forecast, Stage, sentences, without
from raysearch.planner.rehearsal import ArmCost, Rehearsed, Use
from raysearch.planner.report import Bounds
from raysearch.planner.rewards import MadeUp
from raysearch.planner.timed import Made, Shared, TimedDenoiser, TimedEncoder, TimedScorer
from raysearch.planner.timings import Timings
from raysearch.recipe.origins import Noise
from raysearch.testing import FakeBackend, fake_sampler, run_virtual, virtual_now

BEST = {"policy": {"name": "best_of_n", "n": 2}, "prompts": ["a"], "seeds": [0]}


def stage(timings, most=1, **values):
    c = config(**{"fleet": {"backend": "local"}} | values)
    plan = FakeBackend().prepare(c, configuration.arms(c))
    return Stage(plan, Facts(), timings, lambda i: MadeUp(i, most), most), c


def rehearsed(total=100.0, hours=2.0, nfe=1000, denoisers=(1, 0.9), scorers=(1, 0.4), searches=4, **more):
    """A rehearsal in which only denoisers have GPUs; `denoisers` and `scorers` are a number and its busy share."""
    use = {"denoiser": Use(*denoisers, hours, 1.0), "scorer": Use(*scorers, 5.0, 0.0)}
    arms = {"x": ArmCost(searches, 2 * nfe, nfe)}
    rest = {"again": 0, "evicted": 0, "store_most": 0, "candidates": 6, "failed": {}, "seconds": {}, "cpu": 0.0}
    return Rehearsed(10.0, total - 10, nfe=nfe, use=use, arms=arms, **{"straggling": 0.0} | rest | more)


def ranging(**values):
    """A forecast of five draws: 100 s and 1,000 NFE to 500 s and 5,000 NFE."""
    runs = [rehearsed(100.0 * i, nfe=1000 * i, store_most=10**6 * i) for i in range(1, 6)]
    return Forecast("1 + 1", config(**values), tuple(runs))


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0.1234, "0.123 s"), (89.4, "89.4 s"), (90, "1.5 min"), (3599, "60 min"), (3600, "1 h"), (86400, "24 h")),
        *((172800, "2 d"), (86400 * 1234, "1234 d")),
    ],
)
def test_seconds_have_the_unit_that_suits_them(seconds, said):
    assert report.duration(seconds) == said


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (999, "999 B"),
        (1000, "1 kB"),
        (2.5e6, "2.5 MB"),
        (999.4e6, "999 MB"),
        (999.7e6, "1 GB"),
        (3e9, "3 GB"),
        (4.2e12, "4.2 TB"),
    ],
)
def test_bytes_have_the_unit_that_suits_them(n, said):
    assert report.size(n) == said


def test_columns_of_numbers_end_at_the_right():
    assert report.aligned([["a", "bb", "c"], ["aa", "b", "cc"]]) == ["a   bb  c", "aa   b  cc"]


def test_a_table_has_medians_ranges_money_and_marks():
    fast = Forecast("2 + 1", config(), (rehearsed(90.0, 1200.0, denoisers=(2, 0.5), scorers=(1, 0.2)),))
    words = [line.split("  ") for line in report.table([ranging(), fast], Bounds(price=10.0))]
    assert [[w.strip() for w in line if w.strip()] for line in words] == [
        ["fleet", "wall", "GPU-h", "denoisers", "scorers", "NFE", "$10/GPU-h"],
        ["1 + 1", "5 min (2.33 min .. 7.67 min)", "2", "90% <", "40%", "3,000 (1,400 .. 4,600)", "$20", "cheapest"],
        ["2 + 1", "1.5 min", "1,200", "50% <", "20%", "1,000", "$12,000", "fastest"],
    ]


@pytest.mark.parametrize(("last", "spans"), [(1004.0, None), (1010.0, (1001.0, 1009.0))])
def test_draws_that_are_nearly_equal_have_no_range(last, spans):
    """p10 and p90 of two draws; half a percent between them is nothing."""
    f = Forecast("", config(), (rehearsed(1000.0), rehearsed(last)))
    assert f.spans(lambda r: r.total) == (spans and pytest.approx(spans))


def test_fleets_fit_where_nine_draws_of_ten_do():
    fleets = [ranging(), Forecast("2 + 1", config(), (rehearsed(90.0, 3.0),))]
    assert report.fitting(fleets, Bounds(10.0, 459, 25)) == [
        "fits deadline 7.65 min: 2 + 1",  # p90 of the first is 460 s
        "fits budget $25: 1 + 1",  # which costs $20, the second $30
    ]
    assert report.fitting(fleets, Bounds(deadline=1)) == ["fits deadline 1 s: none of these fleets"]


def test_a_plan_as_json():
    first, _ = report.as_json([ranging(), ranging()], Bounds(10.0, 459, 19), [], {}, {})["fleets"]
    three = {k: first[k] for k in ("wall_s", "hours", "nfe", "nfe_alone", "money")}
    assert {k: pytest.approx(v) for k, v in three.items()} == {
        "wall_s": [140, 300, 460],
        "hours": [2, 2, 2],
        "nfe": [1400, 3000, 4600],
        "nfe_alone": [2800, 6000, 9200],
        "money": [20, 20, 20],
    }
    assert (first["fits_deadline"], first["fits_budget"], first["hours_of"]) == (False, False, "GPU")
    (other,) = report.as_json([ranging()], Bounds(10.0, 461, 21), [], {}, {})["fleets"]
    assert (other["fits_deadline"], other["fits_budget"]) == (True, True)
    assert (first["busy"], first["bottleneck"]) == ({"denoiser": 0.9, "scorer": 0.4}, "denoiser")


def test_one_line_about_a_fleet():
    assert report.headline(ranging()) == (
        "plan: 5 min (2.33 min .. 7.67 min) on 1 + 1, 2 GPU-h, 3,000 (1,400 .. 4,600) NFE; denoisers run for 90% of it"
    )
    assert ", 1,234 GPU-h," in report.headline(Forecast("1 + 1", config(), (rehearsed(hours=1234.0),)))


def test_searches_are_counted_and_each_arm_has_the_nfe_of_one():
    f = ranging()
    assert report.counts(f) == "4 searches - NFE 6,000 (2,800 .. 9,200) alone, 3,000 (1,400 .. 4,600) shared"
    assert report.arm_lines(f) == ["x 1,500 (700 .. 2,300)"]


def test_what_a_run_needs():
    """Four searches of two chunks of 9 frames, and six candidates."""
    files = {"videos": True, "latents": True, "frames": True}
    s, c = stage(Timings({1: 0.5}), model={"path": "fake", "num_frames": 9}, output=files)
    c = replace(c, long=replace(c.long, chunks=2))
    facts = Facts(lambda sampler, step, velocity: 1000, {"denoiser": 4e9, "scorer": 1e9}, frame=50)
    measured = Timings({1: 0.5}, peak={"denoiser": 2_000_000_000}, video=7000)
    found = report.needs(ranging(), s.plan, facts, measured, c)
    disk = {"tables": 6 * 330 + 4 * 1500, "videos": 56_000, "latents": 8000, "frames": 3600}
    assert found["disk"] == disk and found["store"] == {"states": 5_000_000}
    assert report.needed(found, False) == [
        "a denoiser needs 6 GB (weights 4 GB, activations 2 GB)",
        "a scorer needs above 1 GB (weights 1 GB)",
        "disk 75.6 kB (tables 7.98 kB, videos 56 kB, latents 8 kB, frames 3.6 kB)",
        "latents in the object store 5 MB",
    ]
    assert "videos" not in report.needs(ranging(), s.plan, facts, Timings({1: 0.5}), c)["disk"]
    assert "videos" not in report.needs(ranging(), replace(s.plan, still=True), facts, measured, c)["disk"]
    assert "whose size is not known" in report.needed(found, True)[2]


# -- sentences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("denoiser", "scorer", "total", "hours", "said"),
    [
        (0.3, 0.9, 60.0, 2.4, "one more saves 40% of time, and costs 20% more money"),
        (0.3, 0.9, 60.0, 1.5, "one more saves 40% of time, 25% of money"),
        (0.3, 0.9, 96.0, 1.5, None),  # next to nothing
        (0.3, 0.45, 60.0, 1.5, None),  # no replica is busy
        (0.85, 0.9, 60.0, 1.5, None),  # both are
        (0.9, 0.3, 60.0, 1.5, None),  # denoisers starve nobody
    ],
)
def test_one_more_scorer_beside_those_that_starve_denoisers(denoiser, scorer, total, hours, said):
    s, c = stage(Timings({1: 0.5}))
    f = Forecast(" 1 + 1", c, (rehearsed(100.0, 2.0, denoisers=(1, denoiser), scorers=(1, scorer)),))
    fleet = replace(c.fleet, scorers=replace(c.fleet.scorers, replicas=2))
    more = Forecast("1 + 2", replace(c, fleet=fleet), (rehearsed(total, hours, denoisers=(1, 0.5), scorers=(2, 0.5)),))
    assert sentences(s, [f, more], False) == ([f"scorers starve denoisers at 1 + 1: {said}"] if said else [])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scorers": (10, 0.2)}, ["scorers run something for 20% of the time at 1 + 1: 3 would do"]),
        ({"scorers": (10, 0.3)}, []),
        ({"scorers": (1, 0.2)}, []),
        ({"straggling": 0.2, "searches": 40}, ["the last 5% of the searches take 20% of the time at 1 + 1"]),
        ({"straggling": 0.2, "searches": 39}, []),
        ({"straggling": 0.1, "searches": 40}, []),
        ({"store_most": 950_000_000, "again": 4}, []),  # of 1,000 NFE
        ({"store_most": 950_000_000, "again": 20}, ["1 + 1 reaches store_gb=1 and remakes 2% of its NFE"]),
        ({"store_most": 800_000_000, "again": 20}, []),
    ],
)
def test_what_a_fleet_wastes(values, said):
    s, c = stage(Timings({1: 0.5}))
    assert sentences(s, [Forecast("1 + 1", c, (rehearsed(**values),))], False) == said


def test_rewards_that_nobody_measured_are_named():
    """Without any that was measured, seconds were given by hand."""
    f = Forecast("1 + 1", config(), (rehearsed(),))
    for known, said in (({"other": 1.0}, True), ({"quality": 1.0}, False), ({}, False)):
        found = sentences(stage(Timings({1: 0.5}, rewards=known))[0], [f], True)
        assert found == ["nobody has measured how long quality takes: here it takes no time"] * said


# -- rehearsals --------------------------------------------------------------------------------------------------------


def test_durations_that_vary_are_drawn_anew_in_each_rehearsal():
    s, c = stage(Timings({1: 0.5}, spread={"denoise": [0.5, 1.5]}), most=3, **BEST)
    assert len({r.wall for r in s.forecast("", c).runs}) == 3


def test_replicas_arrive_when_a_plan_is_told():
    pool = {"denoisers": {"replicas": {"min": 1, "max": 2}}}
    s, c = stage(Timings({1: 0.5}), fleet=pool, prompts=["a", "b"], seeds=[0], policy={"name": "single"})
    assert s.forecast("", c).runs[0].wall == pytest.approx(10)
    assert replace(s, arrival=1000.0).forecast("", c).runs[0].wall == pytest.approx(20)


def test_arms_that_share_a_budget_by_rewards_are_not_steady():
    assert stage(Timings({1: 0.5}), most=2, **BEST)[0].steady(config(**BEST))
    shared = {"allocation": {"name": "lowest_best"}, "budget": {"total_nfe": 80}}
    s, c = stage(Timings({1: 0.5}), most=2, **BEST | shared)
    assert not s.steady(c)


def test_a_run_without_one_of_its_arms():
    """Best of 2 shares its first candidate with the baseline, so that it costs all of its 40 NFE without it."""
    arms = [{"name": "single", "policy": {"name": "single"}}, {"name": "best", "policy": BEST["policy"]}]
    s, c = stage(Timings({1: 0.5}), arms=arms, baseline="single", prompts=["a"], seeds=[0])
    r = without(s, c, "single")
    assert list(r.arms) == ["best"] and r.nfe == 40


@pytest.mark.parametrize(("backend", "startup"), [("local", 2 * 20 + 10), ("ray", 20)])
def test_models_load_one_after_the_other_in_one_process_else_side_by_side(backend, startup):
    fleet = {"backend": backend, "denoisers": {"replicas": 2}}
    s, c = stage(Timings({1: 0.5}, load={"denoiser": 20, "scorer": 10}), fleet=fleet, **BEST)
    assert s.forecast("", c).runs[0].startup == startup


def took(replica, request, **inputs):
    """The virtual seconds of one item, and its reply."""

    async def run():
        answer = await replica.run(Call(request, inputs))
        return virtual_now(), answer.reply

    return run_virtual(run())


def replica(of, timings, **values):
    return of("r", "kind", "node", 1, 0, Shared(timings, Facts(), {"q": 1, "early": 1}, frozenset(["q"]), **values))


def test_a_leg_takes_its_evaluations_and_what_it_is_to_begin_it():
    sampler, seconds = fake_sampler(10), Timings({1: 0.5}, preview=0.5, leg=3, item=0.25)
    whole = Denoise(sampler, b"", 0, 10, True, Start(Noise(0, 0), 0))
    end, reply = took(replica(TimedDenoiser, seconds), whole)
    assert end == pytest.approx(10 + 0.5 + 3 + 0.25) and reply.nfe == 22
    end, reply = took(replica(TimedDenoiser, seconds), Denoise(sampler, b"", 5, 10), base=Made(5, True))
    assert end == pytest.approx(4 + 3 + 0.25) and reply.nfe == 8  # the first of five is known


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (Look(("q",), ("a",), (None,), 0.5), 3 + 1),
        (Look(("q",), ("a",), (None,), 0.5, preview=True), 3 + 1 + 100),
        (Look(("early",), ("a",), (None,), 0.5, preview=True), 1),  # it decodes nothing
        (Compare(("q",), ("a",), (0.5, 0.5)), 2 * 3 + 1 + 10),
        (Finish(("q",), ("a",), (None,), Outputs(mp4=True)), 3 + 1 + 20),
        (Finish(("q",), ("a",), (None,), Outputs()), 3 + 1),
    ],
)
def test_a_scorer_takes_its_decodes_rewards_and_files(request_, seconds):
    given = Timings({1: 1.0}, decode=3, other_rewards=1, compare=10, finish=20, picture=100, item=0.5)
    assert took(replica(TimedScorer, given), request_)[0] == pytest.approx(seconds + 0.5)


@pytest.mark.parametrize(("text", "seconds"), [("kept", 0), ("new", 7)])
def test_texts_whose_embeddings_are_kept_take_no_time(text, seconds):
    encoder = replica(TimedEncoder, Timings({1: 1.0}, encode=7), encoded=frozenset(["kept"]))
    assert took(encoder, Encode(Text(text, 5)))[0] == seconds


# -- plans beside runs -------------------------------------------------------------------------------------------------


def test_a_plan_beside_a_run():
    found = against.rows(ranging(), against.Actual(200.0, 6100, 3000, {"denoiser": 0.8}))
    assert [" ".join(line.split()) for line in against.table(found)] == [
        "plan run off",
        "wall 4.83 min 3.33 min +45.0%",  # without the 10 s of the start
        "NFE alone 6,000 6,100 -1.6%",
        "NFE shared 3,000 3,000 exact",
        "denoisers busy 90% 80% +10 points",
        "scorers busy 40% - -",
    ]
