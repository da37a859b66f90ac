"""Does a run that a judge scores survive refusals, lost connections and being killed, and pay for nothing twice?

    python tests/benchmarks/judge.py --scores 1000

Best-of-n searches with the tiny model are scored by the reward `judge`, which asks `tests/judge_server.py`: a process
of its own, which refuses a share of requests with 429 and drops a share of connections. The run is ended in its middle,
once by SIGKILL and once by SIGTERM, and goes on with resume=require. Printed are the scores, the requests, and the
questions that were answered more than once: at most those whose answer was on its way when the run was killed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from bench import ROOT, SIZE, TINY, Report, json_option

CAPTIONS = [
    f"a {color} {shape} moving {way}"
    for color in ("red", "green", "cyan", "magenta", "yellow")
    for shape in ("circle", "square")
    for way in ("left", "up")
]


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """The address of a judge in a process of its own."""
    command = [sys.executable, str(ROOT / "tests" / "judge_server.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def counts(url: str) -> dict[str, Any]:
    """What the judge was asked and answered so far."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.load(direct.open(url))  # type: ignore[no-any-return]


def values(url: str, scores: int, n: int, backend: str, slots: int) -> dict[str, Any]:
    """The config of a run that asks for so many scores or a few more, in searches of n."""
    searches = -(-scores // n)
    share = {"num_cpus": 0.3}
    fleet = {"denoisers": {"slots": 16, **share}, "scorers": {"slots": slots, **share}, "encoders": share}
    return {
        "model": {"path": str(TINY), **SIZE},
        "sampler": {"num_steps": 2, "guidance_scale": 2.0},
        "rewards": {"search": {"name": "judge", "url": url, "model": "brightness", "frames": 2}},
        "policy": {"name": "best_of_n", "n": n},
        "prompts": CAPTIONS[:searches],
        "seeds": list(range(-(-searches // len(CAPTIONS)))),
        "fleet": {"backend": backend, **fleet},
        "output": {"videos": False},
    }


def run(config: Path, run_dir: Path, cache: Path, stop: signal.Signals | None, url: str, when: int) -> float:
    """The seconds of a run, which is ended by a signal when the judge has given `when` answers."""
    command = [sys.executable, "-m", "raysearch", "run", str(config), f"run_dir={run_dir}"]
    command += ["resume=require"] if run_dir.exists() else []
    environment = os.environ | {"RAYSEARCH_CACHE": str(cache), "NO_PROXY": "*", "no_proxy": "*"}
    began = time.perf_counter()
    with open(run_dir.parent / "said", "a") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        while stop is not None and process.poll() is None and counts(url)["answered"] < when:
            time.sleep(0.05)
        if stop is not None and process.poll() is None:
            process.send_signal(stop)
        code = process.wait()
    expected = (0,) if stop is None else (-stop, 130)
    assert code in expected, f"exit code {code}: {(run_dir.parent / 'said').read_text()[-2000:]}"
    return time.perf_counter() - began


def judged(stop: signal.Signals | None, args: argparse.Namespace) -> list[str]:
    """A row of the table: a run that is ended in its middle, and goes on."""
    chance = ["--refused", str(args.refused), "--dropped", str(args.dropped), "--latency", str(args.latency)]
    with tempfile.TemporaryDirectory() as scratch, server(*chance) as url:
        folder, config = Path(scratch), Path(scratch) / "config.json"
        given = values(url, args.scores, args.n, args.backend, args.slots)
        config.write_text(json.dumps(given))
        seconds = run(config, folder / "run", folder / "cache", stop, url, args.scores // 2) if stop else 0.0
        before = counts(url)["answered"]
        seconds += run(config, folder / "run", folder / "cache", None, url, 0)
        found = counts(url)
        rows = pq.read_table(folder / "run" / "searches.parquet").to_pylist()
        scored = sum(r["reward_calls"] for r in rows if r["status"] == "done")
        kept = len(list((folder / "cache" / "judgements").iterdir()))
    faults = found["faults"]
    return [
        stop.name if stop else "none",
        f"{scored} of {args.n * len(given['prompts']) * len(given['seeds'])}",
        f"{before if stop else 0}",
        f"{found['requests']}",
        f"{faults.get('429', 0)} and {faults.get('dropped', 0)}",
        f"{found['answered']}",
        f"{found['again']}",
        f"{kept}",
        f"{seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=1000)
    parser.add_argument("--n", type=int, default=10, help="candidates of a search")
    parser.add_argument("--backend", choices=("local", "ray"), default="local")
    parser.add_argument("--slots", type=int, default=8, help="questions that are asked at a time")
    parser.add_argument("--refused", type=float, default=0.05)
    parser.add_argument("--dropped", type=float, default=0.02)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that an answer takes")
    parser.add_argument("--stops", nargs="+", choices=("SIGKILL", "SIGTERM", "none"), default=["SIGKILL", "SIGTERM"])
    json_option(parser)
    args = parser.parse_args()
    head = "ended by | scores | answered before | requests | 429 and dropped | answered | again | kept | seconds"
    rows = [judged(None if stop == "none" else signal.Signals[stop], args) for stop in args.stops]
    Report(args.json).table("judge", head, rows)


if __name__ == "__main__":
    main()
