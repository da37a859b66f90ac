"""Variance-preserving models, as the papers' own bases are: DDIM's steps, levels and kernels on the exact mixture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import MODEL
from runs import run as run_local

from actors.backend import Backend
from actors.models.mixture import Mixture
from actors.sampling import solvers
from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Candidate, Prompt, Sampler, ahead, invert
from raysearch.recipe.origins import Noise

VP = replace(MODEL, vp=True)
LEVELS = (1 - solvers.ddim({}).alphas_cumprod.double()).sqrt()
MIXTURE = Path(__file__).parents[2] / "actors" / "assets" / "mixture" / "model_index.json"


def sampler(n: int) -> Sampler:
    return Sampler(b"", "ddim", n, solvers.grid({}, "ddim", None, n), path="vp")


def descend(s: solvers.Solver, x: torch.Tensor, model: Mixture = VP) -> torch.Tensor:
    """(B, C) from a grid's first level to its last, by the model's noise at the solver's timesteps."""
    state = s.start(0)
    for i in range(s.num_steps):
        noise = model.noise(x.double(), LEVELS[s.timesteps[i]].expand(len(x))).float()
        x, state = s.step(state, s.velocity(noise, x, i), x)
    return x


def test_steps_are_diffusers_ddims():
    theirs = solvers.ddim({})
    theirs.set_timesteps(20)
    ours = solvers.solver({}, sampler(20))
    assert torch.equal(ours.timesteps, theirs.timesteps)
    generator = torch.Generator().manual_seed(0)
    x = y = torch.randn(4, 2, generator=generator)
    state = ours.start(0)
    for i, t in enumerate(theirs.timesteps):
        noise = torch.randn(4, 2, generator=generator)
        x, state = ours.step(state, ours.velocity(noise, x, i), x)
        y = theirs.step(noise, t, y, return_dict=False)[0]
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_the_estimate_is_the_posterior_mean():
    s, x = solvers.solver({}, sampler(10)), torch.tensor([[0.3, -0.8]])
    for i in (0, 4, 9):
        level = LEVELS[s.timesteps[i]].expand(1)
        v = s.velocity(VP.noise(x.double(), level).float(), x, i)
        torch.testing.assert_close(x - s.sigmas[i] * v, VP.denoised(x.double(), level).float(), atol=2e-4, rtol=1e-4)


def test_samples_are_the_mixtures():
    x = descend(solvers.solver({}, sampler(200)), torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)))
    nearest = (x[:, None].double() - MODEL.means).norm(dim=2).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / len(x)
    torch.testing.assert_close(shares.double(), MODEL.weights, atol=0.03, rtol=0)
    mean = (MODEL.weights[:, None] * MODEL.means).sum(0)
    torch.testing.assert_close(x.mean(0).double(), mean, atol=0.06, rtol=0)


def test_the_forward_kernel_has_the_marginals_of_the_higher_level():
    s = solvers.solver({}, sampler(10))
    for step, to_step in ((10, 3), (7, 2), (5, 5)):
        low, high = float(s.sigmas[step]), float(s.sigmas[to_step])
        one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        ratio, spread = float(s.renoise(one, step, to_step, zero)), float(s.renoise(zero, step, to_step, one))
        assert ratio * (1 - low**2) ** 0.5 == pytest.approx((1 - high**2) ** 0.5, abs=1e-5)
        assert (ratio * low) ** 2 + spread**2 == pytest.approx(high**2, abs=1e-5)


def test_an_inversion_leads_back():
    end = torch.tensor([[0.7, 1.2], [-1.3, 0.4]])
    x = Candidate(Prompt("a"), sampler(400), Noise(0, 0), 400)
    start = descend(solvers.solver({}, invert(x, 1.0).sampler), end)
    assert float((start - end).abs().max()) > 0.3
    torch.testing.assert_close(descend(solvers.solver({}, x.sampler), start), end, atol=0.03, rtol=0)


def test_a_lookahead_stays_on_the_path():
    x = Candidate(Prompt("a"), sampler(100), Noise(0, 0), 40)
    latent = torch.tensor([[0.4, -0.2]])
    whole = descend(solvers.solver({}, ahead(x, 60).sampler), latent)
    few = descend(solvers.solver({}, ahead(x, 12).sampler), latent)
    torch.testing.assert_close(few, whole, atol=0.05, rtol=0)
    assert solvers.solver({}, ahead(x, 60).sampler).timesteps[0] == solvers.solver({}, x.sampler).timesteps[40]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vp")
    index = json.loads(MIXTURE.read_text()) | {"path": "vp"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def values(**more):
    size = {"height": 1, "width": 1, "num_frames": 1}
    near = {"name": "near", "point": [0.5, 1.5]}
    base = {"model": size, "sampler": {"name": "ddim", "num_steps": 20, "guidance_scale": 1.0}}
    return base | {"rewards": {"search": near, "holdout": near}, "prompts": ["anywhere"]} | more


def test_policies_search_it(model, tmp_path):
    arms = [
        {"name": "single", "policy": {"name": "single"}},
        {"name": "best", "policy": {"name": "best_of_n", "n": 16}},
        {"name": "paths", "policy": {"name": "paths", "n": 4, "m": 4, "start": 8, "forward": 4, "backward": 6}},
        {"name": "beam", "policy": {"name": "beam", "k": 2, "n": 4, "every": 5, "back": 3}},
        {"name": "rgrp", "policy": {"name": "rgrp", "n": 8, "schedule": [8, 12], "beta": 1.0, "temperature": 0.1}},
    ]
    rows, _, _ = run_local(model, tmp_path / "run", **values(arms=arms, seeds=[0, 1, 2, 3]))
    mean = {a["name"]: np.mean([r["reward_holdout"] for r in rows if r["arm"] == a["name"]]) for a in arms}
    for name in ("best", "paths", "beam", "rgrp"):
        assert mean[name] > mean["single"] + 0.3


@pytest.mark.parametrize("name", ["euler", "unipc", "flow-sde"])
def test_solvers_of_flows_are_refused(model, name):
    c = configuration.build(
        values(model={"path": str(model), "height": 1, "width": 1, "num_frames": 1}, sampler={"name": name})
    )
    with pytest.raises(ConfigError, match=r"sampler\.name: .* is not allowed; it must be one of ddim for this model"):
        Backend().prepare(c, configuration.arms(c))


def test_ddim_is_refused_for_flows(tiny):
    c = configuration.build({"model": {"path": str(tiny), "height": 32, "width": 32, "num_frames": 9}}
        | {"sampler": {"name": "ddim"}, "prompts": ["a"]})  # fmt: skip
    with pytest.raises(ConfigError, match=r"sampler\.name: 'ddim' is not allowed; it must be one of unipc, euler"):
        Backend().prepare(c, configuration.arms(c))
