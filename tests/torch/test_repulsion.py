"""The potential and its force against closed forms; paths around obstacles on the exact mixture; its costs."""

import asyncio
import contextlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from exact import MODEL, Interpreter, context, sampler, search
from exact import barrier as at
from fakes import config as fake_config
from fakes import run, session
from PIL import Image

from actors.sampling import potential
from policies import best_of_n, repulsion, single
from raysearch.config import config as configuration
from raysearch.config import obstacles
from raysearch.engine.protocol import Call
from raysearch.errors import BudgetExhausted, ConfigError
from raysearch.recipe.candidate import Prompt, denoise
from raysearch.recipe.origins import Noise, Push
from raysearch.recipe.reward import Reward, Score
from raysearch.search.obstacles import Barrier, barriers
from raysearch.session.plan import content_of, estimate
from raysearch.testing import FakeBackend, FakeFleet, FakeReplica

T = 12


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


# -- the potential ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "expected"), [(0.25, 0.5 * 2 * (4 - 2) ** 2), (0.5, 0.0), (0.6, 0.0), (0.0, 0.5 * 2 * (2000 - 2) ** 2)]
)
def test_potential_by_hand(d, expected):
    assert potential.potential(d, eta=2.0, reach=0.5) == pytest.approx(expected)


@pytest.mark.parametrize("space", ["latent", "features"])
def test_the_push_is_the_gradient_by_finite_differences(space):
    rng = torch.Generator().manual_seed(0)
    x, near, far = (torch.randn(1, 2, 2, 2, 3, generator=rng).double() for _ in range(3))
    obstacle = (space, (x + 0.3 * near, x + 2 * far))
    eta, reach, h, eps = 0.7, 1.5, 1e-6, 1e-6
    pushed = potential.push(x, [obstacle], [eta], [reach], h)
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros(x.numel()).double()
        e[i] = eps
        up, down = (
            potential.potential(float(potential.distance(x + s * e.view_as(x), obstacle)), eta, reach) for s in (1, -1)
        )
        gradient.view(-1)[i] = (up - down) / (2 * eps)
    assert gradient.abs().max() > 0
    # n times the ordinary gradient, that of the root-mean-square norm
    torch.testing.assert_close(pushed, -h * x.numel() * gradient, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("h", [1e-4, 1e-3, 1e-2])
def test_a_push_moves_away_by_h_times_the_force_and_never_beyond_the_range(h):
    x, p = torch.zeros(1, 2, 1, 1, 1), torch.tensor([0.3, -0.1]).view(1, 2, 1, 1, 1)
    obstacle, eta, reach = ("latent", (p,)), 2.0, 0.5
    d = rms(p)
    moved = potential.push(x, [obstacle], [eta], [reach], h)
    force = eta * (1 / d - 1 / reach) / d**2
    assert rms(moved) == pytest.approx(min(h * force, reach - d), rel=1e-5)
    assert float(potential.distance(x + moved, obstacle)) == pytest.approx(d + rms(moved), rel=1e-5)
    assert (h * force > reach - d) == (h == 1e-2)
    twice = potential.push(x, [obstacle, obstacle], [eta, eta], [reach, reach], h)
    torch.testing.assert_close(twice, 2 * moved)


def test_nothing_pushes_beyond_the_range_nor_at_the_very_point():
    p = torch.ones(1, 2, 1, 1, 1)
    for x in (p, p + 0.6):
        assert not potential.push(x, [("latent", (p,))], [1.0], [0.5], 0.1).any()


def test_features_see_what_and_when_but_not_where():
    x = torch.randn(1, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    rolled, flipped = x.roll((2, 1), (3, 4)), x.flip(2)
    assert (
        float(potential.distance(rolled, ("features", (x,))))
        < 1e-6
        < float(potential.distance(rolled, ("latent", (x,))))
    )
    assert float(potential.distance(flipped, ("features", (x,)))) > 0.01


# -- the origin ------------------------------------------------------------------------------------------------------


def test_the_pushed_latent_is_the_parents_moved_by_the_force_at_its_estimate():
    world, barrier = Interpreter(), at(0.2, 0.1)
    ctx = context(sampler(T), world=world, obstacles=[barrier])
    x = ctx.denoise(ctx.noise(1), until=5)[0]
    x0 = world.estimate(x)
    away = x0 - np.array([0.2, 0.1])
    d, reach = rms(away), 2 * rms(away)
    y = ctx.push(x, eta=[0.3], reach=[reach], h=0.01)
    moved = (world.state(y)[0] - world.state(x)[0]).numpy().ravel()
    np.testing.assert_allclose(moved, 0.01 * 0.3 * (1 / d - 1 / reach) / d**2 * away / d, rtol=1e-4)
    assert (y.step, y.parent) == (5, x)
    assert y is ctx.push(x, eta=[0.3], reach=[reach], h=0.01)


def test_identity_covers_obstacles_and_lineage_does_not():
    ctx = context(sampler(T), obstacles=[at(0, 0)])
    other = context(sampler(T), obstacles=[at(1, 0)])
    seen = context(sampler(T), obstacles=[at(0, 0, space="features")])
    x = ctx.denoise(ctx.noise(1), until=5)[0]
    ys = [c.push(x, eta=[1], reach=[1], h=0.1) for c in (ctx, other, seen)]
    assert len({y.identity for y in ys}) == 3
    assert len({y.lineage for y in ys}) == 1
    assert ctx.push(x, eta=[2], reach=[1], h=0.1).lineage != ys[0].lineage
    assert pickle.loads(pickle.dumps(ys[0])) is ys[0]
    json.dumps(ys[0].origin.describe())


def test_a_finished_candidate_is_not_pushed_and_nothing_pushes_from_a_classifier():
    judge = Barrier(Reward("r", b"r", ("r",), (1.0,), "frames"), zero=-1.0)
    ctx = context(sampler(T), obstacles=[judge])
    x = ctx.noise(1)[0]
    assert ctx.push(x, eta=[1], reach=[1], h=0.1) is x
    with pytest.raises(ConfigError, match="a candidate to push"):
        ctx.push(ctx.denoise([x])[0], eta=[1], reach=[1], h=0.1)
    world = Interpreter()
    d = asyncio.run(ctx.distances(ctx.denoise([x])))
    assert d[0, 0] == max(world.reward(world.estimate(ctx.denoise([x])[0])) + 1.0, 0)


# -- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "unipc", "flow-sde"])
def test_without_obstacles_it_is_best_of_n(solver):
    for seed in range(3):
        _, winner, ctx = search(repulsion.search, sampler(T, solver), seed=seed, n=3)
        _, best, plain = search(best_of_n.search, sampler(T, solver), seed=seed, n=3)
        assert winner is best
        assert ctx.charged == plain.charged
    _, winner, _ = search(repulsion.search, sampler(T, solver), n=1)
    assert winner is search(single.search, sampler(T, solver))[1]


@pytest.mark.parametrize("solver", ["euler", "flow-sde"])
@pytest.mark.parametrize("space", ["latent", "features"])
def test_no_winner_ends_inside_while_there_is_a_free_path(solver, space):
    """The obstacle covers a mode that holds 40% of the mass, which plain samples meet, and winners never."""
    mode, reach = MODEL.means[0].numpy(), 0.9
    barrier, s, world = at(*mode, space=space), sampler(T, solver), Interpreter()
    obstacle = world.points(barrier.obstacle)

    def far(x0) -> float:
        return float(potential.distance(torch.tensor(x0).view(1, 2, 1, 1, 1), obstacle))

    plain, kept = [], []
    for seed in range(40):
        plain.append(far(search(single.search, s, seed=seed, world=world)[0]))
        given = {"n": 1, "eta": (1.0,), "reach": (reach,), "h": 0.05, "obstacles": [barrier]}
        x0, _, _ = search(repulsion.search, s, seed=seed, world=world, **given)
        kept.append(far(x0))
    assert 8 <= sum(d <= reach for d in plain) <= 24
    assert min(kept) > reach


def test_a_path_that_meets_nothing_is_the_plain_one():
    s, world = sampler(T), Interpreter()
    for seed in range(6):
        _, plain, _ = search(single.search, s, seed=seed, world=world)
        _, winner, _ = search(repulsion.search, s, seed=seed, world=world, n=1, obstacles=[at(30, 30)])
        assert winner is plain


def test_where_there_is_no_free_path_the_answer_is_the_one_least_deep_inside():
    s, world, barrier = sampler(T), Interpreter(), at(0, 0)
    given = {"n": 3, "eta": (1.0,), "reach": (50.0,), "h": 1e-9, "tries": 1, "obstacles": [barrier]}
    x0, _, ctx = search(repulsion.search, s, world=world, **given)
    assert ctx.history.rows == []
    assert rms(x0) < 50


def test_the_better_of_two_ranges_wins_by_the_reward():
    """Between two settings under which paths end clear, the reward decides."""
    s, world = sampler(T), Interpreter()
    first, second = at(*MODEL.means[1].numpy()), at(30, 30)
    results = {}
    for reach in ((0.3,), (0.3, 0.8)):
        given = {"n": 3, "eta": (1.0,), "reach": reach, "h": 0.01, "obstacles": [first, second]}
        for seed in range(8):
            x0, _, _ = search(repulsion.search, s, seed=seed, world=world, **given)
            results[reach, seed] = world.reward(x0)
    for seed in range(8):
        assert results[(0.3, 0.8), seed] >= results[(0.3,), seed]
    assert any(results[(0.3, 0.8), seed] > results[(0.3,), seed] for seed in range(8)), "the wider range wins somewhere"


def scripted(table):
    """Distances of a fake world, by the kind of origin and the step; 9 where the table has none."""

    class World(Interpreter):
        async def answer(self, xs, reward):
            if not reward.obstacles:
                return await super().answer(xs, reward)
            return [Score((table.get((type(x.origin.how).__name__, x.step), 9.0),)) for x in xs]

    return World()


# One path, 12 steps, guided (2 NFE each), looked at after steps 3, 6, 9 and 12.
COSTS = [
    ({}, 24, 4),  # velocities of looks are the next steps'
    ({("Noise", 6): 0.1}, 24 + 2, 5),  # entered at 6, freed by the push, whose point has a velocity of its own
    # the push at 6 does not free it: back 2 to step 4, and on from there; the velocity at the pushed point is lost
    ({("Noise", 6): 0.1, ("Push", 6): 0.1}, 6 * 2 + 2 + 2 + 8 * 2, 2 + 1 + 3),
    # the same at 3, where nobody knows whether it entered: it is pushed on
    ({("Noise", 3): 0.1, ("Push", 3): 0.1}, 24 + 2, 5),
    # the end is inside: undone from there to step 10
    ({("Noise", 12): 0.1}, 24 + 2 * 2, 4 + 1),
    # ... and when that is inside too, 4 back, to 8: looks at 9 and 12; that is the last try
    ({("Noise", 12): 0.1, ("Renoise", 12): 0.1}, 24 + (2 + 4) * 2, 4 + 1 + 2),
]


@pytest.mark.parametrize(("table", "nfe", "calls"), COSTS)
def test_cost_table(table, nfe, calls):
    given = {"n": 1, "eta": (1.0,), "reach": (0.5,), "start": 3, "every": 3, "tries": 2, "obstacles": [at(0, 0)]}
    _, winner, ctx = search(repulsion.search, sampler(T), world=scripted(table), **given)
    clear = table.get((type(winner.origin.how).__name__, T), 9.0) > 0.5
    assert ctx.charged.nfe == nfe
    assert ctx.charged.reward_calls == calls + clear  # the end is scored if it is clear


def test_other_settings_cost_nothing_for_paths_that_meet_nothing():
    given = {"n": 3, "eta": (1.0, 0.1), "reach": (0.2, 0.4, 0.8), "obstacles": [at(30, 30), at(-30, 0)]}
    _, _, ctx = search(repulsion.search, sampler(T), **given)
    assert ctx.charged.nfe == 3 * 24


def test_a_video_of_a_text_is_charged_once():
    """The obstacle is the model's own video of another prompt: 24 NFE more, for looks and pushes together."""
    s, world = sampler(T), Interpreter()
    (barrier,) = barriers([obstacles.Text("b", n=2, seed=7)], s, None, None)
    assert [p.origin for p in barrier.obstacle.points] == [Noise(7, 0), Noise(7, 1)]
    given = {"n": 1, "eta": (1.0,), "reach": (0.01,), "obstacles": [barrier]}
    _, winner, ctx = search(repulsion.search, s, world=world, **given)
    assert isinstance(winner.origin, Noise)
    assert ctx.charged.nfe == 24 + 2 * 24
    given |= {"reach": (5.0,), "tries": 0}
    _, winner, ctx = search(repulsion.search, s, world=world, **given)
    pushes = sum(isinstance(o.how, Push) for o in (winner.origin, *(a.origin for a in winner.ancestors())))
    assert pushes == T - T // 4
    assert ctx.charged.nfe == 24 + 2 * 24 + 2 * pushes


def test_the_end_of_a_budget_gives_the_best_clear_one():
    s, world, barrier, scored = sampler(T), Interpreter(), at(*MODEL.means[0].numpy()), 0
    for seed in range(8):
        given = {"n": 3, "eta": (1.0, 0.1), "reach": (0.4, 0.9), "h": 0.05}
        whole = context(s, seed=seed, world=world, obstacles=[barrier])
        asyncio.run(repulsion.search(whole, **given))
        nfe = whole.charged.nfe - 2
        ctx = context(s, seed=seed, world=world, obstacles=[barrier], nfe=nfe)
        with contextlib.suppress(BudgetExhausted):  # a last look may cost nothing
            asyncio.run(repulsion.search(ctx, **given))
        assert ctx.charged.nfe + ctx.meter.ledger.remaining(ctx.best) <= nfe
        if ctx.history.exhausted and ctx.history.rows:
            scored += 1
            assert rms(world.estimate(denoise(ctx.best, T)) - MODEL.means[0].numpy()) > 0.4
    assert scored >= 3


# -- on the engine ---------------------------------------------------------------------------------------------------

POLICY = {"name": "repulsion", "n": 2, "start": 2, "reach": [0.3, 0.5], "eta": [1.0]}


def test_on_fakes_the_meter_is_exact_and_the_fleet_changes_nothing(tmp_path):
    given = {"policy": POLICY, "obstacles": [{"text": "b"}, {"text": "c", "n": 2, "space": "features"}]}
    one, progress = run(tmp_path / "one", prompts=["a"], **given)
    assert one[0]["nfe"] == one[0]["nfe_spent"] == progress.engine.nfe
    fleet = FakeFleet(denoisers=3, slots=2, scorers=3)
    few, _ = run(tmp_path / "a", seeds=[0, 1, 2, 3], **given)
    many, _ = run(tmp_path / "b", fleet, seeds=[0, 1, 2, 3], **given)
    assert [r["reason"] for r in few] == [""] * 8
    assert {r["search_id"]: (r["winner"], r["nfe"]) for r in few} == {
        r["search_id"]: (r["winner"], r["nfe"]) for r in many
    }
    starts = [getattr(c.request, "start", None) for r in fleet.replicas for c in r.calls]
    kinds = {start.how.kind for start in starts if start}
    assert {"noise", "push", "renoise"} <= kinds


def test_obstacles_that_are_lost_are_made_again(tmp_path):
    given = {"policy": POLICY, "obstacles": [{"text": "b"}], "prompts": ["a"]}
    rows, _ = run(tmp_path / "a", **given)
    lost = []

    class Forgetful(FakeReplica):
        async def _score(self, request, inputs):
            if "point 0" in inputs and len(lost) < 3:
                lost.append(replace(inputs["point 0"], lost=True))
                return await self.run(Call(request, inputs | {"point 0": lost[-1]}))
            return await super()._score(request, inputs)

    fleet = FakeFleet()
    fleet.replicas = [Forgetful(r.id, r.kind, r.node) if r.kind == "scorer" else r for r in fleet.replicas]
    again, progress = run(tmp_path / "b", fleet, **given)
    assert len(lost) == 3
    assert progress.engine.recomputed == 3
    assert [r["winner"] for r in again] == [r["winner"] for r in rows]


def test_the_dry_run_prices_it_and_arms_may_have_their_own(tmp_path):
    c = fake_config(
        arms=[
            {"name": "plain", "policy": {"name": "best_of_n", "n": 2}},
            {"name": "around", "policy": POLICY, "obstacles": [{"text": "b"}]},
        ]
    )
    plan = FakeBackend().prepare(c, configuration.arms(c))
    assert [len(a.obstacles) for a in plan.arms] == [0, 1]
    costs = estimate(plan, [Prompt("a")], [0])
    assert costs["around"].nfe > costs["plain"].nfe == 40
    rows, _ = run(tmp_path / "run", prompts=["a"], arms=c.arms)
    assert [r["status"] for r in rows] == ["done", "done"]


def test_a_changed_file_is_another_content_and_another_machine_is_not(tmp_path):
    def content(color: str, fingerprint: str = "") -> bytes:
        Image.new("RGB", (8, 8), color).save(tmp_path / "bad.png")
        c = fake_config(obstacles=[{"text": "b"}, {"image": str(tmp_path / "bad.png")}, {"reward": {}}])
        plan = FakeBackend().prepare(c, configuration.arms(c))
        (arm,) = plan.arms
        sampler_ = replace(arm.sampler, fingerprint=fingerprint)
        met = barriers(arm.arm.obstacles, sampler_, lambda key, block: arm.reward, c.model)
        return content_of(replace(plan, arms=(replace(arm, sampler=sampler_, obstacles=met),)), [Prompt("a")])

    assert content("red") == content("red", "another") != content("blue")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"policy": {"n": 0}}, "policy.n: 0 is not allowed; it must be at least 1"),
        ({"policy": {"h": 0}}, "policy.h: 0.0 is not allowed; it must be above 0"),
        ({"policy": {"eta": []}}, "policy.eta: () is not allowed; it must be a list of numbers above 0"),
        ({"policy": {"reach": [0.1, 0]}}, "policy.reach: (0.1, 0.0) is not allowed"),
        ({"policy": {"eta": 1.0}}, "policy.eta: 1.0 is not allowed; it must be a list"),
        ({"policy": {"tries": -1}}, "policy.tries: -1 is not allowed; it must be at least 0"),
        ({"policy": {"steps": 1}}, "policy.steps: unknown key"),
        ({"obstacles": ["b"]}, "obstacles[0]: 'b' is not allowed; it must be a mapping with one of text, image"),
        ({"obstacles": [{}]}, "obstacles[0]: {} is not allowed"),
        ({"obstacles": [{"text": "a", "video": "b"}]}, "it must be a mapping with one of text, image, video, reward"),
        ({"obstacles": [{"text": " "}]}, "obstacles[0].text: ' ' is not allowed"),
        ({"obstacles": [{"text": "b", "n": 0}]}, "obstacles[0].n: 0 is not allowed"),
        ({"obstacles": [{"text": "b", "m": 2}]}, "obstacles[0].m: unknown key; allowed here: text, n, seed, space"),
        ({"obstacles": [{"text": "b", "space": "pixels"}]}, "obstacles[0].space: 'pixels' is not allowed; it must be"),
        ({"obstacles": [{"image": "none.png"}]}, "obstacles[0].image: 'none.png' is not allowed"),
        ({"obstacles": [{"image": "README.md"}]}, "obstacles[0].image: 'README.md' is no picture that Pillow can read"),
        ({"obstacles": [{"video": "README.md"}]}, "obstacles[0].video: 'README.md' is no video that PyAV can read"),
        ({"obstacles": [{"reward": "pixel"}]}, "obstacles[0].reward: 'pixel' is not allowed; it must be a mapping"),
        ({"arms": [{"name": "a", "obstacles": [{"text": ""}]}]}, "arms[0] (a): obstacles[0].text: '' is not allowed"),
    ],
)
def test_mistakes_are_one_line(tmp_path, values, line):
    values = {"policy": {}, **values}
    with pytest.raises(ConfigError) as error:
        session(tmp_path / "run", **values | {"policy": {"name": "repulsion", **values["policy"]}})
    assert line in str(error.value)
    assert "\n" not in str(error.value)
