"""Step caches of drafts without a model: what they cost, what they refuse, and that a search names them."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from fakes import config, run, session

from raysearch.config import config as configuration
from raysearch.config.policies import load_policy, seeding
from raysearch.config.step_cache import Guidance, Taylor, cache_of, cached
from raysearch.errors import ConfigError
from raysearch.export import preference
from raysearch.planner.facts import Facts
from raysearch.planner.rehearsal import rehearse
from raysearch.planner.rewards import MadeUp
from raysearch.planner.timings import Timings
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.origins import Noise
from raysearch.search.budget import Ledger
from raysearch.session.plan import estimate
from raysearch.testing import FakeBackend, FakeFleet, fake_sampler

# The NFE of a draft with 10 guided steps, whose levels are 1.0, 0.9 .. 0.1, counted by hand.
COSTS = [
    ({"name": "first_block"}, 20),  # at most
    ({"name": "easy"}, 20),  # at most
    ({"name": "taylor"}, 10),  # steps 0, 1, 2, 4, 9
    ({"name": "taylor", "interval": 2}, 12),  # steps 0, 1, 2, 4, 6, 8
    ({"name": "taylor", "interval": 3, "warmup": 1}, 8),  # steps 0, 2, 5, 8
    ({"name": "taylor", "interval": 1}, 20),
    ({"name": "guidance"}, 16),  # both halves at 0.8 .. 0.3
    ({"name": "guidance", "low": 0.0, "high": 1.0}, 20),
    ({"name": "guidance", "low": 0.5, "high": 0.5}, 10),
]


def policy(cache, explore=None, **more):
    explore = explore or {"name": "best_of_n", "n": 5}
    return {"name": "draft_commit", "draft_steps": 10, "cache": cache, "explore": explore, **more}


@pytest.mark.parametrize(("cache", "nfe"), COSTS)
def test_what_a_draft_costs_is_known_before(tmp_path, cache, nfe):
    assert cached(fake_sampler(10), cache).cached_nfe == nfe
    c, backend = config(policy=policy(cache), sampler={"num_steps": 12}), FakeBackend()
    costs = estimate(backend.prepare(c, configuration.arms(c)), [Prompt("a")], [0])
    rows, progress = run(tmp_path / "run", policy=policy(cache), sampler={"num_steps": 12}, prompts=["a"])
    assert costs["draft_commit"].nfe == rows[0]["nfe"] == progress.engine.nfe == 5 * nfe + 24
    scored = [r for r in pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist() if r["by"]]
    assert [r["nfe"] for r in scored] == [nfe] * 5


@pytest.mark.parametrize("cache", [{"name": "taylor"}, {"name": "easy"}])
def test_the_planner_plans_what_is_charged_and_the_time_of_it(cache):
    c = config(prompts=["a"], policy=policy(cache), sampler={"num_steps": 12}, fleet={"backend": "local"})
    plan = FakeBackend().prepare(c, configuration.arms(c))
    made = rehearse(c, plan, Facts(), Timings({1: 0.5}), MadeUp())
    nfe = 5 * plan.arms[0].at_steps(10).num_steps * (1 if cache["name"] == "taylor" else 2) + 24
    assert made.nfe == made.charged == nfe
    assert made.wall == pytest.approx(nfe * 0.5)


def test_a_cache_is_a_part_of_a_drafts_identity_and_not_of_its_noise():
    plain = fake_sampler(10)
    samplers = [plain, *(cached(plain, {"name": name}) for name in plain.caches)]
    drafts = [Candidate(Prompt("a"), s, Noise(0, 0)) for s in samplers]
    assert len({x.identity for x in drafts}) == len(samplers) == 5
    assert len({x.lineage for x in drafts}) == 1
    assert cache_of(cached(plain, {"name": "taylor", "order": 2})) == Taylor(order=2)
    assert cache_of(plain) is None


def test_the_winner_is_rendered_without_a_cache_and_searches_without_one_stay_the_same(tmp_path):
    explore = {"name": "zero_order", "n": 2, "iterations": 1}
    rows, progress = run(tmp_path / "run", policy=policy({"name": "taylor"}, explore), prompts=["a"])
    assert rows[0]["nfe"] == progress.engine.nfe == 3 * 10 + 20
    search, arguments = load_policy({"name": "draft_commit"})
    assert arguments["cache"] is None
    assert "cache" not in seeding(search, arguments)
    search, arguments = load_policy(policy({"name": "guidance"}))
    assert seeding(search, arguments)["cache"] == {"name": "guidance", "low": Guidance.low, "high": Guidance.high}


def test_the_same_winner_on_any_fleet(tmp_path):
    values = {"policy": policy({"name": "taylor"}), "sampler": {"num_steps": 12}}
    one, _ = run(tmp_path / "a", **values)
    other, _ = run(tmp_path / "b", FakeFleet(denoisers=3, slots=2, scorers=2), **values)
    assert [r["winner"] for r in one] == [r["winner"] for r in other]


def test_drafts_of_all_steps_are_in_no_pair_if_they_have_a_cache(tmp_path):
    run(tmp_path / "run", policy=policy({"name": "easy"}))
    with pytest.raises(ConfigError, match="two finished candidates"):
        preference.pairs(tmp_path / "run")


def test_what_is_left_of_a_cached_draft_is_all_or_nothing():
    s = cached(fake_sampler(10), {"name": "taylor"})
    ledger = Ledger(needs_velocity=False, decodes=True)
    x = Candidate(Prompt("a"), s, Noise(0, 0))
    assert ledger.remaining(x) == 10
    assert ledger.score([denoise(x, 10)]).nfe == 10
    assert ledger.remaining(x) == 0 == ledger.score([denoise(x, 10)]).nfe


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"cache": {"name": "first_blok"}},
            "policy.cache.name: no step cache 'first_blok' (did you mean 'first_block'",
        ),
        ({"cache": {"n": 1}}, "policy.cache.name is missing: it must be one of first_block, easy, taylor, guidance"),
        ({"cache": {"name": ["easy"]}}, "policy.cache.name: no step cache ['easy']; there are first_block, easy"),
        ({"cache": {"name": "easy", "threshold": float("nan")}}, "nan} is not allowed; it must be without NaN and inf"),
        (
            {"cache": {"name": "guidance", "low": 0.9}},
            "policy.cache.low: 0.9 is not allowed; it must be at most policy.cache.high=0.84",
        ),
        (
            {"cache": "taylor"},
            "policy.cache: 'taylor' is not allowed; it must be a mapping, such as {name: taylor}",
        ),
        (
            {"cache": {"name": "taylor", "interval": 0}},
            "policy.cache.interval: 0 is not allowed; it must be at least 1",
        ),
        ({"cache": {"name": "taylor", "every": 2}}, "policy.cache.every: unknown key; allowed here: interval, warmup"),
        ({"cache": {"name": "easy", "threshold": -0.1}}, "policy.cache.threshold: -0.1 is not allowed"),
        ({"cache": {"name": "guidance", "high": 1.5}}, "policy.cache.high: 1.5 is not allowed; it must be in 0..1"),
        ({"explore": {"name": "rgrp", "schedule": [1, 3]}}, "policy.explore (rgrp): a cached draft: 'from step 0 to"),
        ({"explore": {"name": "bfs", "schedule": [3]}}, "policy.explore (bfs): a cached draft: 'from step 0 to"),
        ({"explore": {"name": "paths"}}, "policy.explore (paths): a cached draft: 'from step"),
        ({"explore": {"name": "dfs", "schedule": [3]}}, "policy.explore (dfs): a cached draft: 'from step"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, given, line):
    with pytest.raises(ConfigError) as error:
        session(tmp_path / "run", FakeBackend(), policy=policy(**{"cache": {"name": "taylor"}} | given))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_guidance_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match=r"another one where sampler\.guidance_scale=1$"):
        cached(replace(fake_sampler(10), guidance_scale=1.0), {"name": "guidance"})


def test_a_model_has_the_caches_that_its_sampler_names():
    with pytest.raises(ConfigError, match=r"policy\.cache\.name: 'easy' is not allowed; it must be one of taylor"):
        cached(replace(fake_sampler(10), caches=("taylor",)), {"name": "easy"})
