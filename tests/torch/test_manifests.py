"""What takes raysearch to a cluster, as far as it holds without one: cluster.yaml, the RayJob, a job's package."""

import logging
import re
import shlex
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
import toy_images
import yaml
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory
from ray.autoscaler._private.util import prepare_config, validate_config

from actors.rewards import pixel, planning
from raysearch import __main__ as command_line
from raysearch import running
from raysearch.config import config as configuration

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
JOB, CLAIM = yaml.safe_load_all((ROOT / "configs" / "rayjob.yaml").read_text())
SPEC = JOB["spec"]["rayClusterSpec"]
HEAD, WORKERS = SPEC["headGroupSpec"], SPEC["workerGroupSpecs"][0]


def gpus(path: Path) -> float:
    """What the fleet of a config needs."""
    fleet = configuration.load(path).fleet
    return sum(p.replicas * p.num_gpus for p in (fleet.denoisers, fleet.scorers, fleet.encoders))


def pins() -> dict[str, Requirement]:
    """What cluster.yaml installs, by name."""
    words = [word for command in CLUSTER["setup_commands"] for word in shlex.split(command) if "==" in word]
    return {r.name: r for r in map(Requirement, words)}


# -- cluster.yaml ----------------------------------------------------------------------------------------------------


def test_rays_launcher_accepts_cluster_yaml():
    config = prepare_config(CLUSTER)
    validate_config(config)  # Ray's own schema
    types = config["available_node_types"]
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    assert types["gpu"]["max_workers"] <= config["max_workers"]
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(CLUSTER | {"idle_timeout": 3}))


def test_its_workers_hold_the_fleet_that_the_readme_submits():
    node = CLUSTER["available_node_types"]["gpu"]
    assert node["max_workers"] * node["resources"]["GPU"] >= gpus(ROOT / "configs" / "wan2.1_1.3b.yaml")


def test_a_cluster_installs_what_pyproject_names_in_versions_that_it_allows():
    named = {
        r.name: r
        for r in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    }
    assert set(pins()) == set(named)
    for name, pin in pins().items():
        (version,) = pin.specifier
        assert version.operator == "=="
        assert named[name].specifier.contains(version.version), f"{pin} is not what pyproject.toml asks for"
        assert pin.extras == named[name].extras


def test_every_start_of_ray_asks_for_the_token_and_the_dashboard_stays_on_loopback():
    starts = [c for k in ("head", "worker") for c in CLUSTER[f"{k}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in c for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any(remote.endswith("/.ray/auth_token") for remote in CLUSTER["file_mounts"])


# -- the RayJob ------------------------------------------------------------------------------------------------------


def test_the_rayjob_has_what_kuberay_requires():
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(JOB["spec"]) == {
        "entrypoint",
        "runtimeEnvYAML",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "backoffLimit",
        "rayClusterSpec",
    }
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert SPEC["authOptions"] == {"mode": "token"}
    assert SPEC["enableInTreeAutoscaling"] is True
    assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]
    for group in (HEAD, WORKERS):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert all(isinstance(e["value"], str) for e in container["env"])


GUIDES = "".join((ROOT / name).read_text() for name in ("README.md", "docs/cluster.md"))
ENTRYPOINTS = re.findall(r"^ray job submit .* -- (python -m raysearch .*)$", GUIDES, re.M)


@pytest.mark.parametrize("entrypoint", [JOB["spec"]["entrypoint"], *ENTRYPOINTS])
def test_an_entrypoint_is_a_command_of_ours_that_can_be_gone_on_with(monkeypatch, entrypoint):
    python, module, name, *arguments = shlex.split(entrypoint)
    assert (python, module, name) == ("python", "-m", "raysearch")
    ran = []
    monkeypatch.setattr(running, "searched", lambda config, *more: ran.append(config) or 0)
    monkeypatch.chdir(ROOT)
    assert command_line.main(arguments) == 0
    (config,) = ran
    assert config.resume == "auto"
    mounts = [m["mountPath"] for m in HEAD["template"]["spec"]["containers"][0]["volumeMounts"]]
    assert config.run_dir.startswith((f"{mounts[0]}/", "$PWD/"))  # outlives the job


def test_its_workers_hold_the_fleet_of_its_entrypoint():
    config = ROOT / next(word for word in shlex.split(JOB["spec"]["entrypoint"]) if word.endswith(".yaml"))
    (worker,) = WORKERS["template"]["spec"]["containers"]
    assert WORKERS["minReplicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"]) >= gpus(config)


def test_all_its_pods_run_the_image_that_dockerfile_makes_and_mount_the_claim():
    pods = [group["template"]["spec"] for group in (HEAD, WORKERS)]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        assert [volumes[m["name"]] for m in pod["containers"][0]["volumeMounts"]] == [CLAIM["metadata"]["name"]]
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    (ray,) = pins()["ray"].specifier
    assert f"FROM rayproject/ray:{ray.version}-" in dockerfile
    assert str(pins()["ray"]) in dockerfile
    assert SPEC["rayVersion"] == ray.version
    (folder,) = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.M)
    assert yaml.safe_load(JOB["spec"]["runtimeEnvYAML"]) == {"working_dir": folder}


# -- what a job takes along ------------------------------------------------------------------------------------------


def packaged(folder: Path, into: Path) -> set[str]:
    """The files that Ray takes along with `--working-dir`, in a zip file."""
    create_package(str(folder), into, include_gitignore=True, logger=logging.getLogger("ray"))
    return {n for n in zipfile.ZipFile(into).namelist() if not n.endswith("/")}


def test_the_checkout_travels_without_what_lies_about_in_it(tmp_path):
    folder = tmp_path / "checkout"
    wanted = {
        "raysearch/__main__.py",
        "actors/tiny/training/vae.py",
        "actors/assets/model.safetensors",
        "configs/a.yaml",
    }
    unwanted = {
        ".venv/bin/python",
        "runs/mine/videos/a.mp4",
        "training/latents.npy",
        "training-2/latents.npy",
        "raysearch/__pycache__/a.pyc",
        "raysearch.egg-info/PKG-INFO",
        ".pytest_cache/a",
        ".mypy_cache/a",
        ".ruff_cache/a",
    }
    for name in wanted | unwanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a")
    for name in (".gitignore", ".rayignore"):
        (folder / name).write_text((ROOT / name).read_text())
    assert packaged(folder, tmp_path / "package.zip") == wanted | {".gitignore", ".rayignore"}


def test_a_run_leaves_the_package_as_it_was(tmp_path):
    for name in (".gitignore", ".rayignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    before = get_uri_for_directory(str(tmp_path), include_gitignore=True)
    (tmp_path / "runs" / "mine" / "videos").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "videos" / "a.mp4").write_text("a")
    assert get_uri_for_directory(str(tmp_path), include_gitignore=True) == before


def test_a_reward_is_the_same_wherever_the_checkout_lies(tmp_path):
    def found(folder: Path):
        block = {"name": "pixel", "folder": str(folder)}
        reward = planning.reward("rewards.search", block, {}, (), (1, 8, 5, 8, 8))
        return reward.key, reward.identity

    here = found(pixel.ASSETS)
    there = tmp_path / "job" / "pixel-reward"
    shutil.copytree(pixel.ASSETS, there)
    assert found(there) == here
    (there / "config.json").write_text((there / "config.json").read_text() + " ")
    assert all(a != b for a, b in zip(found(there), here, strict=True))


def test_a_folder_that_is_named_by_a_text_counts_by_its_content(tmp_path):
    def found(folder: Path):
        reward = planning.reward(
            "rewards.search", {"name": "pickscore", "folder": str(folder)}, {}, (), (1, 8, 5, 8, 8)
        )
        return reward.key, reward.identity

    here = found(toy_images.clip_folder(tmp_path / "here"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert found(tmp_path / "there") == here
    other = found(toy_images.clip_folder(tmp_path / "other", seed=1))  # of the same sizes
    assert all(a != b for a, b in zip(other, here, strict=True))


def test_the_files_of_a_reward_are_read_once_for_all_arms(tmp_path, monkeypatch):
    """They may be gigabytes: a run of five arms, each with three judges, must not read them fifteen times."""
    read = []
    monkeypatch.setattr(planning, "finite_chunks", lambda file, key: (read.append(file), file.read_bytes())[1:])
    block, specs = {"name": "pickscore", "folder": str(toy_images.clip_folder(tmp_path / "clip"))}, {}
    made = [
        planning.reward(f"rewards.{role}", block | more, specs, (), (1, 8, 5, 8, 8))
        for more in ({}, {"weights": {"pickscore_min": 1}})
        for role in ("search", "final", "holdout")
    ]
    assert len({(r.key, r.identity) for r in made}) == len(specs) == 1 and len({r.weights for r in made}) == 2
    assert len(read) == len(set(read)) > 3
    planning.reward("rewards.search", block | {"frames": 3}, specs, (), (1, 8, 5, 8, 8))
    assert len(specs) == 2 and len(read) == 2 * len(set(read))


def test_the_package_of_a_job_is_small_and_has_what_a_run_needs(tmp_path):
    names = packaged(ROOT, tmp_path / "package.zip")
    assert {"raysearch/__main__.py", "configs/quickstart.yaml", "actors/assets/tiny-wan/model_index.json"} <= names
    assert (tmp_path / "package.zip").stat().st_size < 65e6
