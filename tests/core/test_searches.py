"""Searches on fakes: what keys them, who waits for whom, and answers that are not finite."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, config, run, same, session

from raysearch.config import config as configuration
from raysearch.errors import InputLost
from raysearch.recipe.candidate import Prompt
from raysearch.recipe.digests import canonical_json, digest
from raysearch.session import journal
from raysearch.session.plan import Search, context
from raysearch.testing import FakeBackend, FakeFleet, FakeReplica, fake_reward, run_virtual


def plan_of(**values):
    backend = FakeBackend()
    c = config(**values)
    return backend.prepare(c, configuration.arms(c))


def test_the_rng_of_a_search_depends_on_prompt_policy_and_arguments():
    def first(prompt="a", seed=0, **policy):
        (arm,) = plan_of(policy=policy or {"name": "rgrp", "schedule": [2]}).arms
        return context(Search(0, "s", Prompt(prompt), seed, arm), None, lambda: 0.0).rng.random()

    draws = [
        first(),
        first("b"),
        first(seed=1),
        first(name="best_of_n"),
        first(name="rgrp", schedule=[2], n=4),
        first(name="rgrp", schedule=[3]),
    ]
    assert len(set(draws)) == len(draws)
    assert first() == first()


async def coin(ctx, *, loud: bool = False):
    """Has a switch from the beginning, which seeds its generator whether it is on or off."""
    return ctx.noise(1)[0]


def test_a_switch_that_a_policy_got_later_leaves_the_rng_alone_until_it_is_on():
    def drawn(name, arguments, **policy):
        (arm,) = plan_of(policy={"name": name} | policy).arms
        ctx = context(Search(0, "s", Prompt("a"), 0, arm), None, lambda: 0.0)
        key = digest("rng", 0, Prompt("a").identity, name, canonical_json(arguments), "")
        return ctx.rng.random() == np.random.default_rng(int.from_bytes(key, "big")).random()

    before = {"n": 6, "schedule": [10, 15, 20], "beta": 0.1, "temperature": 1.0}
    assert drawn("rgrp", before)
    assert drawn("rgrp", before, early=False)
    assert drawn("rgrp", before | {"early": True}, early=True)
    inner = {"name": "rgrp", **before}
    assert drawn("draft_commit", {"draft_steps": 8, "explore": inner}, explore={"name": "rgrp"})
    assert drawn("test_searches:coin", {"loud": False})
    assert drawn("beam", {"k": 2, "n": 4, "every": 5, "back": 2, "one_step": False}, one_step=False)


def test_arms_with_other_rewards_share_latents_and_no_scores(tmp_path):
    class Backend(FakeBackend):
        def prepare(self, c, arms, begun=None):
            plan = super().prepare(c, arms, begun)
            other = replace(fake_reward(), key="other", identity=b"other")
            return replace(plan, arms=(plan.arms[0], replace(plan.arms[1], reward=other)))

    fleet = FakeFleet()
    arms = [ARMS[1], ARMS[1] | {"name": "other"}]
    progress = run_virtual(session(tmp_path / "run", Backend(fleet), arms=arms, prompts=["a"]).run())
    scored = [list(c.request.rewards) for r in fleet.replicas for c in r.calls if c.name == "look"]
    assert (scored.count(["quality"]), scored.count(["other"])) == (4, 4)
    assert progress.engine.nfe == 80


def test_weights_make_the_total():
    assert replace(fake_reward(), components=("a", "b"), weights=(2.0, -1.0)).total((0.5, 0.25)) == 0.75


def test_a_policy_that_catches_its_budgets_end_is_still_a_budget_row(tmp_path):
    rows, _ = run(tmp_path / "run", policy={"name": "careful:search"}, budget={"nfe": 50}, prompts=["a"])
    assert [(r["status"], r["reason"]) for r in rows] == [("budget", "budget.nfe=50")]
    assert rows[0]["nfe"] <= 50


def test_no_more_searches_live_than_allowed_and_the_oldest_go_first(tmp_path):
    began: list[str] = []
    alive: list[int] = []
    s = session(tmp_path / "run", FakeBackend(FakeFleet(4, 4, 4)), prompts=list("abcdefgh"), max_searches=2)
    plain = s._search

    async def watched(search, engine):
        began.append(search.id)
        alive.append(len(began) - s.progress.done)
        await plain(search, engine)

    s._search = watched
    run_virtual(s.run())
    assert max(alive) == 2
    assert began == sorted(began)


def test_the_oldest_search_gets_the_slot(tmp_path):
    fleet = FakeFleet(1, 1)
    run(tmp_path / "run", fleet, arms=ARMS[1:2], prompts=["a", "b", "c"], max_searches=3)
    keys = [c.inputs["text"] for c in fleet.replicas[0].calls]
    assert keys == sorted(keys, key=keys.index)  # four rollouts of a search, then the next's
    assert [len(list(g)) for _, g in itertools.groupby(keys)] == [4, 4, 4]


def test_the_journal_has_what_a_replay_needs(tmp_path):
    rows, _ = run(tmp_path / "run", arms=ARMS[2:3], prompts=["a"])
    answer, search = journal.read(tmp_path / "run" / "journal")
    candidates = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    assert answer["asked"] == [c["candidate"] for c in candidates]
    assert answer["components"] == [[c["quality"]] for c in candidates]
    assert search["winner"] == rows[0]["winner"]


def test_without_guidance_a_step_is_one_evaluation(tmp_path):
    class Backend(FakeBackend):
        def prepare(self, c, arms, begun=None):
            plan = super().prepare(c, arms, begun)
            return replace(
                plan, arms=tuple(replace(a, sampler=replace(a.sampler, guidance_scale=1.0)) for a in plan.arms)
            )

    progress = run_virtual(session(tmp_path / "run", Backend(), prompts=["a"]).run())
    assert (progress.engine.nfe, progress.arms["single"].cost.nfe) == (10, 10)


def test_a_winners_files_that_are_lost_are_made_again(tmp_path):
    fleet, lost = FakeFleet(), []
    plain = fleet.fetch

    async def fetch(ref):
        if not lost:
            lost.append(ref)
            raise InputLost("its node is gone")
        return await plain(ref)

    fleet.fetch = fetch
    rows, _ = run(tmp_path / "run", fleet, prompts=["a"])
    assert lost
    assert [r["status"] for r in rows] == ["done"]


class Doubtful(FakeReplica):
    """A scorer that answers NaN to its first `bad` questions."""

    bad = 0

    async def _score(self, request, inputs):
        answer = await super()._score(request, inputs)
        if self.bad <= 0:
            return answer
        self.bad -= 1
        rewards = [{key: [float("nan")] for key in r} for r in answer.reply.rewards]
        return replace(answer, reply=replace(answer.reply, rewards=rewards))


def doubtful(*bad: int) -> FakeFleet:
    scorers = [Doubtful(f"scorer-{i}", "scorer") for i in range(len(bad))]
    for s, n in zip(scorers, bad, strict=True):
        s.bad = n
    return FakeFleet(replicas=[*scorers, *(r for r in FakeFleet().replicas if r.kind != "scorer")])


def test_a_score_that_is_not_finite_is_asked_again_elsewhere(tmp_path):
    expected, _ = run(tmp_path / "expected", arms=ARMS[1:2], prompts=["a"])
    fleet = doubtful(10**6, 0)
    rows, progress = run(tmp_path / "run", fleet, arms=ARMS[1:2], prompts=["a"])
    assert same(rows) == same(expected)
    first, second = (r for r in fleet.replicas if r.kind == "scorer")
    asked = [c.inputs["state 0"] for c in first.calls]
    assert asked and all(any(c.inputs["state 0"] is x for c in second.calls) for x in asked)
    assert len(first.calls) + len(second.calls) == 4 + 1 + len(
        asked
    )  # four scores and the judging, and again what was doubted
    assert progress.engine.decodes == 5 + len(asked)


@pytest.mark.parametrize(("bad", "statuses"), [(1, ["done"]), (2, ["failed"])])
def test_on_the_only_scorer_it_is_asked_there_again_and_twice_is_the_end(tmp_path, bad, statuses):
    rows, _ = run(tmp_path / "run", doubtful(bad), arms=[ARMS[0]], prompts=["a"])
    assert [r["status"] for r in rows] == statuses
    assert ("not finite" in rows[0]["reason"]) == (statuses == ["failed"])
