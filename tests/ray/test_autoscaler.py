"""Nodes that Ray's autoscaler brings to a search that is going on; its provider here starts them on this machine."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from clusters import PATIENCE, RAY, ROOT, before_each_call, free_port, processes_of, rows, undisturbed, until

from actors.backend import Backend
from raysearch.config import config as configuration
from raysearch.session.session import Session

HEAD, WORKER = "ray.head.default", "worker"  # the first is the provider's own name
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


def autoscaling(gcs: str) -> dict:
    """No CPU on the head, one on each of three workers at most."""
    types = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        WORKER: {
            "resources": {"CPU": 1, "object_store_memory": 200_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    }
    one_address = {"use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True}
    return {
        "cluster_name": "fake",
        "provider": {"type": "fake_multinode", "gcs_address": gcs, "launch_multiple": True, **one_address},
        "available_node_types": types,
        "head_node_type": HEAD,
        "max_workers": 3,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 60,
        **{k: {} for k in ("auth", "docker", "file_mounts")},
        **{k: [] for k in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{f"{k}_commands": [] for k in COMMANDS},
    }


@pytest.fixture
def cluster() -> Iterator[None]:
    folder = Path(tempfile.mkdtemp(prefix="rs-"))  # short: Ray's sockets lie below it
    port = free_port()
    settings = folder / "autoscaling.yaml"
    settings.write_text(json.dumps(autoscaling(f"127.0.0.1:{port}")))
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(PATIENCE),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--num-cpus=0", "--num-gpus=0"]
    command += [f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
    command += ["--object-store-memory=200000000", f"--autoscaling-config={settings}"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:

        def ready() -> bool:
            said = (folder / "head.log").read_text()
            assert head.poll() is None, said
            return "Ray runtime started" in said

        until(ready)
        ray.shutdown()  # another module's
        path = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
        ray.init(f"127.0.0.1:{port}", logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": path})
        yield
    finally:
        ray.shutdown()
        while left := processes_of(folder):  # again: the autoscaler may have started some meanwhile
            for p in left:
                with suppress(psutil.NoSuchProcess):
                    p.kill()
            psutil.wait_procs(left, timeout=60)
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_nodes_come_for_a_fleet_that_finds_no_room_and_join_the_search(cluster, tmp_path, monkeypatch):
    lines: list[str] = []
    worked: dict[str, str] = {}  # denoiser -> the node on which it has been given work

    async def act(replica, call):
        if replica.kind == "denoiser":
            worked[replica.id] = replica.node
            async with asyncio.timeout(PATIENCE):
                while len(worked) < 3:
                    await asyncio.sleep(0.1)

    share = {"num_cpus": 0}
    pools = {"denoisers": {"replicas": {"min": 1, "max": 3}}, "scorers": share, "encoders": share}
    fleet = {"backend": "ray", "wait_s": PATIENCE, "store_gb": 0.01, **pools}
    assert not any(n["Resources"].get("CPU") for n in ray.nodes())
    config = configuration.load(ROOT / "configs" / "mixture.yaml", [f"fleet={json.dumps(fleet)}"])
    with before_each_call(monkeypatch, act):
        asyncio.run(Session(config, Backend(), run_dir=tmp_path / "run", report=lines.append).run())
    winners = [(r["search_id"], r["winner"], r["reward_search"]) for r in rows(tmp_path / "run")]
    assert winners == undisturbed(tmp_path / "local", [])
    assert len(set(worked.values())) == 3
    assert lines[0] == "waiting for room for denoiser-0: 0 GPU and 1 CPU"
    assert sorted(line.partition(": ")[2] for line in lines if line.endswith("joined")) == [
        "denoiser-1 joined",
        "denoiser-2 joined",
    ]
