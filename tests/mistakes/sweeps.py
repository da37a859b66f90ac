"""Configs of sweeps and of collections."""

from mistakes import Mistake

KEYS = "unknown key; allowed here: policy.…, sampler.…, budget.…, rewards.…, allocation.…"
LISTED = "it must be a list of at least one value"


def curves(block: str, line: str, *more: str, **others: object) -> Mistake:
    """A sweep with these curves."""
    return Mistake(["sweep", "config.yaml", f"sweep.curves=[{block}]", *more], line, **others)


def of(block: str, line: str) -> Mistake:
    """A sweep whose first curve has best_of_n and these axes."""
    return curves(f"{{policy: {{name: best_of_n}}, {block}}}", f"sweep.curves[0]{line}")


def sweep(value: str, line: str) -> Mistake:
    """A sweep with this override."""
    return Mistake(["sweep", "config.yaml", value], line)


def collect(line: str, *overrides: str) -> Mistake:
    """A collection that the reward near grades, with these overrides."""
    return Mistake(["collect", "config.yaml", "rewards.final.name=near", *overrides], line)


TABLE = [
    sweep("sweep=5", "sweep: 5 is not allowed; it must be a mapping with curves"),
    sweep("sweep={}", "sweep.curves: None is not allowed; it must be a list of at least one curve"),
    sweep("sweep.curves=5", "sweep.curves: 5 is not allowed; it must be a list of at least one curve"),
    sweep("sweep.curves={a: b}", "sweep.curves: {'a': 'b'} is not allowed; it must be a list of at least one curve"),
    sweep("sweep.curve=[1]", "sweep.curve: unknown key (did you mean 'curves'?); allowed here: curves, across"),
    curves("", "sweep.curves: [] is not allowed; it must be a list of at least one curve"),
    curves("5", "sweep.curves[0]: 5 is not allowed; it must be a mapping like an arm's, with `along` and `across`"),
    curves(
        "{polcy: {}}", "sweep.curves[0].polcy: unknown key (did you mean 'policy'?); allowed here: name, policy, ..."
    ),
    curves("{policy: single}", "sweep.curves[0].policy: 'single' is not allowed; it must be a mapping"),
    curves(
        "{policy: {name: nonesuch}}", "sweep.curves[0] (nonesuch): policy.name: no policy 'nonesuch'; there are ..."
    ),
    curves("{policy: {name: single}, sampler: 5}", "sweep.curves[0].sampler: 5 is not allowed; it must be a mapping"),
    curves("{obstacles: 5}", "sweep.curves[0] (single): obstacles: 5 is not allowed; it must be a list, such as [5]"),
    curves("{name: 3}", "sweep.curves[0].name: 3 is not allowed; it must be a text"),
    curves("{name: ''}", "sweep.curves[0].name: '' is not allowed; it must be a text"),
    curves(
        "{rewards: {search: {name: neer}}}",
        "rewards.search.name: no reward 'neer' (did you mean 'near'?); there are ...",
    ),
    curves(
        "{name: a}, {name: a, sampler: {num_steps: 4}}",
        "sweep.curves[1]: 'a' is not allowed; it must be given a `name`: another curve has this",
    ),
    curves(
        "{}, {name: b}", "sweep.curves[1]: 'b' is not allowed; it must be another arm than single, which does the same"
    ),
    curves(
        "{along: {policy.name: [single, rgrp]}}",
        "sweep.curves[0].name: None is not allowed; it must be given, as policy.name is in along",
    ),
    of("along: 5", ".along: 5 is not allowed; it must be a mapping of keys like policy.n to lists"),
    of("along: {policy.n: 3}", f".along.policy.n: 3 is not allowed; {LISTED}"),
    of("along: {policy.n: []}", f".along.policy.n: [] is not allowed; {LISTED}"),
    of("along: {n: [3]}", f".along.n: {KEYS}"),
    of("along: {policy: [3]}", ".along.policy: unknown key (did you mean 'policy.…'?); allowed here: ..."),
    of("along: {policy.m: [1]}", " (best_of_n-m1): policy.m: unknown key; allowed here: n"),
    of("along: {policy.n: [x]}", " (best_of_n-n-x): policy.n: 'x' is not allowed; it must be of type int"),
    of("across: {policy.n.x: [3]}", " (best_of_n-x3): policy.n: {'x': 3} is not allowed; it must be of type int"),
    of("across: {policy..n: [3]}", ".across.policy..n: 'policy..n' is not allowed; it must be a key like policy.n"),
    of("across: {policy.n: [1, 1]}", ".across.policy.n: [1, 1] is not allowed; it must be without repetition"),
    of("across: {seeds: [[0]]}", f".across.seeds: {KEYS}"),
    of("across: {model.height: [32]}", f".across.model.height: {KEYS}"),
    of(
        "across: {sampler.num_steps: [0]}",
        " (best_of_n-steps0): sampler.num_steps: 0 is not allowed; it must be at least 1",
    ),
    of(
        "across: {sampler.steps: [3]}",
        " (best_of_n-steps3): sampler.steps: unknown key (did you mean 'num_steps'?); ...",
    ),
    of(
        "along: {policy.n: [1, 2], sampler.num_steps: [5]}",
        ".along: {'policy.n': 2, 'sampler.num_steps': 1} is not allowed; it must be of equally long lists: ...",
    ),
    of(
        "along: {policy.n: [1]}, across: {policy.n: [2]}",
        ".along: 'policy.n' is not allowed; it must be left out: it is in across",
    ),
    curves(
        "{across: {sampler.num_steps: [3]}}",
        "sweep.curves[0].across: 'sampler.num_steps' is not allowed; it must be left out: it is in sweep.across",
        "sweep.across={sampler.num_steps: [5]}",
    ),
    curves(
        "{}", "sweep.across: 5 is not allowed; it must be a mapping of keys like policy.n to lists", "sweep.across=5"
    ),
    curves(
        "{policy: {name: best_of_n}}",
        "sweep: '1001 arms' is not allowed; it must be of at most 1000",
        f"sweep.across={{policy.n: {list(range(1001))}}}",
    ),
    curves(
        "{}", "arms: [{'name': 'a'}] is not allowed; it must be left out: a sweep makes its own", "arms=[{name: a}]"
    ),
    curves("{}", "collect: {} is not allowed; it must be left out of a sweep", "collect={}"),
    curves("{}", "seeds: 3 is not allowed; it must be a list, such as [3]", "seeds=3"),
    curves(
        "{}",
        "prompts[0].seed: 3 is not allowed; it must be left out, unless seeds_apart=false",
        "prompts=[{prompt: a, seed: 3}]",
    ),
    curves(
        "{policy: {name: best_of_n}, along: {policy.n: [1, 2]}}",
        "baseline: no arm 'best_of_n-n3' (did you mean 'best_of_n-n2'?); there are best_of_n-n1, best_of_n-n2",
        "baseline=best_of_n-n3",
    ),
    curves(
        "{across: {sampler.num_steps: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]}}",
        "baseline: no arm 'x'; there are single-steps2, ..., single-steps21 and 1 more",
        "baseline=x",
    ),
    curves("{}", "baseline: [3] is not allowed; it must be of type str", "baseline=[3]"),
    collect("collect: 5 is not allowed; it must be a mapping", "collect=5"),
    collect("collect.levels: [] is not allowed; it must be a list of at least one noise level", "collect.levels=[]"),
    collect("collect.levels: 0.5 is not allowed; it must be a list, such as [0.5]", "collect.levels=0.5"),
    collect("collect.levels: [0.0] is not allowed; it must be above 0 and at most 1", "collect.levels=[0]"),
    collect("collect.levels: [2.0] is not allowed; it must be above 0 and at most 1", "collect.levels=[2]"),
    collect("collect.levels: [0.5, 0.5] is not allowed; it must be without repetition", "collect.levels=[0.5,0.5]"),
    collect("collect.levels[1]: 'x' is not allowed; it must be of type float", "collect.levels=[1,x]"),
    collect(
        "collect.train: 1.0 is not allowed; it must be a share of the captions, between 0 and 1", "collect.train=1"
    ),
    collect("collect.train: 'x' is not allowed; it must be of type float", "collect.train=x"),
    collect("collect.trian: unknown key (did you mean 'train'?); allowed here: levels, train", "collect.trian=0.5"),
    collect("long.chunks: 2 is not allowed; it must be 1 with collect", "long.chunks=2"),
    collect("sweep: {} is not allowed; it must be left out of a collection", "sweep={}"),
    collect("resume: 'extend' is not allowed; it must be never, auto or require: ...", "resume=extend"),
    collect(
        "prompts[0].seed: 3 is not allowed; it must be left out of a collection",
        "prompts=[{prompt: a, seed: 3}]",
    ),
    collect(
        "rewards.final: {'name': 'pixel'} is not allowed; it must be the same in all arms: b's is not a's",
        "arms=[{name: a}, {name: b, rewards: {final: {name: pixel}}}]",
    ),
]
