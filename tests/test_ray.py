"""Real Ray, one cluster for the session: what only it can show."""

import os
from pathlib import Path

import numpy as np
import pytest
import ray
from test_actors import ARMS, run

from actors import fleet as ray_fleet
from raysearch import config as configuration
from raysearch.errors import ConfigError, InputLost, ReplicaDied

pytestmark = pytest.mark.ray


@pytest.fixture(scope="session", autouse=True)
def cluster():
    here = str(Path(__file__).parent)
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join((here, str(Path(here).parent)))}}
    ray.init(
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env=environment,
    )
    yield
    ray.shutdown()


def on_ray(**pools) -> dict:
    cpu = {"num_cpus": 0.5}
    return {"backend": "ray", "denoisers": cpu, "scorers": cpu, "encoders": cpu} | pools


def test_ray_and_local_agree_bit_for_bit_with_one_and_two_denoisers(tiny, tmp_path):
    expected, latents, frames = run(tiny, tmp_path / "local", arms=ARMS, seeds=[1])
    two = on_ray(denoisers={"replicas": 2, "num_cpus": 0.5})
    for i, fleet in enumerate((on_ray(), two)):
        rows, got, shown = run(tiny, tmp_path / str(i), arms=ARMS, seeds=[1], fleet=fleet)
        assert [r["winner"] for r in rows] == [r["winner"] for r in expected]
        assert all(np.array_equal(got[k], latents[k]) and np.array_equal(shown[k], frames[k]) for k in latents)
        assert all((tmp_path / str(i) / r["video"]).read_bytes()[4:8] == b"ftyp" for r in rows)


def test_gpu_fractions_pin_replicas_to_their_share(tiny, tmp_path):
    """Two halves of one (pretended) GPU: both run, on the CPU path that a 0-GPU config has."""
    config = configuration.build(
        {"model": {"path": str(tiny)}, "fleet": on_ray(denoisers={"replicas": 4, "num_gpus": 0.5, "num_cpus": 0.5})}
    )
    ray_fleet.check_resources(config, [n["Resources"] for n in ray.nodes()])


@pytest.mark.parametrize(
    ("pools", "line"),
    [
        ({"denoisers": {"replicas": 3, "num_gpus": 1}}, "3 denoisers x 1"),
        ({"denoisers": {"num_gpus": 3}}, "fleet.denoisers.num_gpus: 3 is not allowed; the largest node has 2 GPU"),
        ({"scorers": {"num_cpus": 64}}, "fleet.scorers.num_cpus: 64"),
    ],
)
def test_what_the_cluster_can_never_hold_is_said_before_anything_starts(tiny, tmp_path, pools, line):
    with pytest.raises(ConfigError, match=line):
        run(tiny, tmp_path / "run", fleet=on_ray(**pools))
    assert not (tmp_path / "run").exists()


def test_a_killed_denoiser_comes_back_and_nothing_changes(tiny, tmp_path, monkeypatch):
    expected, latents, _ = run(tiny, tmp_path / "local", arms=ARMS, seeds=[1, 2])
    started = ray_fleet.start
    killed = []

    def start(config, plan):
        replicas = started(config, plan)
        plain = ray_fleet.RayReplica.run

        async def run_and_kill(self, call):
            if self.kind == "denoiser" and len(killed) < 2 and call.arguments["step"] > 0:
                killed.append(self.id)
                ray.kill(self.actor, no_restart=False)
            return await plain(self, call)

        monkeypatch.setattr(ray_fleet.RayReplica, "run", run_and_kill)
        return replicas

    monkeypatch.setattr(ray_fleet, "start", start)
    rows, got, _ = run(tiny, tmp_path / "ray", arms=ARMS, seeds=[1, 2], fleet=on_ray())
    assert len(killed) == 2
    assert [r["winner"] for r in rows] == [r["winner"] for r in expected]
    assert all(np.array_equal(got[k], latents[k]) for k in latents)


def test_rays_errors_become_ours():
    assert isinstance(ray_fleet.mapped(ray.exceptions.ActorUnavailableError("gone", None)), ReplicaDied)
    assert isinstance(ray_fleet.mapped(ray.exceptions.ObjectLostError("00" * 28, "", "")), InputLost)
    cause = ValueError("bad")
    wrapped = ray.exceptions.RayTaskError("run", "trace", cause)
    assert ray_fleet.mapped(wrapped) is cause


def test_the_driver_pulls_no_latents(tiny, tmp_path, monkeypatch):
    """Only winners' files are fetched: everything else stays a reference."""
    fetched = []
    plain = ray_fleet.RayFleet.fetch

    async def fetch(self, ref):
        files = await plain(self, ref)
        fetched.append(sorted(files))
        return files

    monkeypatch.setattr(ray_fleet.RayFleet, "fetch", fetch)
    run(tiny, tmp_path / "run", arms=ARMS[1:2], fleet=on_ray())
    assert fetched == [["mp4", "npy", "safetensors"]]
    assert Path(tmp_path / "run" / "videos").is_dir()
