"""`ray job submit` against a real head on this machine, in processes and with an environment of their own."""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from clusters import PATIENCE, RAY, ROOT, free_port, processes_of, rows, undisturbed, until
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from raysearch.session import journal


@dataclass
class Head:
    """A head, how to talk to it, and where it keeps its files."""

    address: str
    environment: dict[str, str]
    folder: Path
    client: JobSubmissionClient

    def submit(self, name: str, *command: str) -> None:
        """As a user does, from the checkout."""
        words = [RAY, "job", "submit", "--no-wait", f"--submission-id={name}", "--working-dir", ".", "--"]
        done = subprocess.run(
            [*words, *command], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr

    def ended(self, name: str) -> JobDetails:
        until(lambda: self.client.get_job_status(name).is_terminal())
        return self.client.get_job_info(name)

    def log(self, name: str) -> list[str]:
        """What a job printed, without Ray's line before it."""
        lines = self.client.get_job_logs(name).splitlines()
        return lines[1 + next(i for i, line in enumerate(lines) if line.startswith("Running entrypoint")) :]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rs-"))  # short: Ray's sockets lie below it
    address, token = f"http://127.0.0.1:{(dashboard := free_port())}", secrets.token_hex(24)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_JOB_STOP_WAIT_TIME_S": str(PATIENCE),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(PATIENCE),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }
    command = [RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--num-cpus=4", "--num-gpus=0"]
    command += [f"--port={free_port()}", f"--ray-client-server-port={free_port()}", "--object-store-memory=1300000000"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        headers = {"Authorization": f"Bearer {token}"}

        def ready() -> bool:
            assert head.poll() is None, (folder / "head.log").read_text()
            try:
                JobSubmissionClient(address, headers=headers).submit_job(entrypoint="true")
            except (OSError, RuntimeError):  # nobody listens yet; there is no agent yet
                return False
            return True

        until(ready)
        yield Head(address, environment, folder, JobSubmissionClient(address, headers=headers))
    finally:
        left = processes_of(folder)
        for p in left:
            with suppress(psutil.NoSuchProcess):
                p.kill()  # a head that is asked drains itself for 30 seconds first
        psutil.wait_procs(left, timeout=60)
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
        assert not processes_of(folder)


def plain(line: str) -> bool:
    """No escape codes, no carriage returns: only what any viewer shows as it is."""
    return all(unicodedata.category(character) != "Cc" for character in line)


def done(run_dir: Path) -> int:
    """As the journal has it, which knows before searches.parquet does."""
    return sum(r.get("status") == "done" for r in journal.read(run_dir / "journal"))


MIXTURE = ("python", "-m", "raysearch", "run", "configs/mixture.yaml", "fleet.backend=ray", "resume=auto")


def test_the_head_asks_for_its_token(head):
    for headers in (None, {"Authorization": f"Bearer {'0' * 48}"}):
        with pytest.raises(AuthenticationError):
            JobSubmissionClient(head.address, headers=headers).list_jobs()


def test_a_mistake_in_the_config_fails_the_job_with_one_line(head):
    head.submit("mistake", *MIXTURE, "policy.m=3")
    job = head.ended("mistake")
    assert job.status == JobStatus.FAILED
    assert job.driver_exit_code == 2
    assert head.log("mistake") == ["raysearch: policy.m: unknown key; allowed here: n"]


def test_a_job_runs_the_checkout_and_logs_plain_lines(head, tmp_path):
    run_dir = tmp_path / "run"
    head.submit("whole", *MIXTURE, f"run_dir={run_dir}")
    job = head.ended("whole")
    log = head.log("whole")
    assert job.status == JobStatus.SUCCEEDED, log
    assert job.driver_exit_code == 0
    assert [(r["search_id"], r["winner"], r["reward_search"]) for r in rows(run_dir)] == undisturbed(tmp_path / "l", [])
    assert len(list((run_dir / "latents").glob("*.safetensors"))) == 4
    assert all(map(plain, log))
    assert "4 searches, about 640 NFE before sharing; starting the fleet" in log
    assert log[-2:] == [f"results: {run_dir}", f"as a page: python -m raysearch report {run_dir}"]


def test_a_stopped_job_keeps_what_it_has_and_goes_on_when_submitted_again(head, tmp_path):
    run_dir, gate = tmp_path / "run", tmp_path / "gate"
    more = [f"policy={{name: gated:search, gate: {gate}}}", "seeds=[0,1,2,3,4,5]", "max_searches=2"]
    command = ("env", "PYTHONPATH=tests", *MIXTURE, f"run_dir={run_dir}", *more)
    gate.write_text("3")  # so many searches end before the job is stopped
    head.submit("stopped", *command)
    until(lambda: done(run_dir) > 2 or head.client.get_job_status("stopped").is_terminal())
    head.client.stop_job("stopped")
    job, log = head.ended("stopped"), head.log("stopped")
    assert job.status == JobStatus.STOPPED, log
    assert all(map(plain, log))
    (again,) = [line.partition(": ")[2] for line in log if line.startswith("to go on: ")]
    given = [a for a in (*MIXTURE, *more) if not a.startswith("resume=")]
    assert shlex.split(again) == [*given, f"run_dir={run_dir}", "resume=require"]
    assert log[-1] == "raysearch: interrupted"
    before = {r["search_id"]: r for r in rows(run_dir)}
    assert {r["status"] for r in before.values()} == {"done", "cancelled"}
    kept = {k: r for k, r in before.items() if r["status"] == "done"}

    gate.write_text("6")
    head.submit("again", *command, "fleet.backend=local")  # a run may go on on any fleet
    assert head.ended("again").status == JobStatus.SUCCEEDED, head.log("again")
    after = {r["search_id"]: r for r in rows(run_dir)}
    assert {k: after[k] for k in kept} == kept  # wall times too: nothing was searched again
    expected = undisturbed(tmp_path / "local", more)
    assert [(r["search_id"], r["winner"], r["reward_search"]) for r in after.values()] == expected
