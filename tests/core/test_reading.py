"""A file and its overrides: what a value means, and what of the file it replaces."""

import pytest

from raysearch.__main__ import main
from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.config.reading import read
from raysearch.errors import ConfigError
from raysearch.session import dataset
from raysearch.sweep import grid

FILE = """\
model: {path: x}
prompts: [a]
policy: {name: best_of_n, n: 9}
sampler: {name: euler, num_steps: 7}
rewards: {search: {name: near, point: [1, 2], weights: {nearness: 2}}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    return path


def test_a_name_leaves_the_arguments_of_the_name_before(file):
    """One rule for policies, those within them, and rewards; a sampler's keys are the same for every name."""

    def policy(*overrides):
        return configuration.load(file, overrides).policy

    assert policy("policy.n=3") == {"name": "best_of_n", "n": 3}
    assert policy("policy.name=best_of_n") == {"name": "best_of_n", "n": 9}
    assert policy("policy.name=rbf") == policy("policy={name: rbf}") == {"name": "rbf"}
    assert (
        policy("policy.name=svdd", "policy.m=2")
        == policy("policy.m=2", "policy.name=svdd")
        == policy("policy={name: svdd, m: 2}")
    )
    explore = ("policy.name=draft_commit", "policy.explore={name: rbf}")
    assert policy(*explore)["explore"] == {"name": "rbf"}
    rewards = configuration.load(file, ["rewards.search.name=pixel"]).rewards
    assert rewards.search == {"name": "pixel"}
    assert configuration.load(file, ["rewards.search.weights.nearness=3"]).rewards.search["weights"] == {"nearness": 3}
    sampler = configuration.load(file, ["sampler.name=unipc"]).sampler
    assert (sampler.name, sampler.num_steps) == ("unipc", 7)


@pytest.mark.parametrize("text", ["2026", "007", "1e3", "2026-11-29", "true", "1_000", "0x10", "12:30", ".5"])
def test_a_text_is_what_is_written(file, text):
    """YAML would make numbers and truths of these."""
    found = configuration.load(file, [f"run_dir={text}", f"fleet.denoisers.accelerator={text}"])
    assert found.run_dir == found.fleet.denoisers.accelerator == text


def test_a_text_in_a_mapping_is_what_is_written(file):
    labels = configuration.load(file, ["fleet.denoisers.labels.zone=2026"]).fleet.denoisers.labels
    assert labels == {"zone": "2026"}


def test_other_values_are_what_yaml_makes_of_them(file):
    found = configuration.load(
        file, ["run_dir=null", "seeds=[1,2]", "output.videos=no", "sampler.eta=", "model.path='7'"]
    )
    assert (found.run_dir, found.seeds, found.output.videos, found.sampler.eta) == (None, [1, 2], False, None)
    assert found.model.path == "7"
    assert configuration.load(file, ["policy.name=rbf", "policy.name=svdd"]).policy["name"] == "svdd"


def test_a_reference_is_resolved_after_overrides(file):
    assert read(file, ["run_dir=runs/${model.path}", "model.path=y"], Config)["run_dir"] == "runs/y"


def test_prompts_with_quotes_or_of_one_word_may_have_commas_between_them(file):
    assert configuration.load(file, ["prompts=[x, y]"]).prompts == ["x", "y"]
    assert configuration.load(file, ["prompts=['a cat, asleep', 'a dog']"]).prompts == ["a cat, asleep", "a dog"]
    assert configuration.load(file, ["prompts=[a cat]"]).prompts == ["a cat"]
    with pytest.raises(ConfigError, match="quotes"):
        configuration.load(file, ["prompts=[a cat, asleep]"])


def over(file, text, name="own.yaml"):
    """Write a config whose base is `file` beside it, and return its path."""
    path = file.with_name(name)
    path.write_text(f"base: {file.name}\n{text}")
    return path


def test_a_base_has_what_a_file_leaves_out(file):
    """Mappings are merged, lists replaced, and a block of another name has none of the arguments."""
    own = over(file, "prompts: [b, c]\nsampler: {num_steps: 3}\nrewards: {search: {weights: {nearness: 3}}}\n")
    found = configuration.load(own)
    assert (found.sampler.name, found.sampler.num_steps) == ("euler", 3)
    assert (found.prompts, found.policy) == (["b", "c"], {"name": "best_of_n", "n": 9})
    assert found.rewards.search == {"name": "near", "point": [1, 2], "weights": {"nearness": 3}}
    assert configuration.load(over(file, "policy: {name: rbf}\n")).policy == {"name": "rbf"}
    assert configuration.load(over(file, "rewards: {search: null}\n")).rewards.search is None


def test_null_takes_away_what_a_base_has(file):
    """Any key that has a default, or is an entry of a mapping of blocks; but an argument of a policy may be null."""
    file.write_text(FILE + "seeds: [1, 2]\nparts: {vae: {tiling: true, dtype: float16}, unet: {}}\n")
    found = configuration.load(over(file, "policy: null\narms: [{name: a, policy: {name: rbf}}]\n"))
    assert found.policy == configuration.PLAIN and configuration.arms(found)[0].policy == "rbf"
    text = "sampler: {num_steps: null}\nseeds: null\nparts: {vae: {tiling: null}, unet: null}\npolicy: {n: null}\n"
    found = read(over(file, text), [], Config)
    assert found["sampler"] == {"name": "euler"} and "seeds" not in found
    assert found["parts"] == {"vae": {"dtype": "float16"}} and found["policy"] == {"name": "best_of_n", "n": None}
    for block in ("sampler", "rewards", "parts", "output"):
        assert not read(over(file, f"{block}: null\n"), [], Config).get(block)
    with pytest.raises(ConfigError, match=r"^model: None is not allowed; it must be a mapping"):
        configuration.load(over(file, "model: null\n"))


def test_overrides_come_after_the_base_and_the_file(file):
    own = over(file, "sampler: {num_steps: 3}\n")
    found = configuration.load(own, ["sampler.num_steps=2", "policy.n=1", "prompts=[z]"])
    assert (found.sampler.num_steps, found.policy["n"], found.prompts) == (2, 1, ["z"])


def test_a_base_is_written_out(file, capsys):
    """What runs is the whole config, and so are `--print-config` and a run's config.yaml; both name no base."""
    own = over(file, "sampler: {num_steps: 3}\n")
    whole = file.with_name("whole.yaml")
    whole.write_text(FILE.replace("num_steps: 7", "num_steps: 3"))
    assert configuration.load(own) == configuration.load(whole)
    assert main(["run", str(own), "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert main(["run", str(whole), "--print-config"]) == 0
    assert printed == capsys.readouterr().out and "\nbase:" not in "\n" + printed


def test_a_bases_path_is_from_the_folder_of_the_file(file, tmp_path, monkeypatch):
    folder = tmp_path / "mine" / "deep"
    folder.mkdir(parents=True)
    own = folder / "own.yaml"
    own.write_text("base: ../../c.yaml\nseeds: [5]\n")
    monkeypatch.chdir(folder.parent)
    assert configuration.load(own).seeds == [5]
    own.write_text(f"base: {file}\nseeds: [6]\n")
    assert configuration.load(own).seeds == [6]


def test_what_a_text_stands_for_is_found_in_either_file(file):
    own = over(file, "run_dir: runs/${sampler.name}-${sampler.num_steps}\nsampler: {num_steps: 3}\n")
    assert configuration.load(own).run_dir == "runs/euler-3"


def test_sweeps_and_collections_have_bases_too(file):
    swept = over(
        file, "policy: {name: single}\nsweep: {curves: [{policy: {name: best_of_n}, along: {policy.n: [1, 2]}}]}\n"
    )
    assert list(grid.load(swept).points) == ["best_of_n-n1", "best_of_n-n2"]
    again = swept.with_name("again.yaml")  # the grid itself may come from the base
    again.write_text("base: own.yaml\n")
    with pytest.raises(ConfigError, match=r"^base: .*own\.yaml' is not allowed; it must be a file without a base"):
        grid.load(again)
    collecting = over(file, "collect: {train: 0.5}\nrewards: {final: {name: near}}\n", "collect.yaml")
    assert dataset.load(collecting).collect.train == 0.5


def test_a_run_folder_has_no_base(file):
    """The config.yaml of a run may come from anyone: no other file is read for it."""
    own = over(file, "seeds: [5]\n")
    assert read(own, [], Config, resolve=False) == {"base": "c.yaml", "seeds": [5]}
