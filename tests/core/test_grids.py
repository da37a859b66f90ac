"""Grids of arms against hand-written tables, and which command takes which config."""

import yaml
from sweeps import BASE, BEST, RGRP, grid

from raysearch.__main__ import main
from raysearch.sweep import grid as sweep


def test_a_grid_is_the_table_written_by_hand():
    s = grid(
        {"policy": {"name": "single"}},
        {
            "policy": {"name": "evolution", "schedule": [2], "elite": 1},
            "along": {"policy.population": [[2, 2], [4, 3]], "policy.beta": [0.2, 0.1]},
            "across": {"sampler.name": ["unipc", "flow-sde"]},
        },
        {"name": "greedy", "policy": {"name": "best_of_n"}, "along": {"policy.n": [2]}, "budget": {"nfe": 80}},
        across={"sampler.num_steps": [10, 20]},
    )
    expected = """
        single-steps10                                          single-steps10              single    unipc    10
        single-steps20                                          single-steps20              single    unipc    20
        evolution-steps10-unipc-population2+2-beta0.2           evolution-steps10-unipc     evolution unipc    10
        evolution-steps10-unipc-population4+3-beta0.1           evolution-steps10-unipc     evolution unipc    10
        evolution-steps10-flow-sde-population2+2-beta0.2        evolution-steps10-flow-sde  evolution flow-sde 10
        evolution-steps10-flow-sde-population4+3-beta0.1        evolution-steps10-flow-sde  evolution flow-sde 10
        evolution-steps20-unipc-population2+2-beta0.2           evolution-steps20-unipc     evolution unipc    20
        evolution-steps20-unipc-population4+3-beta0.1           evolution-steps20-unipc     evolution unipc    20
        evolution-steps20-flow-sde-population2+2-beta0.2        evolution-steps20-flow-sde  evolution flow-sde 20
        evolution-steps20-flow-sde-population4+3-beta0.1        evolution-steps20-flow-sde  evolution flow-sde 20
        greedy-steps10-n2                                       greedy-steps10              best_of_n unipc    10
        greedy-steps20-n2                                       greedy-steps20              best_of_n unipc    20
    """
    found = [
        [a.name, s.points[a.name].curve, a.policy, a.sampler.name, str(a.sampler.num_steps)]
        for a in sweep.configuration.arms(s.config)
    ]
    assert found == [line.split() for line in expected.strip().splitlines()]
    assert s.axes == ["sampler.num_steps", "sampler.name", "policy.population", "policy.beta", "policy.n"]
    arms = {a.name: a for a in sweep.configuration.arms(s.config)}
    mutated = arms["evolution-steps20-flow-sde-population4+3-beta0.1"].arguments
    assert (mutated["schedule"], mutated["population"], mutated["beta"], mutated["elite"]) == ((2,), (4, 3), 0.1, 1)
    assert arms["greedy-steps20-n2"].budget.nfe == 80
    assert arms["single-steps10"].budget.nfe is None


def test_a_total_and_its_allocation_are_axes():
    s = grid(
        {
            "policy": {"name": "best_of_n", "n": 12},
            "allocation": {"name": "lowest_best", "share": 0.5},
            "along": {"budget.total_nfe": [800, 1600]},
            "across": {"allocation.cap": [4, 8]},
        },
        {"name": "by", "policy": {"name": "best_of_n"}, "budget": {"total_nfe": 800}}
        | {"across": {"allocation.name": ["uniform", "expected_improvement"]}},
    )
    found = [(a.name, a.budget.total_nfe, a.allocation) for a in sweep.configuration.arms(s.config)]
    assert found[:4] == [
        (f"best_of_n-cap{cap}-total{total}", total, {"name": "lowest_best", "cap": cap, "share": 0.5})
        for cap in (4, 8)
        for total in (800, 1600)
    ]
    assert [(name, a["name"]) for name, _, a in found[4:]] == [
        ("by-uniform", "uniform"),
        ("by-expected_improvement", "expected_improvement"),
    ]


def test_a_curve_starts_from_the_configs_own_policy_and_an_axis_may_be_deep():
    rewards = {"search": {"name": "pixel", "weights": {"TA": 1.0}}}
    s = grid(
        {"along": {"policy.n": [2, 4]}, "across": {"rewards.search.weights.TA": [1.0, 2.0]}},
        policy={"name": "best_of_n"},
        rewards=rewards,
    )
    arms = sweep.configuration.arms(s.config)
    assert [a.name for a in arms] == [f"best_of_n-TA{w}-n{n}" for w in (1.0, 2.0) for n in (2, 4)]
    assert [a.rewards.search for a in arms[::2]] == [{"name": "pixel", "weights": {"TA": w}} for w in (1.0, 2.0)]


def test_a_curve_with_a_policy_of_its_own_leaves_the_configs_arguments_and_goes_on_by_itself():
    s = grid({"policy": {"name": "single"}}, policy={"name": "best_of_n", "n": 3})
    assert [a.arguments for a in sweep.configuration.arms(s.config)] == [{}]
    assert s.config.resume == "auto"


def test_a_sweeps_noises_are_apart_unless_it_says_otherwise():
    assert grid(BEST).config.seeds_apart
    assert not grid(BEST, seeds_apart=False).config.seeds_apart
    assert not sweep.configuration.build(BASE).seeds_apart


def test_the_baseline_is_single_or_the_first_arm_or_the_one_named():
    def of(*curves, **more):
        config = grid(*curves, **more).config
        return sweep.configuration.baseline(config, sweep.configuration.arms(config)).name

    assert of(BEST, {"policy": {"name": "single"}}) == "single"
    assert of(BEST, RGRP) == "best_of_n-n1"
    assert of(BEST, RGRP, baseline="rgrp-beta0.1-n4") == "rgrp-beta0.1-n4"


def test_a_curve_may_have_obstacles_of_its_own():
    around = {"name": "around", "policy": {"name": "repulsion"}, "obstacles": [{"text": "b"}]}
    free = {**around, "name": "free", "obstacles": []}
    s = sweep.build({**BASE, "sweep": {"curves": [around, free]}})
    assert [len(a.obstacles) for a in sweep.configuration.arms(s.config)] == [1, 0]


def test_names_are_file_safe_short_and_distinct():
    prompts = ["ugly: a/b", "ugly: a.b", "x" * 200, "x" * 201]
    s = grid({"policy": {"name": "single"}, "across": {"sampler.negative_prompt": prompts}})
    names = list(s.points)
    assert len(set(names)) == 4
    assert all(len(n) <= 64 and all(ch.isalnum() or ch in "._+-" for ch in n) for n in names)
    assert names[0].startswith("single-negative_prompt-ugly--a-b-")


def test_each_command_says_which_configs_it_takes(tmp_path, capsys):
    plain, swept = tmp_path / "plain.yaml", tmp_path / "swept.yaml"
    plain.write_text(yaml.safe_dump(BASE))
    swept.write_text(yaml.safe_dump(BASE | {"sweep": {"curves": [BEST]}}))
    assert main(["sweep", str(plain)]) == 2
    assert "raysearch: sweep: None is not allowed; it must be a mapping with curves" in capsys.readouterr().err
    assert main(["run", str(swept)]) == 2
    assert "run by `python -m raysearch sweep`" in capsys.readouterr().err
    swept.write_text(yaml.safe_dump(BASE | {"sweep": {"curves": [BEST]}, "arms": [{"name": "x"}]}))
    assert main(["sweep", str(swept)]) == 2
    assert "it must be left out: a sweep makes its own" in capsys.readouterr().err
