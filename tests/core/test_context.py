import asyncio
import contextlib
import gc
import sys
import weakref

import numpy as np
import pytest

from policies import best_of_n, rgrp
from raysearch.errors import BudgetExhausted, ConcurrencyError, ConfigError
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.reward import Score
from raysearch.search.budget import Budget, Ledger, Meter
from raysearch.search.context import Context
from raysearch.testing import fake_reward, fake_sampler


def context(rewards=lambda x: 0.0, *, num_steps=30, budget=None, stochastic=False, seed=3) -> Context:
    async def answer(xs, reward):
        return [Score((rewards(x),)) for x in xs]

    return Context(
        Prompt("a"),
        fake_sampler(num_steps, stochastic),
        seed,
        reward=fake_reward(),
        meter=Meter(Budget(nfe=budget), Ledger(needs_velocity=True, decodes=True)),
        answer=answer,
        rng_key=("key",),
    )


def test_verbs_are_pure_and_count_ordinals_per_parent():
    ctx = context()
    a, b = ctx.noise(2)
    (c,) = ctx.noise(1)
    assert [x.origin.index for x in (a, b, c)] == [0, 1, 2]
    assert [x.origin.ordinal for x in ctx.perturb(a, 2, 0.1)] == [0, 1]
    assert [x.origin.ordinal for x in ctx.perturb(b, 1, 0.1)] == [0]
    assert [x.origin.ordinal for x in ctx.perturb(a, 1, 0.2)] == [2]
    (up,) = ctx.renoise(denoise(a, 9), 1, 4)
    assert (up.step, up.parent.step) == (4, 9)
    assert ctx.history.rows == []


def test_a_branch_under_an_ode_solver_is_refused():
    with pytest.raises(ConfigError, match="deterministic"):
        context().branch(context().noise(1)[0], 2)
    ctx = context(stochastic=True)
    x = ctx.noise(1)[0]
    assert len({y.identity for y in ctx.branch(x, 2)} | {x.identity}) == 3


def test_drawing_while_a_score_is_pending_raises_and_a_child_context_may():
    async def work():
        gate = asyncio.Event()

        async def answer(xs, reward):
            await gate.wait()
            return [Score((0.0,)) for _ in xs]

        ctx = context()
        ctx._answer = answer
        child = ctx.child("left")
        xs = ctx.noise(2)
        pending = asyncio.create_task(ctx.score(xs))
        await asyncio.sleep(0)
        draws = (lambda: ctx.rng, lambda: ctx.noise(1), lambda: ctx.perturb(xs[0], 1, 0.1), lambda: ctx.child("x"))
        for draw in draws:
            with pytest.raises(ConcurrencyError):
                draw()
        ctx.denoise(xs, 5)  # no draw: always allowed
        assert child.noise(1)[0].origin.key != xs[0].origin.key
        assert child.rng.random() != context().rng.random()
        gate.set()
        await pending
        assert len(ctx.noise(1)) == 1

    asyncio.run(work())


def test_rng_depends_on_seed_and_key_alone():
    assert context().rng.random() == context().rng.random()
    assert context().rng.random() != context(seed=4).rng.random()


def test_best_is_the_highest_last_reward_and_the_oldest_of_equals():
    async def work(rewards, calls):
        ctx = context(lambda x: rewards[x.origin.index, x.step])
        xs = ctx.noise(3)
        for step in calls:
            await ctx.score([x for x in ctx.denoise(xs, step) if (x.origin.index, x.step) in rewards])
        return ctx.best.origin.index, ctx.best.step

    fell = {(0, 1): 9.0, (1, 1): 5.0, (0, 2): 1.0}  # the first one's last reward is 1
    assert asyncio.run(work(fell, [1, 2])) == (1, 1)
    assert asyncio.run(work({(0, 1): 2.0, (1, 1): 2.0, (2, 1): 2.0}, [1])) == (0, 1)


def test_budget_exhausted_leaves_the_best_and_dispatches_nothing():
    asked = []

    async def work():
        ctx = context(lambda x: asked.append(x) or float(x.origin.index), budget=130)
        xs = ctx.noise(3)
        await ctx.score(ctx.denoise(xs[:2], 30))  # 120
        assert len(asked) == 2
        with pytest.raises(BudgetExhausted, match=r"budget\.nfe=130"):
            await ctx.score(ctx.denoise(xs[2:], 30))
        return ctx

    ctx = asyncio.run(work())
    assert len(asked) == 2
    assert (ctx.best.origin.index, ctx.charged.nfe, ctx.history.exhausted) == (1, 120, "budget.nfe=130")


def test_what_the_policy_has_dropped_is_kept_alive_by_nothing():
    async def work():
        ctx = context(seed=77)
        xs = ctx.denoise(ctx.noise(3), 4)
        await ctx.score(xs)
        alive = [weakref.ref(x) for x in xs]
        xs = xs[:1]
        gc.collect()
        return [a() is not None for a in alive], ctx.best.step

    assert asyncio.run(work()) == ([True, False, False], 4)


def test_a_child_has_a_label_of_its_own():
    ctx = context()
    ctx.child("a")
    for label in ("a", "b/c"):
        with pytest.raises(ConfigError, match="label"):
            ctx.child(label)


def test_the_budget_holds_when_the_best_falls_and_an_older_one_takes_its_place():
    """`a` leads, then falls: the best is then `b`, which is dearer to finish, and its finishing was held back."""

    async def work(budget):
        values = {(0, 9): 2.0, (1, 1): 1.0, (0, 10): 0.0}
        ctx = context(lambda x: values[x.origin.index, x.step], num_steps=10, budget=budget)
        a, b = ctx.noise(2)
        await ctx.score([*ctx.denoise([a], 9), *ctx.denoise([b], 1)])  # 20 and 4, previews included
        with contextlib.suppress(BudgetExhausted):
            await ctx.score(ctx.denoise([a], 10))
        ledger = ctx.meter.ledger
        return ctx.charged.nfe + ledger.finish(ctx.best).nfe

    assert [asyncio.run(work(b)) <= b for b in (40, 41, 42, 44)] == [True] * 4


@pytest.mark.parametrize("budget", [None, 10**9])
def test_the_drivers_work_grows_linearly_with_the_scores_of_a_search(budget):
    """Calls of functions, not seconds: twice as many scores take about twice as many (one more for a heap's depth)."""

    def calls(n: int) -> int:
        counted = 0

        def count(frame, event, what):
            nonlocal counted
            counted += event in ("call", "c_call")

        async def work() -> None:
            ctx = context(lambda x: -x.origin.index % 7, num_steps=10, budget=budget)
            for x in ctx.denoise(ctx.noise(n), 4):
                await ctx.score([x])
                assert ctx.best.step == 4

        gc.disable()  # a collection's finalizers are nobody's work here
        sys.setprofile(count)
        try:
            asyncio.run(work())
        finally:
            sys.setprofile(None)
            gc.enable()
        return counted

    assert calls(400) <= 2.2 * calls(200)


def dearest(ctx: Context) -> int:
    """What admit holds back, by looking at every trajectory that the search has asked about."""
    rows = [row for _, row in ctx.history.last.values()]
    latest = max((row.part for row in rows), default=0)
    known = [row.candidate for row in rows if row.part == latest] + [ctx.best]
    return max(ctx.meter.ledger.remaining(x) for x in known)


@pytest.mark.parametrize("seed", range(8))
def test_the_running_reserve_is_that_of_looking_at_every_trajectory(seed):
    """Random walks, with refused scores on the way that a policy catches."""
    rng, refused = np.random.default_rng(seed), 0

    async def work() -> None:
        nonlocal refused
        ctx = context(lambda x: float(rng.normal()), num_steps=10, budget=240)
        xs = ctx.noise(12)
        for _ in range(60):
            i = rng.integers(12)
            asked = [denoise(xs[i], int(rng.integers(xs[i].step, 11)))]
            if rng.random() < 0.3:
                asked = ctx.denoise(ctx.perturb(xs[i], 3, 0.1), int(rng.integers(xs[i].step, 11)))
            try:
                await ctx.score(asked)
            except BudgetExhausted:
                refused += 1
                continue
            xs[i] = asked[0]
            with ctx.meter.ledger.trial():
                assert ctx.meter._reserve(0) == dearest(ctx)

    asyncio.run(work())
    assert refused


def test_a_child_shares_history_and_account():
    async def work():
        ctx = context(lambda x: 1.0)
        child = ctx.child("a")
        await child.score(child.denoise(child.noise(1), 5))
        return len(ctx.history.rows), ctx.charged.nfe

    assert asyncio.run(work()) == (1, 12)


def test_a_refused_score_marks_nothing_as_made():
    async def work():
        ctx = context(lambda x: 1.0, budget=70)
        xs = ctx.noise(2)
        with contextlib.suppress(BudgetExhausted):
            await ctx.score(ctx.denoise(xs))  # 120
        return [ctx.meter.ledger.asked(x) for x in ctx.denoise(xs)], ctx.meter.ledger.score(ctx.denoise(xs[:1])).nfe

    assert asyncio.run(work()) == ([False, False], 60)


def test_a_policy_that_asks_for_rewards_needs_one():
    ctx = context()
    ctx._rewards["search"] = None
    with pytest.raises(ConfigError, match=r"rewards\.search is missing"):
        asyncio.run(ctx.score(ctx.noise(1)))


# -- policies -------------------------------------------------------------------------


def test_best_of_n_returns_the_best():
    ctx = context(lambda x: -abs(x.origin.index - 5))
    assert asyncio.run(best_of_n.search(ctx, n=8)).origin.index == 5


def replay_rgrp(ctx: Context, reward, n, schedule, beta, temperature) -> tuple[Candidate, list[int]]:
    """The released algorithm written out with plain lists: alive indices, their cumulative weights, sizes."""
    rng = context().rng
    alive, total, sizes = list(range(n)), [0.0] * n, []
    for t in schedule:
        sizes.append(len(alive))
        e = [np.exp(reward(i, t + 1) / temperature) for i in alive]
        w = [v / sum(e) for v in e]
        total = [c + v for c, v in zip(total, w, strict=True)]
        drawn = set(rng.choice(len(alive), size=len(alive), p=np.array(w)).tolist())
        alive, total = [alive[i] for i in sorted(drawn)], [total[i] for i in sorted(drawn)]
    return alive[int(np.argmax(total))], sizes


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_rgrp_is_the_published_algorithm(temperature):
    values = np.random.default_rng(0).normal(size=(6, 31))

    def index(x: Candidate) -> int:
        return 0 if x.parent is None else x.origin.ordinal + 1

    ctx = context(lambda x: values[index(x), x.step])
    winner = asyncio.run(rgrp.search(ctx, temperature=temperature))
    expected, sizes = replay_rgrp(ctx, lambda i, s: values[i, s], 6, (10, 15, 20), 0.1, temperature)
    assert index(winner) == expected
    steps = [row.step for row in ctx.history.rows]
    assert [steps.count(s) for s in (11, 16, 21)] == sizes
    assert sizes[0] == 6


def test_rgrp_population_shrinks_as_expected_under_equal_rewards():
    """6 -> 3.99 -> 2.73 in expectation: 6 (1 - (5/6)^6), and the same map once more."""
    sizes = []
    for seed in range(400):
        ctx = context(seed=seed)
        asyncio.run(rgrp.search(ctx))
        steps = [row.step for row in ctx.history.rows]
        sizes.append([steps.count(s) for s in (11, 16, 21)])
    mean = np.mean(sizes, axis=0)
    assert mean[0] == 6
    assert abs(mean[1] - 3.99) < 0.15
    assert abs(mean[2] - 2.73) < 0.15


@pytest.mark.parametrize(
    "arguments",
    [{"n": 0}, {"schedule": (30,)}, {"schedule": (20, 10)}, {"schedule": ()}, {"temperature": 0.0}, {"beta": 1.5}],
)
def test_rgrp_refuses(arguments):
    with pytest.raises(ConfigError, match=r"policy\."):
        asyncio.run(rgrp.search(context(), **arguments))
