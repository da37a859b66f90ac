"""Wan 2.1's image-to-video models, which see their first frame beside the latents, against diffusers' own pipeline."""

import asyncio
import io
import json

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from runs import PROMPT, SIZE, run
from runs import config as tiny_config
from safetensors.numpy import load_file

from actors.backend import Backend
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Candidate, Prompt
from raysearch.recipe.origins import Derived, Extend, Noise
from raysearch.session.session import Session
from raysearch.testing import fake_sampler


@pytest.fixture
def prompts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT, "image": "first.png"}) + "\n")
    return {"prompts": None, "prompts_file": str(tmp_path / "prompts.jsonl"), "seeds": [5]}


def pipeline_of(folder) -> WanImageToVideoPipeline:
    pipeline = WanImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


CALL = {"prompt": PROMPT, "num_inference_steps": 8, "guidance_scale": 3.0, "output_type": "latent", **SIZE}


def test_single_is_the_pipeline_bit_for_bit(pictured, tmp_path, prompts):
    image, noise = Image.open(tmp_path / "first.png"), torch.Generator().manual_seed(5)
    expected = pipeline_of(pictured)(image=image, generator=noise, **CALL).frames
    _, latents, frames = run(pictured, tmp_path / "run", **prompts)
    assert np.array_equal(next(iter(latents.values())), expected.numpy())
    assert next(iter(frames.values())).shape == (9, 32, 32, 3)


def test_batched_rows_and_forks_agree_with_it(pictured, tmp_path, prompts):
    policy, rewards = {"name": "best_of_n", "n": 3}, {"search": {"name": "tiny:Brightness"}}
    _, one, _ = run(pictured, tmp_path / "one", **prompts, policy=policy, rewards=rewards)
    _, many, _ = run(
        pictured, tmp_path / "many", **prompts, policy=policy, rewards=rewards,
        fleet={"denoisers": {"slots": 3}}, sampler={"batched_guidance": True},
    )  # fmt: skip
    np.testing.assert_allclose(next(iter(one.values())), next(iter(many.values())), atol=1e-4)
    policy = {"name": "rgrp", "n": 2, "schedule": [3, 5]}
    rows, _, _ = run(pictured, tmp_path / "rgrp", **prompts, policy=policy, rewards=rewards)
    assert rows[0]["status"] == "done"


def test_a_chunk_begins_with_the_last_frame_of_the_one_before(pictured, tmp_path, prompts):
    c = tiny_config(pictured, **prompts, long={"chunks": 2})
    asyncio.run(Session(c, Backend(), run_dir=tmp_path / "run").run())
    (file,) = (tmp_path / "run").glob("latents/*.safetensors")
    (shown,) = (tmp_path / "run").glob("frames/*.npy")
    latents, frames = load_file(file), np.load(shown)
    assert len(frames) == 9 + 8
    first = Candidate(Prompt("any"), fake_sampler(8), Noise(5, 0), 8)
    noise = torch.Generator().manual_seed(Derived(first, 0, Extend(prefix=1, anew=True)).key)
    expected = pipeline_of(pictured)(image=Image.fromarray(frames[8]), generator=noise, **CALL).frames
    np.testing.assert_allclose(latents["latents_0001"], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (r"prompts\[0\]: 'a red circle moving left' is not allowed; it must be given with an image", {
            "prompts": [PROMPT], "prompts_file": None,
        }),
        (r"long\.anew: False is not allowed; it must be true with an image-to-video model", {
            "long": {"chunks": 2, "anew": False},
        }),
        (r"long\.prefix: 2 is not allowed; it must be 1 with an image-to-video model", {
            "long": {"chunks": 2, "prefix": 2},
        }),
        (r"long\.fifo: 'given' is not allowed; it must be left out: this model takes no noise level for each frame", {
            "long": {"chunks": 2, "fifo": {"partitions": 4}}, "sampler": {"name": "euler"},
        }),
    ],
)  # fmt: skip
def test_bad_input(pictured, tmp_path, prompts, message, values):
    with pytest.raises(ConfigError, match=message):
        Session(tiny_config(pictured, **(prompts | values)), Backend(), run_dir=tmp_path / "run")


def test_a_picture_for_a_model_that_takes_none(tmp_path, prompts):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "png")
    model = {"path": "actors/assets/mixture", "height": 1, "width": 1, "num_frames": 1}
    c = tiny_config("actors/assets/mixture", **prompts, model=model, rewards={"search": None})
    with pytest.raises(ConfigError, match=r"line 1: image: .* must be left out with this model"):
        Session(c, Backend(), run_dir=tmp_path / "run")
