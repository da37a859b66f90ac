"""What does a run at s3:// cost over one in a folder of this machine?

    python tests/benchmarks/remote.py --searches 24 --pairs 3

The mixture's searches run in pairs, once into a folder and once to a real S3 server on this machine, in a process of
its own, behind a proxy that counts. Printed are the time from the start of the fleet to its end, the CPU time of the
whole process, and what went up. The server takes CPU from the run here, which a store elsewhere would not.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import ROOT, Report, json_option
from s3 import files, s3


def run(folder: str, environ: dict[str, str], searches: int, n: int) -> tuple[float, float, float]:
    """Seconds of a run from its start to its end, of its fleet, and of its process on the CPU."""
    command = [sys.executable, "-m", "raysearch", "run", "configs/mixture.yaml", f"run_dir={folder}"]
    command += [f"policy.n={n}", f"seeds={list(range(searches))}"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=ROOT, env=os.environ | environ, check=True, capture_output=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    (status,) = Path(environ["RAYSEARCH_CACHE"]).parent.rglob("status.json")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, float(json.loads(status.read_bytes())["elapsed"]), cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=24)
    parser.add_argument("--n", type=int, default=64, help="noises of a search")
    parser.add_argument("--pairs", type=int, default=3)
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    ratios: list[tuple[float, ...]] = []
    with s3() as server:
        for i in range(args.pairs):
            seen = {}
            for where in ("here", "there") if i % 2 else ("there", "here"):
                with tempfile.TemporaryDirectory() as scratch:
                    environ = server.environ | {"RAYSEARCH_CACHE": f"{scratch}/cache", "OMP_NUM_THREADS": "1"}
                    folder = f"{scratch}/run" if where == "here" else f"s3://bucket/run{i}"
                    seen[where] = run(folder, environ, args.searches, args.n)
            ratios.append(tuple(t / h for t, h in zip(seen["there"], seen["here"], strict=True)))
        names = ("whole command", "fleet's time", "CPU time of the process")
        rows = [
            [name, f"{statistics.median(r):.3f}", f"{min(r):.3f} to {max(r):.3f}"]
            for name, r in zip(names, zip(*ratios, strict=True), strict=True)
        ]
        report.table("ratios", "s3:// over a folder | median | range", rows)
        there = files(server.environ, "run0")
        segments = sum(name.startswith("journal/segments/") for name in there)
        head = "searches | elapsed, s | files | segments | writes, all runs' mean | MB, all runs' mean"
        mean = [f"{len(server.puts) / args.pairs:.0f}", f"{server.bytes / args.pairs / 1e6:.2f}"]
        elapsed = json.loads(there["status.json"])["elapsed"]
        report.table("uploads", head, [[str(args.searches), f"{elapsed:.1f}", str(len(there)), str(segments), *mean]])


if __name__ == "__main__":
    main()
