"""Real Ray on three nodes and more: what is placed where, nodes that come and go, actors that hang."""

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from clusters import Idle, before_each_call
from ray.cluster_utils import Cluster
from runs import ARMS, config
from safetensors.numpy import load_file

from actors.backend import Backend
from actors.cluster import fleet as ray_fleet
from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.session.plan import Plan
from raysearch.session.session import Session

# Nodes that die are noticed at once (a refused connection), slow ones are not mistaken for dead; and a toy-sized
# latent does not travel with its owner, as small objects do: what was made on a node is lost with it.
FAST = {
    "health_check_initial_delay_ms": 200,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 20_000,
    "health_check_failure_threshold": 3,
    "max_direct_call_object_size": 6000,
}
CPU = {"num_cpus": 0.5}


@pytest.fixture(scope="module")
def cluster():
    here = Path(__file__).parents[1]
    ray.shutdown()  # another module's
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "num_gpus": 2,
            "labels": {"zone": "a"},
            "include_dashboard": False,
            "_system_config": FAST,
        },
    )
    cluster.add_node(num_cpus=1, labels={"zone": "b"})
    cluster.add_node(num_cpus=1, labels={"zone": "c"}, resources={"accelerator_type:H100": 1})
    path = os.pathsep.join((str(here), str(here.parent)))
    ray.init(
        cluster.address, logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}}
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def on(**values) -> dict:
    pools = {"denoisers": CPU, "scorers": CPU, "encoders": CPU}
    return {"backend": "ray", "store_gb": 0.1, **pools, **values}


def run(tiny: Path, run_dir: Path, **values):
    """Winners, final latents, what was reported, and the engine of a run."""
    lines: list[str] = []
    s = Session(config(tiny, seeds=[1, 2], arms=ARMS, **values), Backend(), run_dir=run_dir, report=lines.append)
    asyncio.run(s.run())
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert [r["reason"] for r in rows] == [""] * len(rows)
    latents = [load_file(run_dir / "latents" / f"{r['search_id']}.safetensors")["latents"] for r in rows]
    return [r["winner"] for r in rows], latents, lines, s.progress.engine


@pytest.fixture(scope="module")
def expected(tiny, tmp_path_factory):
    """What an undisturbed run in one process gives."""
    winners, latents, _, _ = run(tiny, tmp_path_factory.mktemp("local") / "run", fleet={"backend": "local"})
    return winners, latents


def same(found, expected) -> bool:
    winners, latents = expected
    return found[0] == winners and all(np.array_equal(a, b) for a, b in zip(found[1], latents, strict=True))


def test_every_replica_has_its_own_share_and_scorers_share_the_denoisers(cluster):
    half = {"num_gpus": 0.5, "num_cpus": 0.5}
    pools = on(
        denoisers=half | {"replicas": 2, "labels": {"zone": "!b"}},
        scorers=half | {"replicas": 2, "share_gpus": True},
        encoders={"num_cpus": 0, "labels": {"zone": "in(b, x)"}},
    )
    lines: list[str] = []

    async def where():
        c = configuration.build({"model": {"path": "none"}, "fleet": pools})
        async with ray_fleet.ray_fleet(c, Plan(()), lines.append, Idle) as fleet:
            return {r.id: (r.node, r.where) for r in fleet.replicas}

    found = asyncio.run(where())
    nodes = {n["Labels"].get("zone"): n["NodeID"] for n in ray.nodes()}
    gpus = [found[f"denoiser-{i}"][1].partition("GPU ")[2] for i in (0, 1)]
    assert sorted(gpus) == ["0", "1"]
    assert found["scorer-0"] == found["denoiser-0"] and found["scorer-1"] == found["denoiser-1"]
    assert found["denoiser-0"][0] == nodes["a"] and found["encoder-0"][0] == nodes["b"]
    assert sorted(line.partition(": ")[2] for line in lines) == [
        "denoiser-0, scorer-0",
        "denoiser-1, scorer-1",
        "encoder-0",
    ]
    assert all(found[i][1] == line.partition(": ")[0] for line in lines for i in line.partition(": ")[2].split(", "))


@pytest.mark.parametrize(
    ("pools", "line"),
    [
        ({"denoisers": {"labels": {"zone": "z"}}}, "0 GPU and 1 CPU with labels {zone: z} do not fit .* {zone: a}"),
        ({"denoisers": {"accelerator": "A100"}}, "0 GPU and 1 CPU on A100 do not fit .* 1 CPU and 0 GPU on H100"),
        ({"denoisers": {"replicas": 2, "accelerator": "H100"}}, "fleet.denoisers: 2 replicas"),
        (
            {
                "denoisers": {"replicas": 2, "num_gpus": 0.6},
                "scorers": {"replicas": 4, "share_gpus": True, "num_gpus": 0.2},
                "encoders": {"num_gpus": 0.1},
            },
            "fleet.encoders: 1 replicas of 0.1 GPU",
        ),
        ({"store_gb": 1}, "fleet.store_gb: 1.0 is not allowed; it must be at most"),
    ],
)
def test_what_the_nodes_can_never_hold_is_said_before_anything_starts(cluster, tiny, tmp_path, pools, line):
    with pytest.raises(ConfigError, match=line):
        run(tiny, tmp_path / "run", fleet=on(**pools))
    assert not (tmp_path / "run").exists()


def test_a_node_that_joins_brings_a_replica_that_works(cluster, tiny, tmp_path, monkeypatch, expected):
    worked: list[str] = []

    async def act(replica, call):
        if replica.kind == "denoiser":
            worked.append(replica.id)
            if len(worked) == 4:
                cluster.add_node(num_cpus=1, labels={"zone": "d"})
            if len(worked) >= 4:  # what denoiser-0 holds waits, until another has been given what waits elsewhere
                async with asyncio.timeout(900):
                    while len(set(worked)) == 1:
                        await asyncio.sleep(0.05)

    elastic = {"replicas": {"min": 1, "max": 3}, "num_cpus": 1, "labels": {"zone": "in(b, d)"}}
    with before_each_call(monkeypatch, act):
        found = run(tiny, tmp_path / "run", fleet=on(denoisers=elastic), max_searches=4)
    assert same(found, expected)
    (joined,) = set(worked) - {"denoiser-0"}  # of the two that may come, the one for which there is room
    assert any(line.endswith(f": {joined} joined") for line in found[2])


def test_a_node_lost_with_the_only_copy_of_latents_changes_nothing(cluster, tiny, tmp_path, monkeypatch, expected):
    lost: list[str] = []

    async def act(replica, call):
        if replica.kind == "denoiser" and not lost and call.request.step > 0 and "base" in call.inputs:
            lost.append(replica.node)
            (node,) = [n for n in cluster.worker_nodes if n.node_id == replica.node]
            cluster.remove_node(node, allow_graceful=False)

    together = on(denoisers=CPU | {"labels": {"zone": "in(b, c)"}}, scorers=CPU | {"share_gpus": True})
    with before_each_call(monkeypatch, act):
        found = run(tiny, tmp_path / "run", fleet=together)
    assert same(found, expected)
    assert lost and found[3].recomputed > 0
    assert any(line.startswith("denoiser-0 moved to") for line in found[2])


def test_a_hung_actor_is_replaced_and_a_tiny_store_changes_nothing(cluster, tiny, tmp_path, monkeypatch, expected):
    stopped: list[str] = []

    async def act(replica, call):
        if replica.id == "denoiser-0" and not stopped:
            stopped.append(replica.id)
            os.kill(await replica.actor.pid.remote(), signal.SIGSTOP)

    pools = on(denoisers=CPU | {"replicas": 2}, store_gb=1e-5, timeout_s=20)
    with before_each_call(monkeypatch, act):
        found = run(tiny, tmp_path / "run", fleet=pools)
    assert same(found, expected)
    assert stopped and any(line.startswith("denoiser-0 has hung") for line in found[2])
    assert found[3].store.evicted > 0
