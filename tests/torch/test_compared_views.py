"""What a reward that compares is shown of two candidates: what it would be shown of each alone."""

import asyncio

import numpy as np
import pipelines
import pyarrow.parquet as pq
import pytest
import runs
import tiny

from actors.backend import Backend
from raysearch.config import config as configuration
from raysearch.session.session import Session

ALONE, PAIRS = [], []


class Eyes:
    """A reward that keeps what it is shown."""

    components = ("seen",)
    needs = "frames"

    def __call__(self, views):
        ALONE.extend(views)
        return [[0.0] for _ in views]

    def compare(self, pairs):
        PAIRS.extend(pairs)
        return [0.7 for _ in pairs]


async def drafted(ctx):
    """A policy: a video against a draft of another one."""
    within = ctx.draft(2)
    (x,), (d,) = ctx.denoise(ctx.noise(1)), within.denoise(within.noise(1))
    await ctx.score([x])
    await within.score([d])
    await ctx.compare([x], [d])
    return x


async def midway(ctx):
    """A policy: a finished video against one that is on its way."""
    x, y = ctx.noise(2)
    (x,), (y,) = ctx.denoise([x]), ctx.denoise([y], until=2)
    await ctx.score([x])
    await ctx.score([y])
    await ctx.compare([x], [y])
    return x


def shown(values, run_dir):
    """The two views that were scored, and the same two as they were compared, in the order of scoring."""
    ALONE.clear()
    PAIRS.clear()
    asyncio.run(Session(configuration.build(values), Backend(), run_dir=run_dir).run())
    (row,) = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert (row["status"], row["reason"]) == ("done", "")
    alone, (pair,) = ALONE[1:3], PAIRS  # after the trial
    return alone, sorted(pair, key=lambda view: not np.array_equal(view.latent, alone[0].latent))


def check(alone, compared):
    assert not np.array_equal(alone[0].frames, alone[1].frames)
    for a, b in zip(alone, compared, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert (a.sigma, a.prompt, a.fps, a.num_frames) == (b.sigma, b.prompt, b.fps, b.num_frames)


REWARDS = {"search": {"name": "test_compared_views:Eyes"}, "compare": {"name": "test_compared_views:Eyes"}}


@pytest.mark.parametrize(("kind", "policy"), [("FLUX", "drafted"), ("FLUX", "midway"), ("LTX", "drafted")])
def test_of_a_pipeline_each_is_decoded_under_its_own_sampler(tmp_path, kind, policy):
    k = pipelines.KINDS[kind]
    k.save(tmp_path / "model")
    size = {"height": k.size, "width": k.size, "num_frames": k.num_frames}
    values = {
        "model": {"path": str(tmp_path / "model"), **size, "max_sequence_length": k.max_sequence_length},
        "sampler": {"name": "own", "num_steps": 4, "guidance_scale": k.guidance_scale, "call": k.call},
        "policy": {"name": f"test_compared_views:{policy}"},
        "rewards": REWARDS,
        "prompts": ["a red circle"],
        "fleet": {"backend": "local"},
        "output": {"videos": False},
    }
    check(*shown(values, tmp_path / "run"))


@pytest.mark.parametrize("first", [None, 2])
def test_of_latents_each_is_shown_at_its_own_level(tmp_path, first):
    part = {} if first is None else {"first_latent_frames": first}
    values = {
        "model": {"path": str(tiny.save_pipeline(tmp_path / "wan")), **runs.SIZE},
        "sampler": {"num_steps": 4},
        "policy": {"name": "test_compared_views:midway"},
        "rewards": {k: block | part for k, block in REWARDS.items()},
        "prompts": ["a red circle"],
        "fleet": {"backend": "local"},
    }
    alone, compared = shown(values, tmp_path / "run")
    check(alone, compared)
    assert {len(v.frames) for v in compared} == {9 if first is None else 5}
    assert compared[0].sigma == 0 < compared[1].sigma
