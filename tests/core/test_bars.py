"""`raysearch bars`: rules and what they are expected to do, by hand, by the policy itself, and from a run."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import fakes
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import scripted
import yaml

from policies import sequential
from raysearch.__main__ import main
from raysearch.bars.choice import Choice, block, chosen, folds
from raysearch.bars.report import text
from raysearch.bars.rollouts import Rollouts, read
from raysearch.bars.rules import Rule, best_of, latencies, measured
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.reward import Reward, Score

STEPS = 10


def table(reward: Sequence[Sequence[float]], *seen: Sequence[Sequence[float]], looks=(5,), **costs) -> Rollouts:
    """Searches with these rewards (S, N) of noises, finished and at the looks.

    Making costs 6 as far as the look at step 5 and 10 in all, a look 1, the last score 2, the answer's video 3.
    """
    finished = np.array(reward, float)
    ones = np.ones((*finished.shape, len(looks)))
    made = Rollouts(
        [f"{i:06d}-s{i}-a" for i in range(len(finished))],
        [f"caption {i}" for i in range(len(finished))],
        list(range(len(finished))),
        looks,
        False,
        np.stack(np.array(seen, float), 2) if seen else finished[:, :, None] * ones,
        finished,
        ones * (np.array(looks) + 1),
        ones,
        10 * np.ones(finished.shape),
        2 * np.ones(finished.shape),
        3 * np.ones(len(finished)),
    )
    return replace(made, **costs)


HALF = [[1, 1, 0, 0]] * 3  # of the noises are good
EXACT = table(HALF, HALF)  # the look tells which ones
BLIND = table(HALF, [[1, 0, 1, 0]] * 3)  # the look tells nothing


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_a_look_that_tells_everything_is_the_only_cost_of_a_bad_noise():
    """Of four noises two are good: on average 2/3 of a bad one comes before the first good one."""
    rule = Rule((5,), (1.0,), 1.0, 4)
    found = measured(EXACT, rule, 1)
    bad, good, video = 6 + 1, 10 + 1 + 2, 3
    assert found.reward == pytest.approx([1] * 3) and found.success == pytest.approx([1] * 3)
    assert found.cost == pytest.approx([2 / 3 * bad + good + video] * 3)
    two = measured(EXACT, replace(rule, n=2), 1)  # both are bad once in six times; then the answer is finished, too
    assert two.success == pytest.approx([5 / 6] * 3)
    assert two.cost == pytest.approx([(3 * good + 2 * (bad + good) + 2 * bad + 4) / 6 + video] * 3)
    blind = measured(EXACT, Rule((), (), 1.0, 4), 1)
    assert blind.cost == pytest.approx([2 / 3 * 12 + 12 + video] * 3)
    assert measured(EXACT, Rule((), (), None, 4), 1).cost == pytest.approx([4 * 12 + video] * 3)


def test_a_batch_pays_for_all_of_its_noises():
    """Of two noises at a time one is good 5/6 of the times; else both others are."""
    found = measured(EXACT, Rule((5,), (1.0,), 1.0, 4), 2)
    first = (2 * 13 + 4 * (7 + 13)) / 6  # one pair in six is good twice, four are mixed
    assert found.cost == pytest.approx([first + (2 * 7 + 2 * 13) / 6 + 3] * 3)
    rounds, latency = latencies(EXACT, Rule((5,), (1.0,), 1.0, 4), 2)
    assert set(rounds.ravel()) == {1, 2} and set(latency.ravel()) == {16, 23}
    assert rounds.mean() == pytest.approx(1 + 1 / 6, abs=0.05)


def test_the_best_rule_of_a_look_that_tells_everything():
    """A third noise is good if two were bad, and so a fourth is never tried; best-of-4 costs 51."""
    rule = Choice(EXACT, 1).rule(0.41 * 51)
    assert rule == Rule((5,), (1.0,), 1.0, 3)
    found = chosen(EXACT, cost=0.41, against=4, batch=1)
    assert found["policy"] == {
        "name": "sequential", "n": 3, "batch": 1, "looks": [5], "bars": [1.0], "enough": 1.0,
    }  # fmt: skip
    expected = {k: found["expected"][k] for k in ("gain", "gain_share", "cost", "cost_share", "success")}
    cost = 2 / 3 * 7 + 13 + 3
    wanted = {"gain": 0.5, "gain_share": 1, "cost": cost, "cost_share": cost / 51, "success": 1}
    assert expected == pytest.approx(wanted)
    assert found["cross_fitted"]["gain"] == pytest.approx([0.5] * 3)  # of equal captions
    assert found["cross_fitted"]["cost_share"] == pytest.approx([cost / 51] * 3)
    assert found["expected"]["rounds"] == {"p10": 1, "p50": pytest.approx(1.5, abs=0.5), "p90": 3}  # 1/2, 1/3, 1/6
    low, middle, high = found["expected"]["latency"].values()
    assert (low, high) == (16, 30) and middle in (16, 23)  # each bad one before the good one takes 7
    printed = text(found | {"arm": "exact", "unit": "NFE"})
    assert f"gain over one noise 0.5, 1.00 of best-of-4's, at {cost / 51:.2f} of its cost, which is 20.7 NFE" in printed
    assert "[1, 3] rounds" in printed and "[16, 30] NFE" in printed and "success 1.00" in printed


def test_two_looks_that_each_tell_one_half_are_both_chosen():
    """Two noises are good, the early look tells two of the bad ones, and the late look the two others."""
    both = table([[1, 1, 0, 0, 0, 0]] * 2, [[1, 1, 0, 0, 1, 1]] * 2, [[1, 1, 1, 1, 0, 0]] * 2, looks=(3, 6))
    rule = Choice(both, 1).rule(1000.0)
    assert rule == Rule((3, 6), (1.0, 1.0), 1.0, 5)
    early, late, good = 4 + 1, 7 + 2, 10 + 2 + 2
    assert measured(both, rule, 1).cost == pytest.approx([2 / 3 * early + 2 / 3 * late + good + 3] * 2)


def test_a_look_that_tells_nothing_is_not_chosen():
    for share in (0.3, 0.35, 0.46, 1.0):
        assert Choice(BLIND, 1).rule(share * 51).looks == ()
    assert Choice(BLIND, 1).rule(0.46 * 51) == Rule((), (), 1.0, 3)


def test_ties_are_broken_by_the_order_of_asking():
    """Both noises are given up alike, so the answer is either, and the mean of both is expected."""
    tied = table([[1, 0]] * 2, [[0, 0]] * 2)
    found = measured(tied, Rule((5,), (0.5,), None, 2), 1)
    assert found.reward == pytest.approx([0.5] * 2)
    assert found.cost == pytest.approx([2 * 7 + 4 + 3] * 2)


def test_best_of_n_is_the_best_of_a_random_choice():
    reward, cost = best_of(table([[3, 2, 1, 0]] * 2), 2)
    assert reward == pytest.approx([(3 * 3 + 2 * 2 + 1) / 6] * 2) and cost == pytest.approx([2 * 12 + 3] * 2)


# -- by the policy itself --------------------------------------------------------------------------------------------


class World:
    """Answers about the noises of search `s` in some order; seconds are those of the table."""

    def __init__(self, of: Rollouts, s: int, order: Sequence[int]) -> None:
        self.of, self.s, self.order = of, s, order

    async def answer(self, xs: Sequence[Candidate], reward: Reward) -> list[Score]:
        return [self._score(x) for x in xs]

    def _score(self, x: Candidate) -> Score:
        of, at = self.of, (self.s, self.order[x.origin.index])
        if x.finished:
            return Score((float(of.reward[at]),), float(of.made[at]), float(of.judging[at]))
        k = of.looks.index(x.step)
        return Score((float(of.seen[at][k]),), float(of.until[at][k]), float(of.looking[at][k]))


def drawn(seed: int, levels: int | None, *, size: int = 4) -> Rollouts:
    """A made-up table with looks at 3, 5 and 8; with `levels` its rewards tie."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(3, size))
    seen = reward[:, :, None] + rng.normal(size=(3, size, 3))
    if levels:
        reward, seen = np.round(reward * levels), np.round(seen * levels)
    costs = {k: rng.uniform(1, 2, (3, size, 3)) for k in ("looking",)}
    until = np.array([4, 6, 9]) + rng.uniform(0, 1, (3, size, 3))
    return table(reward, *np.moveaxis(seen, 2, 0), looks=(3, 5, 8), until=until, **costs)


def by_the_policy(of: Rollouts, rule: Rule, batch: int) -> np.ndarray:
    """Reward, cost, success and rounds (4, S) of `sequential`, over all orders of the noises."""
    found = []
    for s in range(len(of.ids)):
        for order in permutations(range(of.noises)):
            world = World(of, s, order)
            ctx = scripted.context(scripted.sampler(STEPS), world=world)
            arguments = {"looks": rule.looks, "bars": rule.bars, "enough": rule.enough, "n": rule.n, "batch": batch}
            (x,) = ctx.denoise([asyncio.run(sequential.search(ctx, **arguments))])
            at = s, order[x.origin.index]
            ctx.meter.charge_seconds(x, of.made[at], of.closing[s])
            noises = len({row.trajectory for row in ctx.history.rows})
            good = any(r.step == STEPS and r.reward >= (rule.enough or np.inf) for r in ctx.history.rows)
            found.append((of.reward[at], ctx.charged.replica_seconds, good, -(-noises // batch)))
    return np.array(found).reshape(len(of.ids), -1, 4).mean(1).T


@pytest.mark.parametrize("seed", range(12))
def test_expectations_are_those_of_the_policy_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    of, batch = drawn(seed, [None, 1][seed % 2]), [1, 1, 2, 3][seed % 4]
    looks = tuple(t for t in of.looks if rng.random() < 0.6)
    rule = Rule(looks, tuple(map(float, rng.normal(size=len(looks)).round())), [None, 1.0][seed % 3 > 0], 1 + seed % 4)
    reward, cost, success, rounds = by_the_policy(of, rule, batch)
    found = measured(of, rule, batch)
    assert found.reward == pytest.approx(reward) and found.cost == pytest.approx(cost)
    assert found.success == pytest.approx(success)
    drawn_rounds, latency = latencies(of, rule, batch)
    assert drawn_rounds.mean(1) == pytest.approx(rounds, abs=0.2)
    if batch == 1:  # nothing is done at the same time
        assert latency.mean(1) == pytest.approx(cost, rel=0.1)
    else:
        assert (latency.mean(1) <= cost * 1.1).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_higher_cost_never_gains_less(seed):
    choice = Choice(drawn(seed, None, size=6), 1)
    reward, costs = choice.means()
    best = []
    for cost in np.linspace(costs.min(), costs.max(), 30):
        rule = choice.rule(cost)
        found = measured(choice.of, rule, 1)
        assert found.cost.mean() <= cost * (1 + 1e-6)
        best.append(found.reward.mean())
    assert best == sorted(best) and best[-1] == pytest.approx(reward.max())


def test_every_caption_is_in_one_fold_and_all_folds_are_as_large():
    captions = [f"caption {i // 3}" for i in range(60)]
    found = folds(captions)
    assert len({(c, f) for c, f in zip(captions, found, strict=True)}) == 20
    assert np.bincount(found).tolist() == [12] * 5


def test_a_gain_that_only_the_chosen_captions_have_is_not_printed():
    """Noises of which a look and a reward are both luck: what is chosen on some captions gains less on the others."""
    rng = np.random.default_rng(0)
    luck = table(rng.normal(size=(20, 8)), rng.normal(size=(20, 8)))
    found = chosen(luck, cost=0.5, against=4, batch=1)
    value, low, high = found["cross_fitted"]["gain"]
    assert low < value < high and value < found["expected"]["gain"]


# -- from a run ------------------------------------------------------------------------------------------------------

TUNING = {"name": "sequential", "n": 5, "looks": [3, 6], "bars": None, "enough": None}
ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "tuning", "policy": TUNING},
    {"name": "glimpses", "policy": TUNING | {"early": True}, "rewards": {"early": {"name": "pavrm"}}},
]
CAPTIONS = [f"caption {i}" for i in range(10)]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run with two tuning arms on fakes, where a step and a score take a second each."""
    path = tmp_path_factory.mktemp("tuning") / "run"
    fakes.run(path, arms=ARMS, prompts=CAPTIONS, seeds=[1, 2], seeds_apart=True)
    return path


def test_a_run_is_read_as_it_was(run_dir):
    name, of = read(run_dir, "tuning", "seconds")
    assert name == "tuning" and of.looks == (3, 6) and not of.early
    assert (len(of.ids), of.noises, len(set(of.captions))) == (20, 5, 10)
    assert (of.until == [4, 7]).all() and (of.made == 10).all()  # a look reads the x0 prediction
    assert (of.looking == 1).all() and (of.judging == 1).all() and (of.closing == 1).all()
    _, early = read(run_dir, "glimpses", "seconds")
    assert early.early and (early.until == [3, 6]).all()  # this one does not
    assert (early.made == 10).all() and (early.closing == 1).all()
    assert early.seen == pytest.approx(10 * of.seen) and early.reward == pytest.approx(of.reward)


def test_a_search_whose_candidates_are_not_written_yet_is_left_out(run_dir, tmp_path):
    """While a run goes on, a table may be behind the other."""
    for name in ("searches.parquet", "candidates.parquet"):
        rows = pq.read_table(run_dir / name)
        late = pc.and_(pc.equal(rows["search_id"], "000003-s10-tuning"), name == "candidates.parquet")
        pq.write_table(rows.filter(pc.invert(late)), tmp_path / name)
    _, whole = read(run_dir, "tuning", "seconds")
    _, of = read(tmp_path, "tuning", "seconds")
    kept = [i for i, s in enumerate(whole.ids) if s != "000003-s10-tuning"]
    assert len(kept) == 19 and of.ids == [whole.ids[i] for i in kept]
    for k in ("seen", "reward", "until", "looking", "made", "judging", "closing"):
        assert (getattr(of, k) == getattr(whole, k)[kept]).all()


def test_nfe_are_told_from_steps(run_dir):
    _, of = read(run_dir, "tuning", "nfe")
    assert (of.until == [8, 14]).all() and (of.made == 20).all()  # guidance doubles
    assert not of.looking.any() and not of.judging.any() and not of.closing.any()
    assert (read(run_dir, "glimpses", "nfe")[1].until == [6, 12]).all()


def test_what_is_printed_is_a_block_of_a_config(run_dir, tmp_path, capsys):
    file = tmp_path / "found.json"
    command = ["bars", str(run_dir), "--cost", "0.6", "--arm", "glimpses", "--batch", "2", "--json", str(file)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())
    block = yaml.safe_load(printed)
    assert block == {"policy": found["policy"]}
    assert found["policy"]["looks"] and found["policy"]["early"] is True and found["policy"]["batch"] == 2
    assert min(found["policy"]["bars"]) > 1 > found["policy"]["enough"]  # each on its reward's scale
    assert found["expected"]["cost_share"] <= 0.6 and found["unit"] == "replica-seconds"
    rows, _ = fakes.run(tmp_path / "run", prompts=["a"], rewards={"early": {"name": "pavrm"}}, **block)
    assert rows[0]["status"] == "done"


def test_a_rule_that_is_run_costs_and_gains_what_was_expected(tmp_path):
    """A run has one order of each search's noises, so its means are near those that are expected over all orders."""
    rule = Rule((3,), (0.4,), 0.8, 4)
    policy = {"name": "sequential", "n": 4, "looks": [3], "bars": [0.4], "enough": 0.8}
    prompts, arms = [f"caption {i}" for i in range(120)], [*ARMS[1:2], {"name": "rule", "policy": policy}]
    rows, _ = fakes.run(tmp_path / "run", prompts=prompts, seeds=[7], seeds_apart=True, arms=arms)
    rows = [r for r in rows if r["arm"] == "rule"]
    found = measured(read(tmp_path / "run", None, "seconds")[1], rule, 1)
    assert np.mean([r["reward_search"] for r in rows]) == pytest.approx(found.reward.mean(), abs=0.02)
    assert np.mean([r["replica_seconds"] for r in rows]) == pytest.approx(found.cost.mean(), rel=0.05)
    assert np.mean([r["reward_search"] >= 0.8 for r in rows]) == pytest.approx(found.success.mean(), abs=0.05)


def test_a_rule_without_looks_names_no_early_reward():
    """Without rewards.early in the config that would be refused."""
    of = replace(EXACT, early=True)
    assert block(of, Rule((5,), (1.0,), None, 2), 1)["early"] is True
    assert "early" not in block(of, Rule((), (), 1.0, 2), 1)


def test_seeds_are_drawn_only_where_captions_share_them():
    rng = np.random.default_rng(0)
    of = table(rng.normal(size=(12, 4)), rng.normal(size=(12, 4)))
    captions = [f"caption {i // 2}" for i in range(12)]

    def gain(seeds):
        found = chosen(replace(of, captions=captions, seeds=seeds), cost=0.7, against=2, batch=1)
        return found["cross_fitted"]["gain"]

    apart = gain(list(range(12)))
    assert apart == gain(list(range(100, 112)))  # seeds have weights by their names
    shared = gain([0, 1] * 6)
    assert shared[0] == apart[0] and shared[1:] != apart[1:] and shared != gain([2, 3] * 6)


def test_rules_on_the_scale_of_search_name_no_early_reward(run_dir, capsys):
    assert main(["bars", str(run_dir), "--cost", "0.7", "--arm", "tuning", "--unit", "nfe"]) == 0
    printed = capsys.readouterr().out
    assert "early" not in yaml.safe_load(printed)["policy"] and "NFE" in printed and "seconds" not in printed
