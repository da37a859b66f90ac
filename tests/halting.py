"""Trainings that halt at a step: they hang there, so that a test can kill them in the middle, or they fail."""

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"train": "actors.training.latent_rewards", "prfl": "actors.training.prfl"}


def work(module: str, halt: int, hangs: bool, c: Any) -> None:
    """What a training's worker runs, except that it hangs or fails when it comes to the step `halt`."""
    from actors.training import loop

    learning_rate = loop.learning_rate

    def halting(step: int, schedule: Any) -> float:
        if step == halt:
            if hangs:
                threading.Event().wait()
            raise RuntimeError(f"the training came to step {step}")
        return learning_rate(step, schedule)

    loop.learning_rate = halting
    importlib.import_module(module).work(c)


def run(command: str, config: Path, *, halt: int, hangs: bool) -> int:
    """Run a command of raysearch in this process, whose training halts at a step; returns its exit code."""
    from ray import cloudpickle

    from raysearch import __main__ as command_line

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this file
    module = importlib.import_module(MODULES[command])
    plain = module.work
    module.work = partial(work, MODULES[command], halt, hangs)
    try:
        return command_line.main([command, str(config)])
    finally:
        module.work = plain


@contextmanager
def hanging(command: str, config: Path, *, halt: int, address: str) -> Iterator[subprocess.Popen]:
    """Within it, the command runs in a driver of its own, on the Ray cluster at `address`; its training hangs."""
    script = (
        f"import halting, pathlib; halting.run({command!r}, pathlib.Path({str(config)!r}), halt={halt}, hangs=True)"
    )
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "RAY_ADDRESS": address}
    call = [sys.executable, "-c", script]
    with subprocess.Popen(call, cwd=ROOT, env=os.environ | paths, start_new_session=True) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def kill_after_checkpoint(driver: subprocess.Popen, run_dir: Path, *, patience: float = 300) -> None:
    """Kill a driver once its training has a checkpoint to go on from; within `patience` seconds, or AssertionError."""
    deadline = time.monotonic() + patience
    while not (run_dir / "checkpoints" / "checkpoint_manager_snapshot.json").exists():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()


@contextmanager
def cluster() -> Iterator[str]:
    """A small Ray cluster that two trainings can share, to which this process is connected; its address."""
    import ray

    lean = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    with patch.dict(os.environ, lean):
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            _system_config={"num_workers_soft_limit": 32},  # else idle processes end, and new ones start at every epoch
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()
