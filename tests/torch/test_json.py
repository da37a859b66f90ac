"""`--json`: a real command prints one object on standard output, and whatever else is said goes to standard error."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysearch.__main__ import main

ROOT = Path(__file__).parents[2]
MIXTURE = str(ROOT / "configs" / "mixture.yaml")


async def talkative(ctx):
    """A policy that prints, and whose search of one seed fails."""
    print("a policy says something")
    xs = ctx.denoise(ctx.noise(2))
    r = await ctx.score(xs)
    if ctx.seed == 2:
        raise ArithmeticError("a bad seed")
    return xs[int(r.argmax())]


def one(capsys):
    """The one object on standard output, and the lines on standard error."""
    out, err = capsys.readouterr()
    assert out.endswith("}\n") and out.count("\n") == 1
    return json.loads(out), err.splitlines()


def test_a_run_with_a_failed_search(tmp_path, capsys):
    policy = "policy.name=test_json:talkative"
    words = ["run", MIXTURE, "--json", f"run_dir={tmp_path / 'run'}", policy, "policy.n=null"]
    assert main(words) == 2  # a mistake is one line, and nothing on standard output
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    words[-1] = "fleet.backend=local"
    words.insert(3, "policy={name: test_json:talkative}")
    words.remove(policy)
    assert main(words) == 3
    found, said = one(capsys)
    assert (found["state"], found["exit_code"], found["run_dir"]) == ("finished", 3, str(tmp_path / "run"))
    (group,) = found["failures"]
    assert group["reason"] == "ArithmeticError: a bad seed" and group["n"] == found["searches"]["failed"] == 1
    assert found["again"] == (
        f"raysearch run {MIXTURE} --json 'policy={{name: test_json:talkative}}' fleet.backend=local "
        f"run_dir={tmp_path / 'run'} resume=require"
    )
    assert "a policy says something" in said and f"to go on: {found['again']}" in said
    assert main(["status", "--json", str(tmp_path / "run")]) == 0
    seen, _ = one(capsys)
    same = {"state", "run_dir", "searches", "best", "arms", "cost", "failures", "baseline"}
    assert {k: seen[k] for k in same} == {k: found[k] for k in same}


def test_a_sweep_and_a_collection(tmp_path, capsys):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"base: {MIXTURE}\npolicy: {{name: single}}\nfleet: {{backend: local}}\nrun_dir: {tmp_path / 'sweep'}\n"
        "sweep: {curves: [{policy: {name: best_of_n}, along: {policy.n: [1, 2]}}]}\n"
    )
    assert main(["sweep", str(sweep), "--json"]) == 0
    found, _ = one(capsys)
    assert [a["name"] for a in found["arms"]] == ["best_of_n-n1", "best_of_n-n2"]
    assert (tmp_path / "sweep" / "summary.md").exists() and found["again"] is None
    collected = [f"run_dir={tmp_path / 'collected'}", "fleet.backend=local", "rewards.final.name=near", "seeds=[0,1]"]
    assert main(["collect", MIXTURE, *collected, "--json"]) == 0
    found, said = one(capsys)
    assert found["searches"]["done"] == 2 and any("dataset" in line for line in said)


def test_what_is_asked_for_beside_each_other_is_refused(capsys):
    assert main(["run", MIXTURE, "--json", "--print-config"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "not allowed with argument" in err and err.count("\n") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_prints_the_object(tmp_path, how):
    """The real thing, from another process: its standard output is the object alone."""
    run_dir, gate = tmp_path / "run", tmp_path / "gate"
    gate.write_text("1")
    words = ["run", "configs/mixture.yaml", "--json", f"policy={{name: gated:search, gate: {gate}}}", "max_searches=1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "raysearch", *words, f"run_dir={run_dir}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600

    def done() -> int:
        seen = subprocess.run(
            [sys.executable, "-m", "raysearch", "status", "--json", str(run_dir)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return json.loads(seen.stdout)["searches"]["done"] if seen.returncode == 0 else 0

    while run.poll() is None and time.monotonic() < deadline and done() < 1:
        time.sleep(0.1)  # a real process: there is nothing to wait on
    run.send_signal(how)
    out, err = run.communicate(timeout=600)
    found = json.loads(out)
    assert run.returncode == found["exit_code"] == 130, err
    assert (found["state"], found["searches"]["done"]) == ("interrupted", 1)
    assert found["again"].endswith(f"run_dir={run_dir} resume=require")
    assert err.splitlines()[-1] == "raysearch: interrupted"
