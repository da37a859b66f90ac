"""Obstacles of every kind on real workers, on the mixture: what is made, scored and refused."""

import asyncio
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from exact import MODEL, Interpreter, search
from PIL import Image
from safetensors.numpy import load_file

from actors.backend import Backend
from actors.models.mixture import Autoencoder
from actors.models.source import Source
from actors.sampling import potential
from actors.workers import video
from policies import repulsion
from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Candidate, Prompt
from raysearch.recipe.origins import Noise, Obstacle
from raysearch.recipe.reward import Reward
from raysearch.search.obstacles import Barrier
from raysearch.session.session import Session

T = 12


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


MIXTURE = Path(__file__).parents[2] / "actors" / "assets" / "mixture"


def local_config(**values):
    return configuration.build(
        {
            "model": {"path": str(MIXTURE), "height": 1, "width": 1, "num_frames": 1, "max_sequence_length": 1},
            "sampler": {"name": "euler", "num_steps": T, "guidance_scale": 1.0, "flow_shift": 3.0},
            "policy": {"name": "repulsion", "n": 1, "eta": [1.0], "reach": [0.9], "h": 0.05},
            "rewards": {"search": {"name": "near", "point": [1.2, 0.4]}},
            "prompts": ["a"],
            "fleet": {"backend": "local"},
            "output": {"latents": True, "videos": False},
        }
        | values
    )


class Right:
    """A classifier that dislikes the left."""

    components = ("x",)
    needs = "estimate"

    def __call__(self, views):
        return np.array([[float(v.estimate.ravel()[0])] for v in views])


def run_local(c, run_dir):
    progress = Session(c, Backend(), run_dir=run_dir)
    asyncio.run(progress.run())
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert [r["reason"] for r in rows] == [""] * len(rows)
    latents = [load_file(run_dir / "latents" / f"{r['search_id']}.safetensors")["latents"].ravel() for r in rows]
    return rows, latents


def dot(point) -> np.ndarray:
    coder = Autoencoder(Source(MIXTURE))
    return coder.decode(torch.tensor(point).float().view(1, 2, 1, 1, 1))


@pytest.mark.parametrize("kind", ["text", "image", "video", "reward"])
def test_it_runs_end_to_end_with_obstacles_of_every_kind(tmp_path, kind):
    """The obstacle lies on the first mode each time, however it is given; every winner ends beyond 0.9 of it."""
    mode = MODEL.means[0].numpy()
    frames = dot(mode)
    Image.fromarray(frames[0]).save(tmp_path / "bad.png")
    file = video.Mp4(fps=Fraction(8), scale=4)
    file.add(frames.repeat(5, 0))
    (tmp_path / "bad.mp4").write_bytes(file.close())
    block = {
        "text": {"text": "left"},
        "image": {"image": str(tmp_path / "bad.png"), "space": "features"},
        "video": {"video": str(tmp_path / "bad.mp4")},
        "reward": {"reward": {"name": "test_repulsion_workers:Right"}, "worst": -1.4},
    }[kind]
    seeds = list(range(8))
    rows, latents = run_local(local_config(obstacles=[block], seeds=seeds), tmp_path / "run")
    plain, before = run_local(local_config(policy={"name": "single"}, seeds=seeds), tmp_path / "plain")

    def inside(x, reach: float) -> bool:
        return x[0] <= -0.5 if kind == "reward" else rms(x - mode) <= reach

    met = [inside(x, 0.6) for x in before]  # the model's own video of a text is near the mode, not on it
    assert 0 < sum(met) < 8
    for x, row, old, hit in zip(latents, rows, plain, met, strict=True):
        assert not inside(x, 0.5)
        assert (row["winner"] == old["winner"]) <= (not hit)
        assert row["nfe"] >= old["nfe"]


def test_the_workers_make_what_the_recipes_say(tmp_path):
    """The pushed winner of a run, made by the denoiser, against the interpreter of recipes."""
    given = {"obstacles": [{"text": "a"}], "seeds": [3]}
    policy = {"name": "repulsion", "n": 1, "eta": [0.5], "reach": [3.0], "h": 0.05, "tries": 0}
    rows, latents = run_local(local_config(policy=policy, **given), tmp_path / "run")
    c = local_config(**given)
    s = Backend().prepare(c, configuration.arms(c)).arms[0].sampler
    world = Interpreter()
    obstacle = Candidate(Prompt("a"), s, Noise(0, 0), T)
    barrier = Barrier(Reward("d", b"d", ("d",), (1.0,), "estimate", (o := Obstacle((obstacle,)),)), o)
    x0, winner, _ = search(
        repulsion.search, s, seed=3, world=world, n=1, eta=(0.5,), reach=(3.0,), h=0.05, tries=0, obstacles=[barrier]
    )
    assert winner.id == rows[0]["winner"]
    np.testing.assert_allclose(latents[0], x0, atol=1e-5)


def test_the_reward_is_minus_the_potential_and_serves_any_policy(tmp_path):
    mode = MODEL.means[0].numpy()
    Image.fromarray(dot(mode)[0]).save(tmp_path / "bad.png")
    coder = Autoencoder(Source(MIXTURE))
    seen = coder.encode_video([Image.fromarray(dot(mode)[0])], 1, 1).ravel()
    np.testing.assert_allclose(seen, mode, atol=0.01)
    repulsion_ = {"name": "repulsion", "eta": 0.5, "reach": 2.5}
    rows, latents = run_local(
        local_config(
            policy={"name": "best_of_n", "n": 4},
            rewards={"search": repulsion_, "holdout": {"name": "distance"}, "final": repulsion_},
            obstacles=[{"image": str(tmp_path / "bad.png")}],
        ),
        tmp_path / "run",
    )
    d = rms(latents[0] - seen)
    expected = -potential.potential(d, 0.5, 2.5)
    assert rows[0]["reward_search"] == pytest.approx(expected, abs=1e-5)
    assert rows[0]["reward_final"] == pytest.approx(expected, abs=1e-5)
    assert rows[0]["reward_holdout"] == pytest.approx(d, abs=1e-5)
    candidates = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    assert rows[0]["reward_search"] == max(r["reward"] for r in candidates)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rewards": {"search": {"name": "repulsion"}}}, "rewards.search.name: 'repulsion' is not allowed; it must be"),
        (
            {"rewards": {"search": {"name": "repulsion", "reach": 0}}, "obstacles": [{"text": "b"}]},
            "rewards.search.reach: 0.0 is not allowed; it must be above 0",
        ),
        ({"obstacles": [{"reward": {"name": "beauty"}}]}, "obstacles[0].reward.name: no reward 'beauty'"),
        ({"obstacles": [{"reward": {"name": "distance"}}]}, "obstacles[0].reward.name: 'distance' is not allowed"),
    ],
)
def test_mistakes_about_rewards_are_one_line(values, line):
    with pytest.raises(ConfigError) as error:
        Backend().prepare(c := local_config(**values), configuration.arms(c))
    assert line in str(error.value)
