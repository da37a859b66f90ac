"""Configs whose `base` is another file."""

from mistakes import BASE, Mistake


def own(base: str, line: str, **files: str) -> Mistake:
    """A run of own.yaml, whose base is as given, and the line."""
    return Mistake(["run", "own.yaml"], line, {"own.yaml": f"base: {base}\nseeds: [0]\n", **files})


TABLE = [
    own(
        "none.yaml",
        "base: 'none.yaml' is not allowed; it must be an existing YAML file, ...from the folder of own.yaml",
    ),
    own("3", "base: 3 is not allowed; it must be the path of a YAML file, from the folder of own.yaml"),
    own("[config.yaml]", "base: ['config.yaml'] is not allowed; it must be the path of a YAML file, from ..."),
    own("", "base: None is not allowed; it must be the path of a YAML file, from the folder of own.yaml"),
    own("''", "base: '' is not allowed; it must be the path of a YAML file, from the folder of own.yaml"),
    own(".", "base: '.' is not allowed; it must be an existing YAML file, ..."),
    own(
        "own.yaml",
        "base: 'own.yaml' is not allowed; it must be a file without a base of its own: that one has 'own.yaml'",
    ),
    own("https://example.org/a.yaml", "base: 'https:/example.org/a.yaml' is not allowed; it must be an existing ..."),
    Mistake(
        ["run", "own.yaml"],
        "base: 'middle.yaml' is not allowed; it must be a file without a base of its own: that one has 'config.yaml'",
        {"own.yaml": "base: middle.yaml", "middle.yaml": "base: config.yaml"},
    ),
    Mistake(
        ["run", "own.yaml"],
        "base: 'list.yaml' is not allowed; it must be a YAML mapping",
        {"own.yaml": "base: list.yaml", "list.yaml": "- a"},
    ),
    Mistake(
        ["run", "own.yaml"], "base: 'torn.yaml' is no YAML: ...", {"own.yaml": "base: torn.yaml", "torn.yaml": "a: [b"}
    ),
    Mistake(
        ["run", "own.yaml"],
        "policy: 'single' is not allowed; it must be a mapping",
        {"own.yaml": "base: text.yaml\npolicy: {n: 3}", "text.yaml": BASE + "policy: single"},
    ),
    Mistake(
        ["run", "own.yaml"],
        "sampler.num_step: unknown key (did you mean 'num_steps'?); ...",
        {"own.yaml": "base: config.yaml\nsampler: {num_step: 3}"},
    ),
    Mistake(
        "base=config.yaml", "base: 'config.yaml' is not allowed; it must be given in the config file, and not as ..."
    ),
    Mistake(["train", "own.yaml"], "base: 'none.yaml' is not allowed; ...", {"own.yaml": "base: none.yaml"}),
    Mistake(["sweep", "own.yaml"], "base: 'none.yaml' is not allowed; ...", {"own.yaml": "base: none.yaml"}),
]
