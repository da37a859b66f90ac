"""Policies of the user's own, and every shipped one end to end: real workers, the exact mixture, in this process."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import raysearch
from policies import best_of_n
from raysearch.config.policies import find_policy, policy_names
from raysearch.errors import ConfigError
from raysearch.session import journal, status

CONFIG = Path(__file__).parents[2] / "configs" / "mixture.yaml"
GIVEN = {
    "bfs": {"schedule": [4, 8]},
    "dfs": {"schedule": [4, 8], "threshold": -0.6},
    "evolution": {"schedule": [3, 6], "population": [5, 3, 3]},
    "tree": {"schedule": [4, 8]},
    "rgrp": {"schedule": [3, 6], "beta": 0.5},
}


async def halves(ctx, *, n: int = 8):
    """The better half at half time goes on."""
    xs = ctx.denoise(ctx.noise(n), until=ctx.num_steps // 2)
    r = await ctx.score(xs)
    xs = ctx.denoise([xs[i] for i in r.argsort()[n // 2 :]])
    return xs[int((await ctx.score(xs)).argmax())]


def quiet(line: str) -> None:
    pass


def test_a_policy_of_the_users_own(tmp_path):
    result = raysearch.run(CONFIG, [f"run_dir={tmp_path / 'run'}"], policy=halves, arguments={"n": 6}, report=quiet)
    rows = result.searches.to_pylist()
    assert [r["policy"] for r in rows] == ["test_api:halves"] * 4
    assert [r["status"] for r in rows] == ["done"] * 4
    # 6 to step 10, looking; 3 of them 10 further, their look counted.
    assert [r["nfe"] for r in rows] == [6 * 11 + 3 * 9] * 4
    assert result.candidates.num_rows == 4 * 9
    latent = load_file(result.path / "latents" / f"{rows[0]['search_id']}.safetensors")["latents"]
    assert rows[0]["holdout_nearness"] == pytest.approx(-np.linalg.norm(latent.ravel() - [1.2, 0.4]), abs=1e-6)


def test_the_readmes_policy_runs_as_written(tmp_path):
    readme = (CONFIG.parent.parent / "README.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "raysearch.run(" in b]
    (tmp_path / "mine.py").write_text(block)
    for folder in ("configs", "actors"):
        (tmp_path / folder).symlink_to(CONFIG.parent.parent / folder)
    command = [sys.executable, "mine.py"]
    environment = {**os.environ, "PYTHONPATH": str(CONFIG.parent.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    # 8 to step 10 of 20, looking; 4 of them 10 further, their look counted.
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [str(8 * 11 + 4 * 9)] * 4


def test_it_runs_inside_an_event_loop_and_from_a_mapping(tmp_path):
    values = {
        "model": {"path": "actors/assets/mixture", "height": 1, "width": 1, "num_frames": 1},
        "sampler": {"name": "euler", "num_steps": 4, "guidance_scale": 1.0},
        "rewards": {"search": {"name": "near"}},
        "prompts": ["left"],
        "fleet": {"backend": "local"},
        "run_dir": str(tmp_path / "run"),
    }

    async def notebook():
        return raysearch.run(values, policy=best_of_n.search, report=quiet)

    assert asyncio.run(notebook()).searches["nfe"].to_pylist() == [16]


def test_a_notebook_goes_on_while_a_run_does(tmp_path):
    """`await` leaves the caller's loop free."""

    async def notebook():
        values = [f"run_dir={tmp_path / 'run'}"]
        task = asyncio.create_task(raysearch.arun(CONFIG, values, policy=halves, report=quiet))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100
        return await task

    result = asyncio.run(notebook())
    assert result.searches["status"].to_pylist() == ["done"] * 4
    assert result.best["reward_search"] == max(result.searches["reward_search"].to_pylist())
    assert raysearch.open(result.path) == result and "finished: 4/4 searches" in result._repr_html_()
    plain = raysearch.run(CONFIG, [f"run_dir={tmp_path / 'plain'}"], policy=halves, report=quiet)
    assert result.searches["winner"].to_pylist() == plain.searches["winner"].to_pylist()


def test_a_cancelled_task_ends_the_run_which_goes_on_later(tmp_path):
    """Twice: before it has begun, and in its second search."""
    run_dir, gate = tmp_path / "run", tmp_path / "gate"
    values = [f"run_dir={run_dir}", "resume=auto", "max_searches=1"]
    values += ["seeds=[0,1]"]
    values += [f"policy={{name: gated:search, gate: {gate}}}"]

    def done() -> int:
        return len({r["search_id"] for r in journal.read(run_dir / "journal") if r.get("status") == "done"})

    async def stopped(after: int):
        task = asyncio.create_task(raysearch.arun(CONFIG, values, report=quiet))
        await asyncio.sleep(0)
        while done() < after:
            await asyncio.sleep(0.02)  # the run is in another thread
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    gate.write_text("1")
    asyncio.run(stopped(0))
    assert status.read(run_dir).state == "interrupted" and done() == 0
    asyncio.run(stopped(1))
    assert status.read(run_dir).state == "interrupted" and done() == 1
    assert set(raysearch.open(run_dir).searches["status"].to_pylist()) == {"done", "cancelled"}
    gate.write_text("9")
    result = asyncio.run(raysearch.arun(CONFIG, values, report=quiet))
    assert result.searches["status"].to_pylist() == ["done"] * 2 and done() == 2


def test_mistakes_of_an_awaited_run_are_raised(tmp_path):
    for overrides, match in ((["polcy.n=3"], "polcy"), (["model.height=2"], r"model\.height: 2")):
        with pytest.raises(ConfigError, match=match):
            asyncio.run(raysearch.arun(CONFIG, [*overrides, f"run_dir={tmp_path / 'run'}"], report=quiet))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_runs_end_to_end_and_is_charged_what_it_spends(name, tmp_path):
    search = find_policy(name)
    result = raysearch.run(
        CONFIG,
        [f"run_dir={tmp_path / 'run'}", "seeds=[0, 1]", "max_searches=1", "rewards.compare.name=near"],
        policy=search,
        arguments=GIVEN.get(name),
        report=quiet,
    )
    rows = result.searches.to_pylist()
    assert [(r["status"], r["reason"]) for r in rows] == [("done", "")] * 2
    assert [r["nfe_spent"] for r in rows] == [r["nfe"] for r in rows]


def test_mistakes(tmp_path):
    def inner():
        async def search(ctx):
            return ctx.noise()[0]

        return search

    with pytest.raises(ConfigError, match="cannot be imported"):
        raysearch.run(CONFIG, policy=inner())
    with pytest.raises(ConfigError, match=r"policy\.m: unknown key"):
        raysearch.run(CONFIG, policy=halves, arguments={"m": 3})
    with pytest.raises(ConfigError, match=r"^policy: array.* is not allowed; it must be a text, a number, a list"):
        raysearch.run(CONFIG, policy=halves, arguments={"n": np.array(3)})
    with pytest.raises(ConfigError, match="with arms"):
        raysearch.run(CONFIG.with_name("quickstart.yaml"), policy=halves)
    with pytest.raises(ConfigError, match=r"model\.height: 2 is not allowed; it must be 1"):
        raysearch.run(CONFIG, ["model.height=2", f"run_dir={tmp_path / 'r'}"])
    with pytest.raises(ConfigError, match=r"sampler\.eta"):
        raysearch.run(CONFIG, ["sampler.name=euler", "sampler.eta=0.5"])
    with pytest.raises(ConfigError, match=r"sampler\.interpolant: 'vp'"):
        raysearch.run(CONFIG, ["sampler.interpolant=vp"])
    with pytest.raises(ConfigError, match=r"^overrides: 'seeds=\[0\]' is not allowed; it must be a list"):
        raysearch.run(CONFIG, "seeds=[0]")
    with pytest.raises(ConfigError, match="left out where config is a mapping"):
        raysearch.run({"prompts": ["left"]}, ["seeds=[0]"])
