"""The configs of papers' comparisons on toys of their models' classes, which can do what the configs ask for."""

import re
import shlex
from pathlib import Path

import pytest
from diffusers import WanPipeline
from pipelines import KINDS, Kind, wan_net, wan_parts

import raysearch
from actors.models.roles import WORKERS
from actors.models.settled import settled
from actors.plan import checked_model
from actors.shipped import OWN, find
from raysearch.config import config as configuration
from raysearch.config.binding import bind

PAPERS = Path(__file__).parents[2] / "configs" / "papers"
GUIDE = (PAPERS / "README.md").read_text()


def wan(**config: bool) -> WanPipeline:
    """A toy of a Wan pipeline with one transformer."""
    return WanPipeline(**wan_parts(), transformer=wan_net(), **config)


def overrides(start: str) -> list[str]:
    """Those that the guide gives in one pair of backticks, of which the first is `start`."""
    (text,) = re.findall(rf"`({re.escape(start)}\s[^`]*)`", GUIDE)
    return shlex.split(text)


CASES = {  # a config with the guide's overrides, and a pipeline of the model's class
    "evosearch": ("evosearch", [], Kind(wan, 9, 16)),
    "latsearch": ("latsearch", [], Kind(wan, 9, 16)),
    "scaling_noise": ("scaling_noise", [], Kind(lambda: wan(expand_timesteps=True), 9, 16)),
    "scaling_noise, FIFO": (
        "scaling_noise",
        overrides("sampler.name=euler"),
        Kind(lambda: wan(expand_timesteps=True), 33, 16),
    ),
    "video_t1": ("video_t1", [], KINDS["CogVideoX, DDIM"]),
    "flash_bon": ("flash_bon", [], Kind(wan, 1, 16)),
    "flash_bon, FLUX": ("flash_bon", overrides("model.path=black-forest-labs/FLUX.1-dev"), KINDS["FLUX"]),
}


def toy(case: str, folder: Path) -> list[str]:
    """All overrides that make a case's config one for its toy, which is saved in the folder."""
    name, given, kind = CASES[case]
    kind.make().save_pretrained(folder)
    own = configuration.load(PAPERS / f"{name}.yaml", given).sampler.name == "own"
    length = {"max_sequence_length": kind.max_sequence_length if own else 512}
    size = [f"model.{k}={v}" for k, v in (kind.blocks["model"] | length).items()]
    return [*given, f"model.path={folder}", *size, "prompts=[a red cube]", "seeds=[0]"]


@pytest.mark.parametrize("case", CASES)
def test_a_model_of_the_class_can_do_what_the_arms_ask(case, tmp_path):
    c = settled(configuration.load(PAPERS / f"{CASES[case][0]}.yaml", toy(case, tmp_path)), lambda line: None)
    model = checked_model(c, configuration.arms(c))
    assert model.source.folder == tmp_path
    assert model.source.runs_pipeline == (c.sampler.name == "own")


@pytest.mark.parametrize("path", sorted(PAPERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_rewards_take_the_arguments_that_are_given(path):
    for arm in configuration.arms(configuration.load(path)):
        for kind, block in vars(arm.rewards).items():
            members = [] if block is None else block.get("of", [block])
            for i, member in enumerate(members):
                given = {k: v for k, v in member.items() if k not in OWN}
                bind(find(member["name"]), given, f"rewards.{kind}[{i}]")


@pytest.mark.parametrize("case", ["flash_bon", "flash_bon, FLUX"])
def test_drafts_of_a_tournament_are_made_and_the_winner_rendered(case, tmp_path):
    given = toy(case, tmp_path / "toy")
    here = ["fleet.backend=local", *(f"fleet.{kind}s.num_gpus=0" for kind in WORKERS), "fleet.encoders.release=false"]
    rewards = [f"rewards.{kind}.name=tiny:Redness" for kind in ("search", "compare", "holdout")]
    few = ["sampler.num_steps=12", "fleet.encoders.cache=false", f"run_dir={tmp_path / 'run'}"]
    run = raysearch.run(PAPERS / "flash_bon.yaml", [*given, *here, *rewards, *few], report=lambda line: None)
    rows = {r["arm"]: r for r in run.searches.to_pylist()}
    assert {(r["status"], r["reason"]) for r in rows.values()} == {("done", "")}
    assert rows["whole"]["reward_holdout"] >= rows["base"]["reward_holdout"]
    # With as many steps for a draft as for an image, 28 of them find at least what 8 do.
    assert rows["drafts"]["reward_holdout"] >= rows["whole"]["reward_holdout"]
