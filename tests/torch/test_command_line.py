"""A user's mistake is one clear line and exit code 2, before any model loads; nothing is lost or overwritten."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

import raysearch
from actors.models import wan
from raysearch.__main__ import main
from raysearch.config import config as configuration
from raysearch.session import journal

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_model_loads(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("a model was loaded")

    for part in ("TextEncoder", "Transformer", "Autoencoder"):
        monkeypatch.setattr(wan, part, load)


@pytest.fixture
def config(tiny, tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model: {{path: {tiny}, height: 32, width: 32, num_frames: 9, max_sequence_length: 40}}\n"
        "sampler: {num_steps: 8}\n"
        "rewards: {search: {name: tiny:Brightness}}\n"
        "prompts: [a red circle moving left]\n"
        "fleet: {backend: local}\n"
        f"run_dir: {tmp_path / 'run'}\n"
    )
    return path


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["policy.name=nonesuch"], "policy.name: no policy 'nonesuch'; there are beam, best_of_n"),
        (["policy.name=best_of_m"], "did you mean 'best_of_n'?"),
        (["policy.name=no_module:search"], "policy.name: 'no_module:search' cannot be imported"),
        (["policy={name: best_of_n, m: 3}"], "policy.m: unknown key; allowed here: n"),
        (["policy={name: best_of_n, n: three}"], "policy.n: 'three' is not allowed; it must be of type int"),
        (["policy={name: best_of_n, n: 0}"], "policy.n: 0 is not allowed; it must be at least 1"),
        (["policy={name: rgrp, n: -2}"], "policy.n: -2 is not allowed"),
        (["policy={name: draft_commit, explore: {name: best_of_n, m: 3}}"], "policy.explore.m: unknown key"),
        (["policy.name=rgrp"], "policy.schedule: 10 is not allowed; it must be of steps in 0..7"),
        (["polcy.name=single"], "polcy: unknown key (did you mean 'policy'?)"),
        (["sampler.num_step=3"], "sampler.num_step: unknown key (did you mean 'num_steps'?)"),
        (["sampler.num_steps=many"], "sampler.num_steps"),
        (["sampler.num_steps=0"], "sampler.num_steps: 0 is not allowed; it must be at least 1"),
        ([f"sampler.num_steps={10**30}"], "0 is not allowed; it must be at most 10000"),
        (["sampler.name=ddim"], "sampler.name: 'ddim' is not allowed; it must be one of unipc"),
        (["model.path=/no/such/folder"], "model.path: '/no/such/folder' is not allowed"),
        (["model.path=configs"], "model.path: 'configs' is not allowed; it must be a folder with a model_index.json"),
        (["model.dtype=int8"], "model.dtype: 'int8' is not allowed; it must be one of float32"),
        (["prompts=[]"], "prompts"),
        (["prompts=['  ']"], "prompts[0].prompt"),
        (["prompts=null"], "prompts"),
        (["prompts=[x, y, x]"], "prompts[2]: 'x' is not allowed; it must be another prompt than that of prompts[0]"),
        (["prompts_file=README.md"], "it must be given, or prompts_file is, and not both"),
        (["prompts=null", "prompts_file=/no/such/file"], "prompts_file: '/no/such/file' is not allowed"),
        (["prompts=[{prompt: x, image: none.png}]"], "prompts[0].image: 'none.png' is not allowed"),
        (["prompts=[{prompt: x, image: README.md}]"], "prompts[0].image: 'README.md' is no picture"),
        (["seeds=[]"], "seeds"),
        (["seeds=[1, 1]"], "seeds: [1, 1] is not allowed"),
        (["rewards.search.name=beauty"], "rewards.search.name: no reward 'beauty'; there are verifier"),
        (["rewards.search.weights={shiny: 1}"], "rewards.search.weights: 'shiny' is not allowed"),
        (["rewards.search.scale=big"], "rewards.search.scale: 'big' is not allowed; it must be of type float"),
        (["budget.nfe=15"], "budget.nfe: 15 is not allowed; it must be at least 16"),
        (["budget.wall_seconds=.inf"], "budget.wall_seconds: inf is not allowed; it must be a finite number"),
        (["budget.nfe=-1"], "budget.nfe: -1 is not allowed; it must be above 0"),
        (["arms=[{policy: {name: single}}]"], "arms[0].name"),
        (["arms=[{name: a, model: {}}]"], "arms[0].model: unknown key"),
        (["policy.name=rgrp", "policy.schedule=[2]", "arms=[{name: a, policy: {name: single}}]"], "policy: {"),
        (
            ["policy.nme=x", "arms=[{name: a, policy: {name: single}}]"],
            "policy.name: None is not allowed",
        ),
        (["fleet.denoisers.num_gpus=1"], "fleet.denoisers.num_gpus: 1.0 is not allowed; it must be 0"),
        (["fleet.denoisers.num_cpus=.inf"], "fleet.denoisers.num_cpus: inf is not allowed"),
        (["fleet.denoisers.replicas=0"], "fleet.denoisers.replicas: 0 is not allowed"),
        (["fleet.encoders.shards=2"], "fleet.encoders.shards: 2 is not allowed"),
        (["fleet.backend=slurm"], "fleet.backend: 'slurm' is not allowed; it must be one of ray, local"),
        (["max_searches=0"], "max_searches: 0 is not allowed"),
        (["run_dir=/proc/nothing/here"], "run_dir: '/proc/nothing/here' is not allowed"),
        (["prompts=[x"], "the overrides ['prompts=[x'] cannot be read"),
        (["model=5"], "model: 5 is not allowed; it must be a mapping"),
        (["arms=[5]"], "arms[0]: 5 is not allowed; it must be a mapping"),
        (["arms=[{name: a, policy: single}]"], "policy: 'single' is not allowed; it must be a mapping"),
        (["policy.name=os:sep"], "policy.name: 'os:sep' is not allowed; it must be a coroutine"),
        (["policy.name=:search"], "policy.name"),
        (["policy={name: rgrp, schedule: [2], temperature: .inf}"], "policy.temperature: inf is not allowed"),
        (["rewards.search.name=os:sep"], "rewards.search.name: 'os:sep' is no reward"),
        (["rewards.search.weights=5"], "rewards.search.weights: 5 is not allowed; it must be a mapping"),
        (["rewards.search.weights={bright: .nan}"], "rewards.search.weights.bright"),
        (["rewards.search=null", "policy.name=best_of_n"], "rewards.search is missing"),
        (
            ["rewards={search: null, holdout: {name: tiny:Brightness}}", "policy.name=best_of_n"],
            "rewards.search is missing",
        ),
        (["fleet.store_gb=.inf"], "fleet.store_gb: inf is not allowed"),
        (["sampler.guidance_scale=.nan"], "sampler.guidance_scale: nan is not allowed"),
        (["model.height=33"], "model.height: 33 is not allowed; it must be a multiple of 8 for this model"),
        (["model.num_frames=10"], "model.num_frames: 10 is not allowed; it must be 1 plus a multiple of 4"),
        (["nonsense"], "an override: 'nonsense' is not allowed; it must be of the form key=value"),
    ],
)
def test_one_clear_line(config, capsys, overrides, expected):
    assert main(["run", str(config), *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("raysearch: ")
    assert expected in err
    assert not (config.parent / "run").exists()


def test_a_run_dir_with_files_is_kept(config, capsys):
    run_dir = config.parent / "run"
    run_dir.mkdir()
    (run_dir / "searches.parquet").write_text("precious")
    assert main(["run", str(config)]) == 2
    assert "run_dir" in capsys.readouterr().err
    assert (run_dir / "searches.parquet").read_text() == "precious"
    assert len(list(run_dir.iterdir())) == 1


def test_no_such_config(capsys):
    assert main(["run", "configs/none.yaml"]) == 2
    assert "the config file: 'configs/none.yaml' is not allowed" in capsys.readouterr().err


def test_broken_yaml_is_one_line(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("model: [unclosed\nsampler: {")
    assert main(["run", str(tmp_path / "c.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_policies_lists_each_with_its_signature(capsys):
    assert main(["policies"]) == 0
    out = capsys.readouterr().out
    assert "rgrp(*" not in out
    assert "schedule: Sequence[int] = (10, 15, 20)" in out
    assert "best_of_n(n: int = 4)" in out


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"raysearch {raysearch.__version__}\n")


def test_an_installed_checkout_has_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = EntryPoint("raysearch", project["scripts"]["raysearch"], "console_scripts")
    assert script.load() is main
    assert project["version"] == raysearch.__version__


def test_the_printed_config_is_the_same_with_all_defaults(config, capsys):
    given = ["policy={name: draft_commit}", "obstacles=[{text: a}]", "seeds=[4]"]
    for overrides in (given, [*given, "arms=[{name: a, sampler: {eta: 0.5, name: flow-sde}}, {name: b}]"]):
        assert main(["run", str(config), "--print-config", *overrides]) == 0
        printed = config.with_name("printed.yaml")
        printed.write_text(capsys.readouterr().out)
        again = configuration.load(printed)
        assert again.seeds == [4]
        assert configuration.arms(again) == configuration.arms(configuration.load(config, overrides))
        for policy in [again.policy, *(a["policy"] for a in again.arms or ())][-2:]:
            assert policy == {"name": "draft_commit", "draft_steps": 8, "explore": {"name": "best_of_n", "n": 8}}
        assert not (config.parent / "run").exists()


@pytest.fixture(scope="module")
def editor() -> Draft202012Validator:
    """What an editor makes of the schema."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["schema"]) == 0
    return Draft202012Validator(json.loads(out.getvalue()))


def test_the_schema_takes_every_shipped_config(editor):
    of_others = {"rayjob", "train_latent", "train_pavrm", "prfl"}
    paths = [p for p in (ROOT / "configs").glob("*.yaml") if p.stem not in of_others]
    assert len(paths) > 10
    for path in paths:
        editor.validate(configuration.read(path))


@pytest.mark.parametrize(
    "values",
    [
        {"polcy": {"name": "single"}},
        {"policy": {"name": "best_of_m"}},
        {"policy": {"name": "rgrp", "m": 1}},
        {"policy": {"name": "rgrp", "beta": "x"}},
        {"policy": {"name": "draft_commit", "explore": {"name": "rgrp", "m": 1}}},
        {"policy": {"n": 3}},
        {"sampler": {"name": "ddpm"}},
        {"sampler": {"num_steps": 0}},
        {"rewards": {"search": {"name": "near", "pont": [1.0]}}},
        {"rewards": {"search": {"name": "near", "point": "x"}}},
        {"obstacles": [{"txt": "a"}]},
        {"obstacles": [{"reward": {"name": "pixle"}}]},
        {"arms": [{"name": "a", "policy": {"name": "rgrp", "m": 1}}]},
        {"arms": [{"name": "a", "budget": {"nfe": -1}}]},
        {"sweep": {"curves": [{"policy": {"name": "rgrp"}, "along": {"policy.n": 3}}]}},
    ],
)
def test_the_schema_marks_mistakes(editor, values):
    model = {"model": {"path": "x"}}
    assert editor.is_valid(model)
    assert not editor.is_valid(model | values)


@pytest.mark.parametrize("command", [["policies"], ["status", "{run}"], ["run", "{config}", "policy.n=9"]])
def test_a_closed_pipe_ends_a_command_quietly(command, tmp_path):
    """As `| head` closes it, whether print writes to it or rich."""
    done = raysearch.run(ROOT / "configs" / "mixture.yaml", [f"run_dir={tmp_path / 'run'}"], report=lambda line: None)
    words = [w.format(run=done.path, config=ROOT / "configs" / "mixture.yaml") for w in command]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "raysearch", *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_daemon_without_an_output_runs_a_command(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["policies"]) == 0


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["sweep", "--help"], ["policies", "--help"]])
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 0
    assert "usage: raysearch" in capsys.readouterr().out


def test_a_shadowed_package_is_said(monkeypatch, capsys, tmp_path):
    import types

    other = types.ModuleType("policies")
    other.__file__ = str(tmp_path / "policies" / "__init__.py")
    monkeypatch.setitem(__import__("sys").modules, "policies", other)
    assert main(["policies"]) == 2
    assert "shadows" in capsys.readouterr().err


def test_another_policy_leaves_the_first_ones_arguments(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {path: x}\nprompts: [a]\npolicy: {name: best_of_n, n: 9}\n")
    assert configuration.load(path, ["policy.n=3"]).policy == {"name": "best_of_n", "n": 3}
    assert configuration.load(path, ["policy.name=rbf"]).policy == {"name": "rbf"}
    assert configuration.load(path, ["policy.name=svdd", "policy.m=2"]).policy == {"name": "svdd", "m": 2}


def test_a_run_is_ended_by_signals_and_gone_on_with(tmp_path, capsys, monkeypatch):
    """SIGINT and SIGTERM: one line on stderr, exit code 130, finished rows kept, what was under way there as cancelled.

    Then SIGKILL; and in the end the run is there whole, each search once.
    """
    run_dir, gate = tmp_path / "run", tmp_path / "gate"
    arguments = ["run", "configs/mixture.yaml", f"run_dir={run_dir}", f"policy={{name: gated:search, gate: {gate}}}"]
    arguments += ["seeds=[0,1,2,3,4,5]", "max_searches=2", "resume=auto"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}

    def done() -> int:
        return len({r["search_id"] for r in journal.read(run_dir / "journal") if r.get("status") == "done"})

    def started(finished: int):
        """A run when so many searches have ended, and others go on and on."""
        gate.write_text(str(finished))
        run = subprocess.Popen(
            [sys.executable, "-m", "raysearch", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        deadline = time.monotonic() + 600
        while run.poll() is None and time.monotonic() < deadline and done() < finished:
            time.sleep(0.05)  # a real process's file: there is nothing to wait on
        return run

    for finished, end in enumerate((signal.SIGINT, signal.SIGTERM), 1):
        run = started(finished)
        run.send_signal(end)
        out, err = run.communicate(timeout=600)
        assert run.returncode == 130
        assert err.strip() == "raysearch: interrupted"
        assert f"give the same command again with run_dir={run_dir} resume=require" in out
        statuses = pq.read_table(run_dir / "searches.parquet")["status"].to_pylist()
        assert {"done", "cancelled"} == set(statuses)
    run = started(3)
    run.kill()
    run.communicate()
    assert done() == 3
    gate.write_text("6")
    monkeypatch.chdir(ROOT)
    assert main([*arguments[:-1], "resume=require"]) == 0
    assert "6 searches (3 are done already)" in capsys.readouterr().out
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    assert [r["status"] for r in rows] == ["done"] * 6
    assert done() == sum(r.get("status") == "done" for r in journal.read(run_dir / "journal")) == 6  # each once
    assert set(pq.read_table(run_dir / "candidates.parquet")["search_id"].to_pylist()) == {r["search_id"] for r in rows}
