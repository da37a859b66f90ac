"""What policies ask about after what: ways from one candidate to the next, and that a dry run foresees them."""

from dataclasses import replace

import pytest
from fakes import session

from raysearch.engine.engine import Engine
from raysearch.recipe.candidate import Candidate, Prompt, ahead, denoise
from raysearch.recipe.origins import Derived, Noise, Renoise
from raysearch.recipe.sequels import Sequels
from raysearch.testing import FakeBackend, fake_sampler, run_virtual

SAMPLER = fake_sampler(10)


def noise(i: int, step: int = 0) -> Candidate:
    return Candidate(Prompt("ahead"), SAMPLER, Noise(0, i), step)


def test_ways_hold_for_other_noises_and_prompts():
    x = Candidate(Prompt("other"), replace(SAMPLER, negative_prompt="bad"), Noise(5, 2), 3)
    sequels = Sequels()
    sequels.learn([[(noise(99, t), False)] for t in (3, 6, 10)])
    assert sequels.after(x) == [(denoise(x, 6), False)]
    assert sequels.after(denoise(x, 10)) == []
    assert sequels.after(denoise(x, 5)) == []


def test_children_and_lookaheads_are_ways_and_what_reads_others_is_not():
    a = noise(0, 4)
    child = Candidate(a.prompt, SAMPLER, Derived(a, 2, Renoise(1)), 8)
    sequels = Sequels()
    sequels.learn([[(a, True)], [(denoise(a, 8), True), (child, True)]])
    b = noise(7, 4)
    expected = Candidate(b.prompt, SAMPLER, Derived(b, 2, Renoise(1)), 8)
    assert sequels.after(b) == [(denoise(b, 8), True), (expected, True)]
    pushed = Candidate(a.prompt, SAMPLER, Derived(a, 0, Renoise(1), reads=(noise(3, 10),)), 8)
    reading = Sequels()
    reading.learn([[(a, False)], [(pushed, False)]])
    assert reading.after(b) == []
    looks = Sequels()
    looks.learn([[(ahead(noise(0, t), 2), False)] for t in (3, 4)])
    assert looks.after(ahead(b, 2)) == []
    assert looks.after(ahead(noise(7, 3), 2)) == [(ahead(noise(7, 4), 2), False)]


def test_candidates_of_one_question_do_not_follow_each_other_and_a_finished_one_needs_no_velocity():
    sequels = Sequels()
    sequels.learn([[(noise(0, 3), True), (noise(0, 6), True)], [(noise(0, 10), True)]])
    assert sequels.after(noise(1, 3)) == []
    assert sequels.after(noise(1, 6)) == [(noise(1, 10), False)]


@pytest.mark.parametrize("policy", ["rgrp", "beam", "smc", "dlbs", "halving", "svdd", "fk_steering"])
def test_what_a_policy_asks_next_was_foreseen_by_its_dry_run(tmp_path, policy):
    """All candidates but those of the first question and, now and then, one child more than in the dry run."""
    arguments = {"rgrp": {"schedule": [2, 5, 7]}, "halving": {"n": 8, "schedule": [2, 5]}, "dlbs": {"b": 2}}
    backend = FakeBackend(stochastic=policy != "rgrp")
    s = session(tmp_path / "run", backend, policy={"name": policy, **arguments.get(policy, {})}, prompts=["other"])
    sequels, known, asked = s.plan.arms[0].sequels, set[bytes](), list[bool]()

    class Seen(Engine):
        async def score(self, xs, reward, spent):
            if known:
                asked.extend(x.identity in known for x in xs)
            known.update(y.identity for x in xs for y, _ in sequels.after(x))
            return await super().score(xs, reward, spent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raysearch.session.session.Engine", Seen)
        run_virtual(s.run())
    assert len(asked) >= 2
    assert sum(asked) >= 0.75 * len(asked)
