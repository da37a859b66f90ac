"""What passes between a clone and the first search of quickstart, phase by phase.

    python tests/benchmarks/startup.py

Each time the checkout's last commit is cloned, and the README's first command runs there, with nothing in the caches of
raysearch and no compiled Python of its own; the libraries are installed. Printed are the seconds after the start at
which each phase ends, as median and range: those to the end of the first search are to be at most 25.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import ROOT, Report, json_option, spread

LINES = {  # phases that end with a line of the command, by what the line holds
    "the config and the model are checked, and Ray is there": "starting the fleet",
    "all replicas have loaded their models": "denoiser-0",
}
ITEMS: list[tuple[str, str, Callable[[list[float]], float]]] = [  # with an item of the trace, by what it does
    ("the texts are encoded", "encode", max),
    ("a candidate is denoised", "denoise", min),
    ("the first search has ended, with its video", "finish", min),
]


def once(scratch: Path, command: list[str]) -> dict[str, float]:
    """The seconds at which each phase ends, from the start of cloning on."""
    began, began_wall = time.monotonic(), time.time()
    subprocess.run(["git", "clone", "-q", str(ROOT), str(scratch / "clone")], check=True)
    ends = {"the clone is there": time.monotonic() - began}
    env = os.environ | {"RAYSEARCH_CACHE": str(scratch / "cache"), "RAY_ADDRESS": "local"}
    env.pop("PYTHONPATH", None)
    words = [sys.executable, "-u", *command, f"run_dir={scratch / 'run'}"]
    with subprocess.Popen(
        words, cwd=scratch / "clone", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            for phase, mark in LINES.items():
                if mark in line:
                    ends.setdefault(phase, time.monotonic() - began)
    if process.returncode:
        raise SystemExit(f"the run failed with {process.returncode}:\n{''.join(said[-20:])}")
    trace = pq.read_table(scratch / "run" / "trace.parquet", columns=["what", "end"]).to_pylist()
    for phase, what, pick in ITEMS:
        if times := [row["end"] for row in trace if row["what"] == what]:
            ends[phase] = pick(times) - began_wall
    return ends | {"the command has ended": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    json_option(parser)
    args = parser.parse_args()
    runs = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            runs.append(once(Path(scratch), ["-m", "raysearch", "run", args.config, *args.set]))
    rows = [[phase, spread(np.array([r[phase] for r in runs]), "{:.1f}")] for phase in runs[0]]
    for row in rows:
        row.append("25" if row[0].startswith("the first search") else "")
    Report(args.json).table("startup", "phase | ends after, s: median, least, most | at most", rows)


if __name__ == "__main__":
    main()
