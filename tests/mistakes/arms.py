"""Arms, policies and rewards by name, and obstacles."""

from actors.shipped import REWARDS as SHIPPED
from mistakes import Mistake

POLICIES = "there are beam, best_of_n, bfs, ..., or module:function"
REWARDS = f"there are {', '.join(SHIPPED)}, or module:Class"
NAME = "a name of 1 to 64 letters, digits and . _ + -"


def arm(block: str, line: str, **more: object) -> Mistake:
    """A config with one arm."""
    return Mistake([f"arms=[{block}]"], line, **more)


def avoid(block: str, line: str, **more: object) -> Mistake:
    """A config with one obstacle."""
    return Mistake([f"obstacles=[{block}]"], line, **more)


TABLE = [
    # arms
    Mistake("arms=5", "arms: 5 is not allowed; it must be a list, such as [5]"),
    Mistake(["arms={name: a}"], "arms: {'name': 'a'} is not allowed; it must be a list"),
    Mistake("arms=[]", "arms: [] is not allowed; it must be a list of at least one arm"),
    arm("3", "arms[0]: 3 is not allowed; it must be a mapping"),
    arm("null", "arms[0]: None is not allowed; it must be a mapping"),
    arm("single", "arms[0]: 'single' is not allowed; it must be a mapping, such as {name: single}"),
    arm("{}", f"arms[0].name is missing: it must be {NAME}"),
    arm("{policy: {name: single}}", f"arms[0].name is missing: it must be {NAME}"),
    arm(
        "{nme: a}", "arms[0].nme: unknown key (did you mean 'name'?); allowed here: name, policy, sampler, budget, ..."
    ),
    arm("{name: a, model: {}}", "arms[0].model: unknown key; allowed here: name, policy, sampler, budget, ..."),
    arm("{name: 3}", "arms[0].name: 3 is not allowed; it must be of type str"),
    arm("{name: a b}", f"arms[0].name: 'a b' is not allowed; it must be {NAME}"),
    arm("{name: a/b}", f"arms[0].name: 'a/b' is not allowed; it must be {NAME}"),
    arm("{name: ''}", f"arms[0].name: '' is not allowed; it must be {NAME}"),
    arm(f"{{name: {'x' * 65}}}", f"arms[0].name: '{'x' * 65}' is not allowed; it must be {NAME}"),
    arm("{name: a}, {name: a}", "arms: ['a', 'a'] is not allowed; it must be differently named"),
    arm("{name: a}, 5", "arms[1]: 5 is not allowed; it must be a mapping"),
    arm(
        "{name: a, policy: single}",
        "arms[0].policy: 'single' is not allowed; it must be a mapping, such as {name: ...}",
    ),
    arm("{name: a, policy: {name: nonesuch}}", f"arms[0] (a): policy.name: no policy 'nonesuch'; {POLICIES}"),
    arm("{name: a, policy: {n: 3}}", "arms[0] (a): policy.n: unknown key; allowed here: none"),
    arm("{name: a, sampler: 5}", "arms[0].sampler: 5 is not allowed; it must be a mapping"),
    arm(
        "{name: a, sampler: {steps: 5}}",
        "arms[0] (a): sampler.steps: unknown key...; allowed here: name, num_steps, ...",
    ),
    arm(
        "{name: a, sampler: {num_steps: 0}}", "arms[0] (a): sampler.num_steps: 0 is not allowed; it must be at least 1"
    ),
    arm("{name: a, budget: {nfe: 0}}", "arms[0] (a): budget.nfe: 0 is not allowed; it must be above 0"),
    arm("{name: a, rewards: {serch: {}}}", "arms[0] (a): rewards.serch: unknown key (did you mean 'search'?); ..."),
    arm(
        "{name: a, rewards: {search: near}}",
        "arms[0] (a): rewards.search: 'near' is not allowed; it must be a mapping such as {name: pixel}, or ...",
    ),
    arm("{name: a, obstacles: 5}", "arms[0].obstacles: 5 is not allowed; it must be a list, ..."),
    arm(
        "{name: a, obstacles: [5]}",
        "arms[0] (a): obstacles[0]: 5 is not allowed; it must be a mapping with one of text, ...",
    ),
    Mistake(
        ["policy={name: rgrp, schedule: [2]}", "arms=[{name: a, policy: {name: single}}]"],
        "policy: {'name': 'rgrp', 'schedule': [2]} is not allowed; it must be left out: every arm names its own ...",
    ),
    Mistake("baseline=rgrp", "baseline: no arm 'rgrp'; there are single"),
    Mistake(
        ["arms=[{name: single}, {name: best-of-4, policy: {name: best_of_n}}]", "baseline=best-of-5"],
        "baseline: no arm 'best-of-5' (did you mean 'best-of-4'?); there are single, best-of-4",
    ),
    # policies
    Mistake("policy.name=nonesuch", f"policy.name: no policy 'nonesuch'; {POLICIES}"),
    Mistake("policy.name=best_of_m", f"policy.name: no policy 'best_of_m' (did you mean 'best_of_n'?); {POLICIES}"),
    Mistake("policy.name=3", f"policy.name: no policy 3; {POLICIES}"),
    Mistake("policy.name=[single]", f"policy.name: no policy ['single']; {POLICIES}"),
    Mistake("policy={}", f"policy.name: no policy None; {POLICIES}"),
    Mistake(["policy={n: 3}"], f"policy.name: no policy None; {POLICIES}"),
    Mistake(["policy.nme=x", "arms=[{name: a, policy: {name: single}}]"], f"policy.name: no policy None; {POLICIES}"),
    Mistake("policy.name=best_of_n policy.m=3", "policy.m: unknown key; allowed here: n"),
    Mistake("policy.name=best_of_n policy.n=three", "policy.n: 'three' is not allowed; it must be of type int"),
    Mistake("policy.name=best_of_n policy.n=true", "policy.n: True is not allowed; it must be of type int"),
    Mistake("policy.name=rgrp policy.schedule=2", "policy.schedule: 2 is not allowed; it must be a list, such as [2]"),
    Mistake("policy.name=rgrp policy.schedule=[2.5]", "policy.schedule[0]: 2.5 is not allowed; it must be of type int"),
    Mistake(
        "policy.name=rgrp policy.temperature=.inf", "policy.temperature: inf is not allowed; it must be a finite number"
    ),
    Mistake("policy.name=scaling_noise policy.weights=[1]", "policy.weights[1] is missing: the list is too short"),
    Mistake(
        ["policy={name: draft_commit, explore: {name: best_of_n, m: 3}}"],
        "policy.explore.m: unknown key; allowed here: n",
    ),
    Mistake(["policy={name: draft_commit, explore: 5}"], "policy.explore: 5 is not allowed; it must be a mapping"),
    Mistake(
        ["policy={name: draft_commit, explore: {name: nonesuch}}"],
        f"policy.explore.name: no policy 'nonesuch'; {POLICIES}",
    ),
    Mistake(
        "policy.name=best_of_n policy.n=0",
        "policy best_of_n (arm best_of_n): policy.n: 0 is not allowed; ...",
        heavy=True,
    ),
    Mistake(
        "policy.name=rgrp", "policy rgrp (arm rgrp): policy.schedule: 10 is not allowed; it must be ...", heavy=True
    ),
    Mistake("policy.name=sequential policy.bars=0.5", "policy.bars: 0.5 is not allowed; it must be a list, ..."),
    Mistake("policy.name=sequential policy.bars=[0.5,x]", "policy.bars[1]: 'x' is not allowed; ... of type float"),
    Mistake("policy.name=sequential policy.enough=high", "policy.enough: 'high' is not allowed; ... of type float"),
    Mistake(
        "policy.name=sequential policy.look=[12]",
        "policy.look: unknown key (did you mean 'looks'?); allowed ...",
    ),
    Mistake("policy.name=halving policy.early=1", "policy.early: 1 is not allowed; it must be of type bool, ..."),
    Mistake(
        "policy.name=sequential policy.looks=[2] policy.bars=[0.5,0.6]",
        "policy sequential (arm sequential): policy.bars: (0.5, 0.6) is not allowed; it must be a list of 1, ...",
        heavy=True,
    ),
    Mistake(
        "policy.name=sequential",
        "policy sequential (arm sequential): policy.looks: 12 is not allowed; it must be of steps in 0..7 ...",
        heavy=True,
    ),
    Mistake(
        "rewards.search.name=near policy.name=halving policy.n=0",
        "policy halving (arm halving): policy.n: 0 is not allowed; it must be at least 1",
        heavy=True,
    ),
    Mistake(
        "rewards.search.name=near policy.name=halving policy.schedule=[2] policy.early=true",
        "policy halving (arm halving): rewards.early is missing: the policy asks for it; ...",
        heavy=True,
    ),
    Mistake("policy.name=best_of_n", "policy best_of_n (arm best_of_n): rewards.search is missing: ...", heavy=True),
    Mistake(
        ["policy={name: sequential, looks: [2], bars: [0.5], early: true}", "rewards.search.name=verifier"],
        "policy sequential (arm sequential): rewards.early is missing: the policy asks for it; say "
        "rewards.early.name=pavrm",
        heavy=True,
    ),
    Mistake("rewards.early.name=pavm", f"rewards.early.name: no reward 'pavm' (did you mean 'pavrm'?); {REWARDS}"),
    Mistake("budget.nfe=15", "budget.nfe: 15 is not allowed; it must be at least 16, the NFE of one video", heavy=True),
    # rewards
    Mistake("rewards.search.name=beauty", f"rewards.search.name: no reward 'beauty'; {REWARDS}"),
    Mistake("rewards.final.name=pixl", f"rewards.final.name: no reward 'pixl' (did you mean 'pixel'?); {REWARDS}"),
    Mistake("rewards.holdout.name=3", f"rewards.holdout.name: no reward 3; {REWARDS}"),
    Mistake("rewards.search.name=:R", f"rewards.search.name: no reward ':R'; {REWARDS}"),
    Mistake("rewards.search={}", f"rewards.search.name: no reward None; {REWARDS}"),
    Mistake(["rewards.search={point: [1]}"], f"rewards.search.name: no reward None; {REWARDS}"),
    Mistake(
        ["rewards.search={name: near, pont: [1]}"], "rewards.search.pont: unknown key (did you mean ...", heavy=True
    ),
    Mistake(
        ["rewards.search={name: near, point: x}"],
        "rewards.search.point: 'x' is not allowed; it must be ...",
        heavy=True,
    ),
    Mistake(
        ["rewards.search={name: near, weights: 5}"],
        "rewards.search.weights: 5 is not allowed; it must be a mapping of nearness to numbers",
        heavy=True,
    ),
    Mistake(
        ["rewards.search={name: near, weights: {shiny: 1}}"],
        "rewards.search.weights: 'shiny' is not allowed; it must be one of nearness",
        heavy=True,
    ),
    *(
        Mistake(
            [f"rewards.search={{name: near, weights: {{nearness: {value}}}}}"],
            f"rewards.search.weights.nearness: {shown} is not allowed; it must be a finite number",
            heavy=True,
        )
        for value, shown in ((".nan", "nan"), ("true", "True"), ("x", "'x'"))
    ),
    # obstacles
    Mistake("obstacles=5", "obstacles: 5 is not allowed; it must be a list, such as [5]"),
    Mistake(["obstacles={text: a}"], "obstacles: {'text': 'a'} is not allowed; it must be a list"),
    avoid("5", "obstacles[0]: 5 is not allowed; it must be a mapping with one of text, image, video, reward"),
    avoid("{txt: a}", "obstacles[0]: {'txt': 'a'} is not allowed; it must be a mapping with one of text, image, ..."),
    avoid(
        "{text: a, image: b}", "obstacles[0]: {'text': 'a', 'image': 'b'} is not allowed; it must be a mapping with ..."
    ),
    avoid("{text: 3}", "obstacles[0].text: 3 is not allowed; it must be of type str"),
    avoid("{text: ' '}", "obstacles[0].text: ' ' is not allowed; it must be a text that is not empty"),
    avoid("{text: a, n: 0}", "obstacles[0].n: 0 is not allowed; it must be at least 1"),
    avoid("{text: a, seed: -1}", "obstacles[0].seed: -1 is not allowed; it must be in 0..2^63-1"),
    avoid(
        "{text: a, space: pixels}", "obstacles[0].space: 'pixels' is not allowed; it must be one of latent, features"
    ),
    avoid("{text: a, k: 1}", "obstacles[0].k: unknown key; allowed here: text, n, seed, space"),
    avoid(
        "{reward: pixel}", "obstacles[0].reward: 'pixel' is not allowed; it must be a mapping, such as {name: pixel}"
    ),
    avoid("{reward: {name: pixle}}", f"obstacles[0].reward.name: no reward 'pixle' (did you mean 'pixel'?); {REWARDS}"),
    avoid("{reward: {name: near}, worst: high}", "obstacles[0].worst: 'high' is not allowed; it must be of type float"),
]
