"""Draft and commit: what is carried over, what it costs, and what a budget holds back."""

import pytest
from fakes import config, run, session

from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Prompt
from raysearch.session.plan import estimate
from raysearch.testing import FakeBackend, FakeFleet


def test_on_the_engine_it_costs_what_it_is_charged_and_the_dry_run_says(tmp_path):
    policy = {"name": "draft_commit", "draft_steps": 3, "explore": {"name": "best_of_n", "n": 5}}
    c, backend = config(policy=policy), FakeBackend()
    costs = estimate(backend.prepare(c, configuration.arms(c)), [Prompt("a")], [0])
    rows, progress = run(tmp_path / "run", policy=policy, prompts=["a"])
    assert costs["draft_commit"].nfe == rows[0]["nfe"] == progress.engine.nfe == 5 * 3 * 2 + 20
    assert rows[0]["policy_args"] == '{"cache":null,"draft_steps":3,"explore":{"n":5,"name":"best_of_n"}}'
    assert rows[0]["status"] == "done"


def test_the_same_winner_on_any_fleet(tmp_path):
    policy = {"name": "draft_commit", "draft_steps": 6, "explore": {"name": "rgrp", "schedule": [1, 3]}}
    one, _ = run(tmp_path / "a", policy=policy)
    other, _ = run(tmp_path / "b", FakeFleet(denoisers=3, slots=2, scorers=2), policy=policy)
    assert [r["winner"] for r in one] == [r["winner"] for r in other]


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"explore": {"name": "best_of_n", "m": 8}}, "policy.explore.m: unknown key; allowed here: n"),
        ({"explore": {"name": "best_of_m"}}, "policy.explore.name: no policy 'best_of_m'"),
        ({"explore": {"n": 8}}, "policy.explore.name: no policy None; there are"),
        ({"explore": {"name": "best_of_n", "n": "x"}}, "policy.explore.n: 'x' is not allowed; it must be of type int"),
        (
            {"explore": "rbf"},
            "policy.explore: 'rbf' is not allowed; it must be a mapping, such as {name: rbf}",
        ),
        ({"explore": {"name": "draft_commit", "explore": {"name": "x"}}}, "policy.explore.explore.name: no policy 'x'"),
        ({"explore": {"name": "best_of_n", "n": 0}}, "policy.explore (best_of_n): policy.n: 0 is not allowed"),
        ({"draft_steps": 0}, "policy.draft_steps: 0 is not allowed; it must be at least 1"),
        ({"draft_steps": 11}, "policy.draft_steps: 11 is not allowed; it must be at most sampler.num_steps=10"),
        ({"explore": {"name": "svdd"}}, "policy.explore (svdd): sampler.name: 'fake' is not allowed"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, policy, line):
    with pytest.raises(ConfigError) as error:
        session(tmp_path / "run", FakeBackend(), policy={"name": "draft_commit", **policy})
    assert line in str(error.value)
    assert "\n" not in str(error.value)
