"""A user's mistake is one clear line and exit code 2, before any model loads; nothing is lost or overwritten."""

import importlib.util
import io
import json
import os
import shlex
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
from omegaconf import OmegaConf

import raysearch
from actors.models import wan
from raysearch.__main__ import main
from raysearch.config import config as configuration
from raysearch.config.reading import read
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


def test_a_run_dir_with_files_is_kept(config, capsys):
    run_dir = config.parent / "run"
    run_dir.mkdir()
    (run_dir / "searches.parquet").write_text("precious")
    assert main(["run", str(config)]) == 2
    assert "run_dir" in capsys.readouterr().err
    assert (run_dir / "searches.parquet").read_text() == "precious"
    assert len(list(run_dir.iterdir())) == 1


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


def test_an_installed_checkout_has_the_command_and_it_finds_modules_where_it_is_started(tmp_path, monkeypatch, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = EntryPoint("raysearch", project["scripts"]["raysearch"], "console_scripts")
    assert project["version"] == raysearch.__version__
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["raysearch", "policies"])
    (tmp_path / "mine_alone.py").write_text("")
    assert script.load()() == 0
    assert "best_of_n(" in capsys.readouterr().out
    assert importlib.util.find_spec("mine_alone") is not None


def test_the_printed_config_is_the_same_with_all_defaults(config, capsys):
    given = ["policy={name: draft_commit}", "obstacles=[{text: a}]", "seeds=[4]"]
    more = [*given, "policy.cache={name: taylor}", "arms=[{name: a, sampler: {eta: 0.5, name: flow-sde}}, {name: b}]"]
    spelled = {"name": "taylor", "interval": 5, "warmup": 3, "order": 1}
    for overrides, cache in ((given, None), (more, spelled)):
        assert main(["run", str(config), "--print-config", *overrides]) == 0
        printed = config.with_name("printed.yaml")
        printed.write_text(capsys.readouterr().out)
        again = configuration.load(printed)
        assert again.seeds == [4]
        assert configuration.arms(again) == configuration.arms(configuration.load(config, overrides))
        for policy in [again.policy, *(a["policy"] for a in again.arms or ())][-2:]:
            explore = {"name": "best_of_n", "n": 8}
            assert policy == {"name": "draft_commit", "draft_steps": 8, "explore": explore, "cache": cache}
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
    paths = [p for p in (ROOT / "configs").rglob("*.yaml") if p.stem not in of_others]
    assert len(paths) > 25
    for path in paths:
        editor.validate(read(path, [], configuration.Config))
        editor.validate(OmegaConf.to_container(OmegaConf.load(path)))  # as an editor sees it: its base is not there


@pytest.mark.parametrize(
    "values",
    [
        {"polcy": {"name": "single"}},
        {"policy": {"name": "best_of_m"}},
        {"policy": {"name": "rgrp", "m": 1}},
        {"policy": {"name": "rgrp", "beta": "x"}},
        {"policy": {"name": "draft_commit", "explore": {"name": "rgrp", "m": 1}}},
        {"policy": {"name": "draft_commit", "cache": {"name": "easy", "interval": 2}}},
        {"policy": {"name": "draft_commit", "cache": {"threshold": 0.1}}},
        {"policy": {"n": 3}},
        {"sampler": {"name": "ddpm"}},
        {"sampler": {"num_steps": 0}},
        {"rewards": {"search": {"name": "near", "pont": [1.0]}}},
        {"rewards": {"search": {"name": "near", "point": "x"}}},
        {"rewards": {"search": [{"name": "near", "wieght": 2}, {"name": "pixel"}]}},
        {"rewards": {"search": {"name": "ensemble", "of": [{"name": "pixel"}], "normalise": "mean"}}},
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


def test_the_schema_knows_that_a_base_may_have_what_a_file_lacks(editor):
    assert editor.is_valid({"base": "a.yaml", "policy": {"n": 3}})
    assert not editor.is_valid({"policy": {"n": 3}}) and not editor.is_valid({"seeds": [0]})
    assert not editor.is_valid({"base": "a.yaml", "sampler": {"num_steps": 0}})
    assert not editor.is_valid({"base": ["a.yaml"]})


@pytest.mark.parametrize(
    ("command", "code"), [(["policies"], 1), (["status", "{run}"], 1), (["run", "{config}", "run_dir={run}-again"], 0)]
)
def test_a_closed_pipe_ends_a_command_quietly(command, code, tmp_path):
    """As `| head` closes it. A run does not depend on who reads what it says."""
    done = raysearch.run(ROOT / "configs" / "mixture.yaml", [f"run_dir={tmp_path / 'run'}"], report=lambda line: None)
    words = [w.format(run=done.path, config=ROOT / "configs" / "mixture.yaml") for w in command]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "raysearch", *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (code, "")


def test_a_full_disk_behind_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "raysearch", "policies"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr == "raysearch: the output cannot be written: No space left on device\n"


def test_a_run_does_not_depend_on_a_full_disk_behind_its_output(tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["run", str(ROOT / "configs" / "mixture.yaml"), f"run_dir={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().err == ""
    assert pq.read_table(tmp_path / "run" / "searches.parquet")["status"].to_pylist() == ["done"] * 4


@pytest.mark.parametrize("broken", ["disk", "pipe"])
def test_a_mistake_keeps_its_exit_code_where_its_line_cannot_be_written(broken, monkeypatch, capsys):
    """Nothing is written to the output in place of the line."""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full" if broken == "disk" else writer, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        assert main(["run", "nowhere.yaml"]) == 2
    assert capsys.readouterr().out == ""


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
        again = out.partition("\nto go on: ")[2].partition("\n")[0]
        kept = [a for a in arguments if not a.startswith(("run_dir=", "resume="))]
        own = [sys.executable, "-m", "raysearch", *kept, f"run_dir={run_dir}", "resume=require"]
        assert shlex.split(again) == own
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
