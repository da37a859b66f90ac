"""Small runs on the toy-sized Wan pipeline in this process, and its parts: what tests of workers and of Ray share."""

import asyncio
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from safetensors.numpy import load_file

from actors.backend import Backend
from actors.workers import worker
from raysearch.config import config as configuration
from raysearch.engine.protocol import Denoise, Start, Text
from raysearch.recipe.origins import Noise
from raysearch.session.session import Session

PROMPT = "a red circle moving left"


SIZE = {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 40}


SCHEDULERS = {
    "unipc": lambda: UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm++": lambda: DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    ),
}


def config(folder: Path, **values) -> configuration.Config:
    base = {
        "model": {"path": str(folder), **SIZE},
        "sampler": {"name": "unipc", "num_steps": 8, "guidance_scale": 3.0},
        "rewards": {"search": {"name": "tiny:Brightness"}},
        "prompts": [PROMPT],
        "fleet": {"backend": "local"},
        "output": {"latents": True, "frames": True},
    }
    return configuration.build(
        {k: {**base.get(k, {}), **v} if isinstance(v, dict) else v for k, v in (base | values).items()}
    )


def run(folder: Path, run_dir: Path, **values):
    """Rows, final latents and frames of a run, the last two by search id."""
    session = Session(config(folder, **values), Backend(), run_dir=run_dir)
    asyncio.run(session.run())
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert [r["reason"] for r in rows] == [""] * len(rows)
    latents = {
        r["search_id"]: load_file(run_dir / "latents" / f"{r['search_id']}.safetensors")["latents"] for r in rows
    }
    frames = {r["search_id"]: np.load(run_dir / "frames" / f"{r['search_id']}.npy") for r in rows}
    return rows, latents, frames


def decoded(clip: Path) -> np.ndarray:
    """The frames of an mp4, uint8 (T, H, W, 3)."""
    with av.open(str(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def workers(folder: Path):
    """A sampler, an encoder and a denoiser of the plain config."""
    plan = Backend().prepare(c := config(folder), configuration.arms(c))
    return plan.arms[0].sampler, worker.build("encoder", c, plan), worker.build("denoiser", c, plan)


FIRST = Start(Noise(1, 0), key=1)


def leg_of(sampler, until: int, *, start: Start | None = FIRST, step: int = 0, velocity: bool = False) -> Denoise:
    """What a denoiser is asked."""
    return Denoise(sampler, b"", step, until, velocity, start)


def embedded(encoder, *texts: str) -> list[np.ndarray]:
    """The embeddings of captions."""
    return [encoder.encode(Text(t, 40), {}) for t in texts]


def image_to_video(folder: Path) -> WanImageToVideoPipeline:
    """diffusers' pipeline over the parts of a text-to-video model, as Wan 2.2's TI2V has it."""
    t2v = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline = WanImageToVideoPipeline(
        tokenizer=t2v.tokenizer, text_encoder=t2v.text_encoder, vae=t2v.vae, transformer=t2v.transformer,
        scheduler=SCHEDULERS["unipc"](), expand_timesteps=True,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "bon", "policy": {"name": "best_of_n", "n": 3}},
    {"name": "rgrp", "policy": {"name": "rgrp", "schedule": [2, 4], "n": 4}},
]


# Of drafts with 8 steps, such that each leaves something out.
CACHES = [
    {"name": "first_block", "threshold": 0.3},
    {"name": "easy", "threshold": 0.5},
    {"name": "taylor", "interval": 2},
    {"name": "guidance", "low": 0.3},
]

CACHED = [
    {"name": c["name"], "policy": {"name": "draft_commit", "cache": c, "explore": {"name": "best_of_n", "n": 2}}}
    for c in CACHES
]


# Every kind of origin and of stochastic step.
KINDS = [
    {"name": "zero", "policy": {"name": "zero_order", "n": 2, "iterations": 1}},
    {"name": "paths", "policy": {"name": "paths", "n": 1, "m": 2}},
    {
        "name": "evolution",
        "policy": {"name": "evolution", "schedule": [2, 4], "population": [3, 2, 2], "elite": 1},
    },
    {"name": "svdd", "policy": {"name": "svdd", "m": 2}, "sampler": {"name": "score-sde", "interpolant": "vp"}},
    {"name": "dlbs", "policy": {"name": "dlbs", "b": 1, "lookahead": 3}, "sampler": {"name": "flow-sde"}},
    {"name": "smc", "policy": {"name": "smc", "n": 3, "threshold": 1.0}, "sampler": {"name": "sde-dpm++"}},
    {
        "name": "around",
        "policy": {"name": "repulsion", "n": 1, "eta": [1.0], "reach": [9.0], "every": 3, "tries": 1},
        "obstacles": [{"text": "a blue square"}, {"text": "a red square", "space": "features"}],
    },
    {"name": "draft", "policy": {"name": "draft_commit", "draft_steps": 3, "explore": {"name": "best_of_n", "n": 2}}},
    *CACHED,
]
