"""Real Ray, one cluster for the module: what only it can show."""

import asyncio
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import Future
from pathlib import Path

import clusters
import numpy as np
import pytest
import ray
import torch
from clusters import PATIENCE, ROOT, Exits, until
from pipelines import KINDS
from ray.util.placement_group import remove_placement_group
from runs import ARMS, CACHED, config, run

from actors.backend import Backend
from actors.cluster import fleet as ray_fleet
from actors.cluster import head, metrics, placement
from actors.cluster.actor import Actor
from actors.cluster.replica import RayReplica
from actors.models.source import Source
from actors.workers.worker import Worker
from raysearch.config import config as configuration
from raysearch.engine.protocol import Call
from raysearch.errors import ConfigError, InputLost, ReplicaDied
from raysearch.session.plan import Plan
from raysearch.session.session import Session
from raysearch.session.snapshot import Snapshot
from raysearch.testing import run_virtual


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with clusters.here(num_cpus=4, num_gpus=2):
        yield


def on_ray(**pools) -> dict:
    cpu = {"num_cpus": 0.5}
    return {"backend": "ray", "denoisers": cpu, "scorers": cpu, "encoders": cpu} | pools


def test_ray_and_local_agree_bit_for_bit_with_one_and_two_denoisers(tiny, tmp_path):
    arms = [*ARMS, *CACHED]
    expected, latents, frames = run(tiny, tmp_path / "local", arms=arms, seeds=[1])
    two = on_ray(denoisers={"replicas": 2, "num_cpus": 0.5})
    for i, fleet in enumerate((on_ray(), two)):
        rows, got, shown = run(tiny, tmp_path / str(i), arms=arms, seeds=[1], fleet=fleet)
        assert [r["winner"] for r in rows] == [r["winner"] for r in expected]
        assert all(np.array_equal(got[k], latents[k]) and np.array_equal(shown[k], frames[k]) for k in latents)
        assert all((tmp_path / str(i) / r["video"]).read_bytes()[4:8] == b"ftyp" for r in rows)


@pytest.mark.parametrize(
    ("pools", "line"),
    [
        ({"denoisers": {"replicas": 3, "num_gpus": 1}}, "fleet.denoisers: 3 replicas of 1 GPU"),
        ({"denoisers": {"replicas": 3, "num_gpus": 0.6}}, "nodes have 4 CPU and 2 GPU"),
        ({"denoisers": {"num_gpus": 1.5}}, "fleet.denoisers.num_gpus: 1.5 is not allowed"),
        ({"scorers": {"num_cpus": 64}}, "fleet.scorers: 1 replicas of 0 GPU and 64 CPU do not fit"),
    ],
)
def test_what_the_cluster_can_never_hold_is_said_before_anything_starts(tiny, tmp_path, pools, line):
    with pytest.raises(ConfigError, match=line):
        run(tiny, tmp_path / "run", fleet=on_ray(**pools))
    assert not (tmp_path / "run").exists()


def test_a_killed_denoiser_comes_back_and_nothing_changes(tiny, tmp_path, monkeypatch):
    survives_kills(tiny, tmp_path, monkeypatch, arms=ARMS)


@pytest.mark.parametrize(
    ("name", "sampler"), [("LTX", "own"), ("Wan 2.2, two experts", "own"), ("Wan 2.2, two experts", "unipc")]
)
def test_so_it_is_with_a_pipeline_that_is_run_as_it_is_and_with_two_experts(name, sampler, tmp_path, monkeypatch):
    arms = [{"name": "rgrp", "policy": {"name": "rgrp", "n": 2, "schedule": [2, 4]}}, {"name": "single"}]
    folder = KINDS[name].save(tmp_path / "pipeline")
    blocks = KINDS[name].blocks
    own = {"call": blocks["sampler"].pop("call")} if sampler == "own" else {}
    blocks["model"]["max_sequence_length"] = 32
    blocks["sampler"] |= {"name": sampler, **own}
    survives_kills(folder, tmp_path, monkeypatch, arms=arms, **blocks)


def survives_kills(folder, tmp_path, monkeypatch, **values):
    """A fleet on Ray whose denoiser is killed twice finds what a local fleet finds."""
    expected, latents, _ = run(folder, tmp_path / "local", seeds=[1, 2], **values)
    plain = ray_fleet.RayReplica.run
    killed = []

    async def run_and_kill(self, call):
        if self.kind == "denoiser" and len(killed) < 2 and call.request.step > 0:
            killed.append(self.id)
            os.kill(await pid_of(self.actor), signal.SIGKILL)
        return await plain(self, call)

    monkeypatch.setattr(ray_fleet.RayReplica, "run", run_and_kill)
    rows, got, _ = run(folder, tmp_path / "ray", seeds=[1, 2], fleet=on_ray(), **values)
    assert len(killed) == 2
    assert [r["winner"] for r in rows] == [r["winner"] for r in expected]
    assert all(np.array_equal(got[k], latents[k]) for k in latents)


def test_what_ends_its_process_while_it_loads_is_started_three_times(tiny):
    config = configuration.build({"model": {"path": str(tiny)}, "fleet": on_ray()})
    with pytest.raises(
        ReplicaDied, match=r"^denoiser-0 does not start: a process was lost 3 times while it loaded: .*$"
    ):
        start_alone(config, Plan(()), Exits)


def test_a_gang_that_loses_any_rank_comes_back_and_nothing_changes(tiny, tmp_path, monkeypatch):
    """A follower is killed, then rank 0: midway in a search on two shards. (One that hangs: test_gang.py.)"""
    expected, latents, _ = run(tiny, tmp_path / "local", arms=ARMS, seeds=[1, 2])
    blows = [1, 0]
    pids = []
    plain, meet = ray_fleet.RayReplica.run, ray_fleet.RayGang._meet

    async def met(self):
        await meet(self)
        pids.append([await a.pid.remote() for a in self.actors])

    async def run_and_strike(self, call):
        again = len(pids) > 2 - len(blows)  # the gang that the last blow hit has come back
        if self.kind == "denoiser" and blows and again and call.request.step > 0:
            os.kill(pids[-1][blows.pop(0)], signal.SIGKILL)
        return await plain(self, call)

    monkeypatch.setattr(ray_fleet.RayGang, "_meet", met)
    monkeypatch.setattr(ray_fleet.RayReplica, "run", run_and_strike)
    pool = {"num_cpus": 0.5, "shards": 2, "shard_mode": "guidance"}
    rows, got, _ = run(tiny, tmp_path / "ray", arms=ARMS, seeds=[1, 2], fleet=on_ray(denoisers=pool))
    assert blows == [] and len(pids) >= 3
    assert [r["reward_search"] for r in rows] == [r["reward_search"] for r in expected]
    assert all(np.array_equal(got[k], latents[k]) for k in latents)
    until(lambda: not any(alive(pid) for gang in pids for pid in gang))  # ranks do not outlive the run


async def pid_of(actor) -> int:
    while True:
        try:
            return await actor.pid.remote()
        except ray.exceptions.RayActorError:  # it is being started again
            await asyncio.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_gang_that_cannot_start_says_why(tiny):
    pool = {"num_cpus": 0.5, "shards": 2, "shard_mode": "fsdp"}
    config = configuration.build({"model": {"path": str(tiny)}, "fleet": on_ray(denoisers=pool)})
    with pytest.raises(ConfigError, match=r"model\.path: 'nowhere' is not allowed; it must be a folder"):
        start_alone(config, Plan((), {"source": Source(Path("nowhere"))}), Worker)


def start_alone(config, plan, make) -> None:
    """Start the first denoiser, and nothing else; whether it starts or not, no actor is left."""
    home = placement.homes(config)[0]
    group = ray_fleet.reserve(home)
    fleet = ray_fleet.RayFleet(60, None, print)
    replica = ray_fleet.replica(home.owner, group, fleet, config, plan, make)
    try:
        asyncio.run(replica.ready())
    finally:
        assert replica.actors == []
        remove_placement_group(group)


@pytest.mark.parametrize(
    ("address", "variable", "line"),
    [
        (None, "127.0.0.1:1", "RAY_ADDRESS: no Ray cluster answers at '127.0.0.1:1' (unavailable: "),
        (None, "a:b:c", "RAY_ADDRESS: 'a:b:c' is not allowed; it must be host:port of a Ray head"),
        ("silent", "", "fleet.address: no Ray cluster answers at 'silent' (deadline exceeded: "),
    ],
)
def test_a_cluster_that_does_not_answer_is_said_soon(tiny, monkeypatch, address, variable, line):
    """`ray.init` would wait for minutes; what accepts a connection and is silent is said to be waited for."""
    lines: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(head, "ANSWER_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        c = configuration.build({"model": {"path": str(tiny)}, "fleet": on_ray(address=address and place)})
        with pytest.raises(ConfigError, match="^" + re.escape(line.replace("silent", place))):
            ray_fleet.connect(c, lines.append)
    assert lines == ([f"waiting for the Ray cluster at {place}"] if address else [])


def test_a_cluster_that_a_thread_started_outlives_the_thread():
    """`arun` runs in a thread of its own, and the kernel ends Ray's processes with the thread that started them."""
    script = """
import threading, ray
from actors.cluster.head import answers, joined
thread = threading.Thread(target=lambda: joined("local"))
thread.start(), thread.join()
here = ray.get_runtime_context().gcs_address
print(answers(here), ray.get(ray.remote(lambda: 42).remote()))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.stdout.split() == ["True", "42"], ran.stderr


def test_groups_reserved_before_one_that_is_refused_are_given_back(tiny, monkeypatch):
    reserve, refused = ray_fleet.reserve, ConfigError("fleet.encoders.labels: no selector")
    made, removed = [], []

    def some(home):
        if home.owner.kind == "encoder":
            raise refused
        made.append(reserve(home))
        return made[-1]

    monkeypatch.setattr(ray_fleet, "reserve", some)
    monkeypatch.setattr(ray_fleet, "remove_placement_group", removed.append)
    c = configuration.build({"model": {"path": str(tiny)}, "fleet": on_ray()})

    async def begin():
        async with ray_fleet.ray_fleet(c, Plan(()), print):
            pass

    try:
        with pytest.raises(ConfigError, match="no selector"):
            asyncio.run(begin())
        assert len(made) == 2 and removed == made
    finally:
        for group in made:
            remove_placement_group(group)


def test_what_hung_is_killed_and_not_what_came_in_its_place(monkeypatch):
    """A gang that starts anew while its old leader is looked at has no actor for a moment, then another one."""
    killed = []
    monkeypatch.setattr(ray_fleet.ray, "kill", lambda actor: killed.append(actor))

    class Gang:
        id, kind, actor = "denoiser-0", "denoiser", "old"

        async def hangs(self):
            self.actor = "new"
            return not killed

    async def watch():
        async with asyncio.TaskGroup() as tasks:
            fleet = ray_fleet.RayFleet(60, tasks, lambda line: None)
            fleet.serving(r := Gang())
            task = tasks.create_task(fleet._watch(r))
            await asyncio.sleep(25)
            task.cancel()

    run_virtual(watch())
    assert killed == ["old"]


def test_a_process_whose_device_is_broken_ends(monkeypatch):
    """Every later call would fail there, and at once: it would draw all items and fail all searches."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    class Broken:
        def __init__(self, kind, config, plan):
            pass

        def submit(self, *call):
            future = Future()
            future.set_exception(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
            return future

    actor = Actor("denoiser", None, None, Broken)
    with pytest.raises(torch.AcceleratorError):
        asyncio.run(actor.run(1, "denoise", {}))
    assert ended == [1]


def test_rays_errors_become_ours():
    assert isinstance(ray_fleet.mapped(ray.exceptions.ActorUnavailableError("gone", None)), ReplicaDied)
    assert isinstance(ray_fleet.mapped(ray.exceptions.OutOfMemoryError("the node's memory is full")), ReplicaDied)
    assert isinstance(ray_fleet.mapped(ray.exceptions.NodeDiedError("gone")), ReplicaDied)
    assert isinstance(ray_fleet.mapped(ray.exceptions.ObjectLostError("00" * 28, "", "")), InputLost)
    cause = ValueError("bad")
    wrapped = ray.exceptions.RayTaskError("run", "trace", cause)
    assert ray_fleet.mapped(wrapped) is cause


@ray.remote
class Raises:
    """An actor whose every call fails."""

    @ray.method(num_returns=2)
    def run(self, *given):
        raise ValueError("bad")


def test_a_call_that_fails_leaves_no_error_that_ray_would_print(monkeypatch):
    printed = []
    monkeypatch.setattr("ray._private.worker._unhandled_error_handler", printed.append)
    replica = RayReplica("scorer-0", "scorer", 1, list, fleet=None, actors=[Raises.remote()])
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(replica.run(Call(None, {})))
    gc.collect()
    assert not printed


def test_the_driver_pulls_no_latents(tiny, tmp_path, monkeypatch):
    """Only embeddings, for the disk, and winners' files are fetched: everything else stays a reference."""
    fetched = []
    plain = ray_fleet.RayFleet.fetch

    async def fetch(self, ref):
        files = await plain(self, ref)
        fetched.append(sorted(files))
        return files

    monkeypatch.setattr(ray_fleet.RayFleet, "fetch", fetch)
    run(tiny, tmp_path / "run", arms=ARMS[1:2], fleet=on_ray())
    assert fetched == [["0", "tree"], ["0", "tree"], ["mp4", "npy", "poster", "preview", "safetensors"]]
    assert Path(tmp_path / "run" / "videos").is_dir()


def test_metrics_can_be_scraped_from_the_node(tiny, tmp_path):
    """What a run publishes, at the node's export endpoint, which lags behind by some seconds. Tags are ASCII."""
    arms = [ARMS[0], ARMS[1] | {"name": "größte"}]
    session = Session(config(tiny, arms=arms, fleet=on_ray(metrics=True)), Backend(), run_dir=tmp_path / "50% ü")
    seen: list[Snapshot] = []
    asyncio.run(session.run([(1.0, seen.append)]))
    last = seen[-1]
    expected = {
        ("raysearch_nfe_total", ""): last.fleet.nfe,
        ("raysearch_rewards_total", ""): last.fleet.rewards,
        ("raysearch_store_bytes", ""): last.fleet.store_bytes,
        ("raysearch_best_reward", ""): last.best,
        ("raysearch_step_seconds", ""): last.fleet.seconds_per_step,
        ("raysearch_queue_depth", "denoiser"): 0,
        ("raysearch_slots", "scorer"): 1,
        ("raysearch_slots_busy", "scorer"): 0,
        **{("raysearch_searches_done", metrics.tag(name)): a.done for name, a in last.arms.items()},
    }
    assert metrics.tag("größte") == "gr%C3%B6%C3%9Fte"
    assert last.fleet.nfe > 0 and last.fleet.rewards > 0
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline, found = time.monotonic() + PATIENCE, {}
    while time.monotonic() < deadline and any(found.get(k) != pytest.approx(v) for k, v in expected.items()):
        time.sleep(1)  # another process's page: there is nothing to wait on
        found = scraped(url, "50%25 %C3%BC")
    assert {k: found.get(k) for k in expected} == pytest.approx(expected)


def scraped(url: str, run_name: str) -> dict[tuple[str, str], float]:
    """The values of a run's metrics, by name without Ray's prefix and by kind or arm."""
    with urllib.request.urlopen(url, timeout=30) as page:
        text = page.read().decode()
    found = {}
    for name, tags, value in re.findall(r"^ray_(raysearch_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if labels.get("run") == run_name:
            found[name, labels.get("kind") or labels.get("arm") or ""] = float(value)
    return found


def test_what_takes_long_to_end_is_not_aborted_by_ray():
    """Its own handler of SIGTERM, which `ray.init` sets, ends a process that is still there three seconds later."""
    script = """if True:
        import sys, time
        from actors.cluster.head import joined
        from actors.training.driver import interrupt_on_sigterm
        joined(sys.argv[1])
        interrupt_on_sigterm()
        try:
            print("ready", flush=True)
            time.sleep(100)
        except KeyboardInterrupt:
            began = time.monotonic()
            while time.monotonic() < began + 4:
                pass
            sys.exit(130)
    """
    command = [sys.executable, "-c", script, ray.get_runtime_context().gcs_address]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    run.terminate()
    out, err = run.communicate(timeout=600)
    assert (run.returncode, out, err) == (130, "", "")
