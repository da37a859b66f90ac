"""Whole pipelines of diffusers as models: the contract on each, and searches over each."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pipelines import KINDS, picture

import raysearch
from actors.backend import Backend
from actors.models.pipelines import contract
from actors.models.pipelines.parts import pipeline
from actors.models.source import Source
from raysearch.config import config as configuration

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
        picture().resize((kind.size, kind.size)).save(tmp_path / "first.png")
        (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT, "image": "first.png"}) + "\n")
        prompts = {"prompts_file": str(tmp_path / "prompts.jsonl")}
    return {
        **blocks, "model": {**blocks["model"], "path": str(folder)}, **prompts, "seeds": [SEED],
        "rewards": {"search": {"name": "tiny:Redness"}}, "fleet": {"backend": "local"},
        "output": {"frames": True}, "run_dir": str(tmp_path / "run"), **values,
    }  # fmt: skip


def test_the_contract_holds(kind, folder, tmp_path):
    plan = Backend().prepare(c := configuration.build(config(kind, folder, tmp_path)), configuration.arms(c))
    shown = picture(kind.size) if kind.pictured else None
    found = contract.measured(Source(folder), plan.arms[0].sampler, shown)
    assert found.holds, found


ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "best_of_n", "policy": {"name": "best_of_n", "n": 3}},
    {"name": "rgrp", "policy": {"name": "rgrp", "n": 2, "schedule": [2, 4]}},
    {"name": "paths", "policy": {"name": "paths", "n": 1, "m": 2, "start": 2, "forward": 1, "backward": 2}},
]


def test_searches_agree_with_the_pipeline_and_with_full_slots(kind, folder, tmp_path):
    found = {}
    for slots in (1, 4):
        values = config(kind, folder, tmp_path, arms=ARMS, run_dir=str(tmp_path / f"run{slots}"))
        raysearch.run(
            {**values, "fleet": {"backend": "local", "denoisers": {"slots": slots}}}, report=lambda line: None
        )
        rows = pq.read_table(tmp_path / f"run{slots}" / "searches.parquet").to_pylist()
        assert [r["reason"] for r in rows] == [""] * len(ARMS)
        found[slots] = {r["arm"]: r for r in rows}
    (shown,) = (tmp_path / "run1").rglob("*single.npy")
    own = pipeline(Source(folder), "whole")
    call = {"prompt": PROMPT, "height": kind.size, "width": kind.size, "num_inference_steps": 6, "output_type": "np"}
    call |= {"image": picture().resize((kind.size, kind.size))} if kind.pictured else {}
    blocks = kind.blocks
    takes = type(own).__call__.__wrapped__.__code__.co_varnames
    more = {"guidance_scale": kind.guidance_scale, "guidance_scale_2": kind.scale_2, "num_frames": kind.num_frames,
            "frames": kind.num_frames, "negative_prompt": "", "max_sequence_length": 16}  # fmt: skip
    call |= {k: v for k, v in more.items() if k in takes and v is not None} | blocks["sampler"]["call"]
    made = own(**call, generator=torch.Generator().manual_seed(SEED), return_dict=False)[0]
    frames = np.asarray(made)[0] if np.asarray(made).ndim == 5 else np.asarray(made)
    assert np.array_equal(np.load(shown), (frames * 255).round().astype(np.uint8))
    for arm, row in found[1].items():
        assert row["reward_search"] == pytest.approx(found[4][arm]["reward_search"], abs=1e-4)
        assert row["nfe"] == found[4][arm]["nfe"] > 0
