"""Whole pipelines of diffusers as models: the contract on each, and searches over each."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pipelines import KINDS
from safetensors.torch import load_file

import raysearch
from actors.backend import Backend
from actors.models.admission import TESTED
from actors.models.pipelines import Conditioner, Runs, contract
from actors.models.pipelines.call import arguments
from actors.models.pipelines.parts import pipeline
from actors.models.pipelines.shell import recording
from actors.models.source import Source
from raysearch.config import config as configuration
from raysearch.engine.protocol import Denoise, Start
from raysearch.recipe.origins import Branch, Noise

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast", "ignore:CPU Autocast")  # diffusers, of Mochi

SEED = 5
PROMPT = "a red circle moving left"


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return kind.save(tmp_path_factory.mktemp("pipeline"))


def config(kind, folder, tmp_path, **values):
    blocks = kind.blocks
    prompts = {"prompts": [PROMPT]}
    if kind.pictured:
        for name, shown in kind.pictures.items():
            shown.save(tmp_path / f"{name}.png")
        files = {name: f"{name}.png" for name in kind.pictures}
        (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT, **files}) + "\n")
        prompts = {"prompts_file": str(tmp_path / "prompts.jsonl")}
    return {
        **blocks, "model": {**blocks["model"], "path": str(folder)}, **prompts, "seeds": [SEED],
        "rewards": {"search": {"name": "tiny:Redness"}}, "fleet": {"backend": "local"},
        "output": {"frames": True}, "run_dir": str(tmp_path / "run"), **values,
    }  # fmt: skip


def test_the_contract_holds(kind, folder, tmp_path):
    plan = Backend().prepare(c := configuration.build(config(kind, folder, tmp_path)), configuration.arms(c))
    found = contract.measured(Source(folder), plan.arms[0].sampler, kind.pictures)
    assert found.holds, found


def test_an_encoder_loads_an_autoencoder_only_where_the_pipeline_encodes_with_it(tmp_path):
    for name, wanted in (("LTX", False), ("LTX from an image", True), ("Wan VACE", True)):
        kind = KINDS[name]
        folder = kind.save(tmp_path / name)
        c = configuration.build(config(kind, folder, tmp_path))
        encoder = Conditioner(Source(folder))
        assert next(encoder._pipeline.vae.parameters()).is_meta
        encoder(Backend().prepare(c, configuration.arms(c)).arms[0].sampler, PROMPT, kind.pictures)
        assert next(encoder._pipeline.vae.parameters()).is_meta != wanted


ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "best_of_n", "policy": {"name": "best_of_n", "n": 3}},
    {"name": "rgrp", "policy": {"name": "rgrp", "n": 2, "schedule": [2, 4]}},
    {"name": "paths", "policy": {"name": "paths", "n": 1, "m": 2, "start": 2, "forward": 1, "backward": 2}},
]


SMC = {"name": "smc", "policy": {"name": "smc", "n": 3, "every": 2, "threshold": 1.0, "strength": 1000.0}}


def test_searches_agree_with_the_pipeline_and_with_full_slots(kind, folder, tmp_path):
    arms = [*ARMS, SMC] if kind.stochastic else ARMS
    found = {}
    for slots in (1, 4):
        values = config(kind, folder, tmp_path, arms=arms, run_dir=str(tmp_path / f"run{slots}"))
        raysearch.run(
            {**values, "fleet": {"backend": "local", "denoisers": {"slots": slots}}}, report=lambda line: None
        )
        rows = pq.read_table(tmp_path / f"run{slots}" / "searches.parquet").to_pylist()
        assert [r["reason"] for r in rows] == [""] * len(arms)
        found[slots] = {r["arm"]: r for r in rows}
    (shown,) = (tmp_path / "run1").rglob("*single.npy")
    (sprite,) = (tmp_path / "run1" / "previews").glob("*best_of_n.webp")
    height, width = np.load(shown).shape[1:3]  # small enough to be shown as they are
    with Image.open(sprite) as opened:
        assert opened.size == (width * (1 if len(np.load(shown)) == 1 else 3), height)
    own = pipeline(Source(folder), "whole")
    call = {"prompt": PROMPT, "height": kind.size, "width": kind.size, "num_inference_steps": 6, "output_type": "np"}
    call |= kind.pictures
    blocks = kind.blocks
    takes = type(own).__call__.__wrapped__.__code__.co_varnames
    more = {"guidance_scale": kind.guidance_scale, "guidance_scale_2": kind.scale_2, "num_frames": kind.num_frames,
            "frames": kind.num_frames, "negative_prompt": "", "max_sequence_length": 16}  # fmt: skip
    call |= {k: v for k, v in more.items() if k in takes and v is not None} | blocks["sampler"]["call"]
    if hasattr(own, "guider"):
        own.guider.guidance_scale = kind.guidance_scale
    made = own(**call, generator=torch.Generator().manual_seed(SEED), return_dict=False)[0]
    frames = np.asarray(made)[0] if np.asarray(made).ndim == 5 else np.asarray(made)
    assert np.array_equal(np.load(shown), (frames * 255).round().astype(np.uint8))
    for arm, row in found[1].items():
        assert row["reward_search"] == pytest.approx(found[4][arm]["reward_search"], abs=1e-4)
        assert row["nfe"] == found[4][arm]["nfe"] > 0


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.stochastic])
def test_a_branch_is_the_pipelines_own_call_with_another_generator_from_there_on(name, tmp_path):
    """And it shares its parent's look at the step where it begins."""
    kind, step, key = KINDS[name], 3, 77
    source = Source(kind.save(tmp_path / "m"))
    c = configuration.build(config(kind, source.folder, tmp_path))
    sampler = Backend().prepare(c, configuration.arms(c)).arms[0].sampler
    assert sampler.stochastic
    runs, text = Runs(source), {"text": Conditioner(source)(sampler, PROMPT)}
    parent = ended(runs, Denoise(sampler, b"", 0, step, True, Start(Noise(SEED, 0), SEED)), text)
    leg = Denoise(sampler, b"", step, 6, False, Start(Branch(), key, step))
    child = ended(runs, leg, text | {"base": parent.to_state()})
    plain = ended(runs, replace(leg, start=None), text | {"base": parent.to_state()})

    def reseed(pipe, i, t, values):
        if i == step - 1:
            generator.manual_seed(key)
        return values

    own, generator = pipeline(source, "whole"), torch.Generator().manual_seed(SEED)
    call = {**arguments(type(own), sampler, PROMPT, decoded=False), "callback_on_step_end": reseed}
    expected = own(**call, generator=generator)[0]
    assert torch.equal(child.run.output[0], expected)
    assert not torch.equal(plain.run.output[0], expected)
    assert (parent.nfe, child.nfe) == (4 * sampler.nfe_per_step, 2 * sampler.nfe_per_step)


def ended(runs, request, inputs):
    leg = runs.admit(request, inputs)
    with torch.no_grad():
        while not leg.finished:
            runs.advance([leg])
    return leg


def test_obstacles_push_a_pipeline_as_they_push_latents(tmp_path):
    """The same videos of Wan 2.2, whose two experts also have a family: a text and a reward to keep away from."""
    kind = KINDS["Wan 2.2, two experts"]
    folder = kind.save(tmp_path / "m")
    obstacles = [{"text": "two dogs", "n": 2}, {"reward": {"name": "tiny:Redness"}, "worst": 0.5}]
    arms = [
        {"name": "single", "policy": {"name": "single"}, "obstacles": []},
        {"name": "repulsion", "policy": {"name": "repulsion", "n": 1, "eta": [0.05], "reach": [3.0]}},
    ]
    found = {}
    for name in ("own", "unipc"):
        values = config(kind, folder, tmp_path, arms=arms, obstacles=obstacles, run_dir=str(tmp_path / name))
        values["model"] |= {"max_sequence_length": 64}
        call = {"call": {}} if name == "own" else {}
        values["sampler"] = {k: v for k, v in values["sampler"].items() if k != "call"} | {"name": name, **call}
        raysearch.run({**values, "output": {"latents": True}}, report=lambda line: None)
        latents = {f.stem.split("-")[-1]: load_file(f)["latents"] for f in (tmp_path / name).rglob("*.safetensors")}
        rows = pq.read_table(tmp_path / name / "searches.parquet").to_pylist()
        found[name] = {r["arm"]: (r["nfe"], latents[r["arm"]].tolist()) for r in rows}
    assert found["own"] == found["unipc"]
    assert found["own"]["repulsion"][1] != found["own"]["single"][1]


def test_the_tested_classes_are_those_that_need_no_check():
    assert {type(kind.make()).__name__ for kind in KINDS.values()} == TESTED


@pytest.mark.parametrize("name", ["Wan 2.2, two experts", "Wan 2.2 from an image"])
def test_a_wan_pipeline_as_it_is_and_the_family_s_own_code_find_the_same(name, tmp_path):
    kind, found = KINDS[name], {}
    folder = kind.save(tmp_path / "model")
    for sampler in ("own", "unipc"):
        values = config(kind, folder, tmp_path, arms=ARMS, output={"latents": True}, run_dir=str(tmp_path / sampler))
        values["sampler"] = {k: v for k, v in values["sampler"].items() if k != "call"} | {"name": sampler}
        values["model"]["max_sequence_length"] = 64  # of the negative prompt and the caption, for the family
        raysearch.run(values, report=lambda line: None)
        rows = pq.read_table(tmp_path / sampler / "searches.parquet").to_pylist()
        assert [r["reason"] for r in rows] == [""] * len(ARMS)
        found[sampler] = {r["arm"]: r for r in rows}
    for arm, row in found["own"].items():
        other = found["unipc"][arm]
        # A parent's name depends on the sampler's.
        origins = [{k: v for k, v in json.loads(r["origin"]).items() if k != "parent"} for r in (row, other)]
        assert origins[0] == origins[1] and row["nfe"] == other["nfe"]
        latents = [load_file(tmp_path / s / "latents" / f"{row['search_id']}.safetensors") for s in found]
        assert torch.equal(latents[0]["latents"], latents[1]["latents"])


def test_an_error_of_torch_in_a_pipelines_own_code_is_the_legs_alone(tmp_path, monkeypatch):
    """Torch walks over the stack for its errors, so the pipeline needs a stack of its own."""
    kind = KINDS["LTX"]
    source = Source(kind.save(tmp_path / "m"))
    c = configuration.build(config(kind, source.folder, tmp_path))
    sampler = Backend().prepare(c, configuration.arms(c)).arms[0].sampler
    runs, text = Runs(source), {"text": Conditioner(source)(sampler, PROMPT)}

    def step(self, *args, **kwargs):
        return torch.zeros(4) + torch.zeros(8)

    good, bad = (runs.admit(Denoise(sampler, b"", 0, 2, False, Start(Noise(s, 0), s)), text) for s in (1, 2))
    monkeypatch.setattr(type(runs._pipeline.scheduler), "step", step)
    recording.cache_clear()
    leg = ended(runs, Denoise(sampler, b"", 0, 2, False, Start(Noise(3, 0), 3)), text)
    with pytest.raises(RuntimeError, match="must match the size"):
        leg.to_state()
    monkeypatch.undo()
    recording.cache_clear()
    bad.abandon()
    with torch.no_grad():
        while not good.finished:
            runs.advance([good])
    assert good.to_state().step == 2


def test_rows_of_two_experts_are_never_one_batch(tmp_path):
    """Candidates on both sides of the boundary, in four slots: what they are alone."""
    kind, found = KINDS["Wan 2.2, two experts"], {}
    folder = kind.save(tmp_path / "m")
    arms = [{"name": "paths", "policy": {"name": "paths", "n": 2, "m": 2, "start": 2, "forward": 1, "backward": 3}},
            {"name": "best_of_n", "policy": {"name": "best_of_n", "n": 3}}]  # fmt: skip
    for slots in (1, 4):
        to = {"arms": arms, "output": {"latents": True}, "run_dir": str(tmp_path / f"{slots}"), "seeds": [1, 2]}
        values = config(kind, folder, tmp_path, **to)
        values["sampler"] = {k: v for k, v in values["sampler"].items() if k != "call"} | {"name": "unipc"}
        values["model"]["max_sequence_length"] = 64
        fleet = {"backend": "local", "denoisers": {"slots": slots}}
        raysearch.run({**values, "fleet": fleet}, report=lambda line: None)
        files = sorted((tmp_path / f"{slots}").rglob("*.safetensors"))
        found[slots] = {f.name: load_file(f)["latents"] for f in files}
    assert len(found[1]) == 4
    for name, latent in found[1].items():
        torch.testing.assert_close(found[4][name], latent, atol=1e-4, rtol=1e-4)
