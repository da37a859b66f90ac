"""The configs of papers' comparisons: on fakes each arm costs what their guide says, and searches to the end."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest

from raysearch.config import config as configuration
from raysearch.config.config import SDE, Arm
from raysearch.recipe.candidate import Prompt
from raysearch.session import plan
from raysearch.session.plan import ArmPlan, Plan
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, run_virtual, virtual_now

PAPERS = Path(__file__).parents[2] / "configs" / "papers"
NAMES = sorted(path.stem for path in PAPERS.glob("*.yaml"))
GUIDE = (PAPERS / "README.md").read_text()
DRAWN = ("rgrp", "evolution")  # what they cost depends on rewards
PROMPTS = ["prompts=[a, b]", "seeds=[0]"]


def section(name: str) -> str:
    """What the guide says of a config."""
    return GUIDE.partition(f"\n## {name}.yaml\n")[2].partition("\n## ")[0]


def said(name: str) -> dict[str, int]:
    """The NFE of each arm in the guide's table."""
    return {arm: int(nfe) for arm, nfe in re.findall(r"\| `([\w-]+)` \| (\d+) \|$", section(name), re.M)}


class Backend(FakeBackend):
    """Fakes whose samplers are stochastic where an arm's is, and whose rewards.search reads latents where it does."""

    def prepare(self, config, arms, begun=None) -> Plan:
        return Plan(tuple(self._of(config, arm, begun) for arm in arms))

    def _of(self, config, arm: Arm, begun) -> ArmPlan:
        fakes = FakeBackend(self.fake, stochastic=arm.sampler.name in SDE)
        (made,) = fakes.prepare(config, [arm], begun).arms
        latent = (arm.rewards.search or {}).get("name") == "latent"
        return replace(made, reward=replace(made.reward, needs="latent")) if latent and made.reward else made


def test_the_guide_has_a_section_for_each_config():
    assert sorted(re.findall(r"^## (\w+)\.yaml$", GUIDE, re.M)) == NAMES
    assert len(NAMES) == 5
    for name in NAMES:
        assert f"run configs/papers/{name}.yaml" in section(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_costs_what_the_guide_says(name):
    c = configuration.load(PAPERS / f"{name}.yaml", PROMPTS)
    prepared = Backend().prepare(c, configuration.arms(c))
    drawn = {a.arm.name for a in prepared.arms if a.arm.policy in DRAWN}
    costs = [plan.estimate(prepared, [Prompt(str(i))], c.seeds) for i in range(64 if drawn else 1)]
    found = {a.arm.name: fmean(cost[a.arm.name].nfe for cost in costs) for a in prepared.arms}
    assert list(found) == [*said(name)]
    for arm, nfe in said(name).items():
        assert found[arm] == pytest.approx(nfe, rel=0.02 if arm in drawn else 0), arm


def test_rgrps_mean_cost_is_what_its_draws_leave():
    """Of 6 survive 3.9906 at step 11 and 2.7263 at 16 in expectation, one at 21 (LatSearch: 2.57 videos)."""
    expected = 2 * (6 * 11 + 3.9906 * 5 + 2.7263 * 5 + 29)
    assert said("latsearch")["rgrp"] == said("latsearch")["rgrp-dpm"] == round(expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_ends_with_a_winner(name, tmp_path):
    c = configuration.load(PAPERS / f"{name}.yaml", PROMPTS)
    run_virtual(Session(c, Backend(), run_dir=tmp_path / "run", clock=virtual_now).run())
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert len(rows) == 2 * len(said(name))
    assert {(r["status"], r["reason"]) for r in rows} == {("done", "")}
    costs = said(name)
    assert all(r["winner"] and (r["policy"] in DRAWN or r["nfe"] == costs[r["arm"]]) for r in rows)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_those_of_a_suite_or_the_configs_own(name):
    prompts = configuration.load(PAPERS / f"{name}.yaml").prompts
    if isinstance(prompts, dict):
        assert prompts["suite"] in ("vbench", "vbench2")
        assert prompts["path"] in GUIDE or Path(prompts["path"]).name in GUIDE
    else:
        assert name == "flash_bon"
