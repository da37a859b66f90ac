"""Encoders that end while a run goes on, on real Ray: their room goes to replicas that wait for it."""

import asyncio

import clusters
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
from clusters import PATIENCE, before_each_call
from runs import ARMS, PROMPT, config
from runs import run as run_local
from safetensors.numpy import load_file

from actors.backend import Backend
from actors.cluster import fleet as ray_fleet
from raysearch.session.session import Session

PROMPTS = [PROMPT, "a blue dog"]
RELEASED = "encoders are released: every text is encoded"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with clusters.here(num_cpus=3):
        yield


@pytest.fixture(scope="module")
def expected(tiny, tmp_path_factory):
    """What a run in one process finds that has no cache."""
    fleet = {"encoders": {"cache": False}}
    path = tmp_path_factory.mktemp("local") / "run"
    return run_local(tiny, path, arms=ARMS, seeds=[1, 2], prompts=PROMPTS, fleet=fleet)


def run(tiny, run_dir, **encoders):
    """Rows, latents and lines of a run on three CPUs: of two denoisers one has no room beside an encoder."""
    pools = {
        "denoisers": {"replicas": {"min": 1, "max": 2}, "num_cpus": 1},
        "scorers": {"num_cpus": 1},
        "encoders": {"num_cpus": 1, **encoders},
    }
    lines: list[str] = []
    c = config(tiny, arms=ARMS, seeds=[1, 2], prompts=PROMPTS, fleet={"backend": "ray", "store_gb": 0.1, **pools})
    asyncio.run(Session(c, Backend(), run_dir=run_dir, report=lines.append).run())
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert [r["reason"] for r in rows] == [""] * len(rows)
    latents = [load_file(run_dir / "latents" / f"{r['search_id']}.safetensors")["latents"] for r in rows]
    return rows, latents, lines


def same(rows, latents, expected):
    found = [(r["winner"], r["reward_search"]) for r in rows]
    assert found == [(r["winner"], r["reward_search"]) for r in expected[0]]
    assert all(np.array_equal(a, expected[1][r["search_id"]]) for a, r in zip(latents, rows, strict=True))


def test_a_released_encoders_room_goes_to_a_denoiser_that_waits(tiny, tmp_path, expected, monkeypatch):
    """Legs wait for the second denoiser, which has no room before the release; then no encoder's process is left."""
    worked: set[str] = set()
    encoders: set[int] = set()
    seen = []

    async def act(replica, call):
        if replica.kind == "encoder":
            encoders.add(await replica.actor.pid.remote())
        if replica.kind == "denoiser":
            worked.add(replica.id)
            async with asyncio.timeout(PATIENCE):
                while len(worked) < 2 or any(map(psutil.pid_exists, encoders)):
                    await asyncio.sleep(0.1)
            table = ray.util.placement_group_table().values()
            seen.append(sorted(g["name"] for g in table if g["state"] == "CREATED"))

    with before_each_call(monkeypatch, act):
        rows, latents, lines = run(tiny, tmp_path / "run", release=True)
    same(rows, latents, expected)
    assert encoders and len(worked) == 2
    said = [line.partition(": ")[2] if line.endswith("joined") else line for line in lines[-2:]]
    assert said == [RELEASED, "denoiser-1 joined"]
    assert all(s == ["raysearch denoiser-0", "raysearch denoiser-1", "raysearch scorer-0"] for s in seen)


def test_a_second_run_starts_no_encoder_and_so_has_room_for_a_denoiser_more(tiny, tmp_path, expected, monkeypatch):
    rows, latents, lines = run(tiny, tmp_path / "first")
    same(rows, latents, expected)
    started = []
    made = ray_fleet.replica

    def replica(tenant, *given):
        started.append(tenant.id)
        return made(tenant, *given)

    monkeypatch.setattr(ray_fleet, "replica", replica)
    rows, latents, lines = run(tiny, tmp_path / "second")
    same(rows, latents, expected)
    assert started == ["denoiser-0", "scorer-0", "denoiser-1"]
    assert lines[0] == "no encoder is started: the embeddings of all texts (3) are there"


def test_elastic_encoders_that_wait_for_room_are_released_too(tiny, tmp_path, expected):
    """They would else join when the first one leaves."""
    rows, latents, lines = run(tiny, tmp_path / "run", replicas={"min": 1, "max": 3}, release=True)
    same(rows, latents, expected)
    assert RELEASED in lines
    assert not any("encoder-1" in line or "encoder-2" in line for line in lines)
