"""configs/slurm.sbatch: its shell, and its logic with stand-ins for Slurm's commands; and once with Ray's own command.

`ray symmetric-run` ends with `ray stop`, which stops every Ray of the machine that it sees: here it sees only its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import PATIENCE, RAY, ROOT, free_port, rows, undisturbed, until
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

SCRIPT = ROOT / "configs" / "slurm.sbatch"
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
STANDINS = {
    "scontrol": 'echo "$*" >>"$FAKES/scontrol"; [ "$1" != show ] || echo 127.0.0.1',
    "srun": 'exec "$@"',
    "ray": 'printf "%s\\0" "$@" >"$FAKES/ray-$1"; [ -z "${BROKEN:-}" ] || exit 0\n'
    '[ "$1" != symmetric-run ] || { while [ "$1" != -- ]; do shift; done; shift; "$@"; }',
}


class Submitted:
    """A folder with stand-ins, from which the script runs as Slurm would run it."""

    def __init__(self, folder: Path, *standins: str) -> None:
        self.folder, self.bin, self.run_dir = folder, folder / ".venv" / "bin", folder / "run"
        self.bin.mkdir(parents=True)
        for name in standins:
            self._command(name, STANDINS[name])
        self._command("python", f'PYTHONPATH={ROOT}:{ROOT}/tests exec {sys.executable} "$@"')
        for name in ("configs", "actors"):
            (folder / name).symlink_to(ROOT / name)

    def _command(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def start(self, *more: str, before: list[str] | None = None, **environment: str) -> subprocess.Popen:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
        slurm = {"SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"}
        slurm |= {"SLURM_JOB_NODELIST": "127.0.0.1", "FAKES": str(self.folder), "HOME": str(self.folder)}
        return subprocess.Popen(
            [*(before or []), "bash", str(SCRIPT), "configs/mixture.yaml", f"run_dir={self.run_dir}", *more],
            env=kept | slurm | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def asked(self, name: str) -> list[str]:
        """What the stand-in for `ray` was told for one of its commands."""
        return (self.folder / f"ray-{name}").read_text().split("\0")[:-1]

    def requeued(self) -> bool:
        return "requeue 7\n" in (self.folder / "scontrol").read_text()


@pytest.fixture
def submitted(tmp_path):
    return Submitted(tmp_path, *STANDINS)


def test_its_shell_is_right():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([checker, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_asks_slurm_to_signal_and_to_requeue():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --exclusive", "#SBATCH --ntasks-per-node=1"} <= set(lines)
    assert "#SBATCH --signal=B:TERM@120" in lines


def test_a_job_runs_and_what_it_tells_ray_is_understood(submitted):
    """Its options are those of this Ray's own commands."""
    run = submitted.start("fleet.backend=local")
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, out
    assert len(rows(submitted.run_dir)) == 4 and not submitted.requeued()
    words = submitted.asked("symmetric-run")[1:]
    options, command = words[: words.index("--")], words[words.index("--") + 1 :]
    known = symmetric_run.make_context("_", [*options], resilient_parsing=True)
    assert (known.params["address"], known.params["min_nodes"]) == ("127.0.0.1:20007", 1)
    start.make_context("_", ["--head", *curate_and_validate_ray_start_args(options)])  # raises what Ray would say
    assert command[-2:] == ["fleet.address=127.0.0.1:20007", "resume=auto"]
    assert submitted.asked("get-auth-token")[1:] == ["--generate"]


def test_a_job_that_is_signalled_is_requeued_and_goes_on(submitted):
    """Slurm's signal reaches the shell alone; the driver ends as by Ctrl-C, and the job is put back in the queue."""
    gate = submitted.folder / "gate"
    more = [f"policy={{name: gated:search, gate: {gate}}}", "max_searches=1", "fleet.backend=local"]
    gate.write_text("1")
    run = submitted.start(*more)
    journal = submitted.run_dir / "journal" / "answers.jsonl"
    until(lambda: run.poll() is not None or (journal.exists() and b'"status":"done"' in journal.read_bytes()))
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130 and submitted.requeued(), out
    assert "raysearch: interrupted" in out
    assert json.loads((submitted.run_dir / "status.json").read_bytes())["state"] == "interrupted"
    (submitted.folder / "scontrol").unlink()
    gate.write_text("9")
    run = submitted.start(*more)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0 and not submitted.requeued(), out
    assert "(1 is done already)" in out
    assert [r["status"] for r in rows(submitted.run_dir)] == ["done"] * 4


@pytest.mark.parametrize(
    ("more", "environment", "code", "said"),
    [
        (["policy.m=3"], {}, 2, "raysearch: policy.m: unknown key"),
        ([], {"BROKEN": "1"}, 1, "the run has not begun: Ray did not start on 127.0.0.1"),
    ],
)
def test_a_job_that_cannot_succeed_is_not_requeued(submitted, more, environment, code, said):
    run = submitted.start("fleet.backend=local", *more, **environment)
    out, _ = run.communicate(timeout=PATIENCE)
    assert (run.returncode, submitted.requeued()) == (code, False), out
    assert said in out


def test_it_wants_a_folder_on_the_shared_disk(submitted):
    for words in ([], ["run_dir=runs/mine"]):
        done = subprocess.run(["bash", SCRIPT, "c.yaml", *words], capture_output=True, text=True)
        assert done.returncode == 2 and "absolute path" in done.stderr


def test_with_rays_own_command(tmp_path):
    """In a space of processes of its own: Ray starts, the run joins it with the token, and Ray is stopped."""
    if shutil.which(ALONE[0]) is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not have a space of processes of its own (unshare --pid)")
    submitted = Submitted(tmp_path, "scontrol", "srun")
    (submitted.bin / "ray").symlink_to(RAY)
    job = str(free_port() % 10000)
    values = {"SLURM_JOB_ID": job, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"}
    run = submitted.start("fleet.backend=ray", before=ALONE, **values)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, out
    assert (tmp_path / ".ray" / "auth_token").exists()
    found = [(r["search_id"], r["winner"], r["reward_search"]) for r in rows(submitted.run_dir)]
    assert found == undisturbed(tmp_path / "l", [])
