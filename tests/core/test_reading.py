"""A file and its overrides: what a value means, and what of the file it replaces."""

import pytest

from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.config.reading import read
from raysearch.errors import ConfigError

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
