"""What `raysearch plan` foretells beside what runs do; and with --large what planning big fleets costs.

    python tests/benchmarks/planning.py --json docs/figures/planning.json
    python tests/benchmarks/planning.py --large --json docs/figures/planning_large.json

The tiny model is calibrated on this machine. Then the quick start, a small sweep and a small allocation run on Ray,
each with one and with two denoisers, and each run is planned again with its own rewards: NFE are to be the same, the
time within 25%. With two cores, two denoisers share them with the scorer and the driver. What else the machine does
counts as well, so nothing else should run.

With --large nothing is calibrated: 10,000 searches on 64 + 16 replicas and 512 denoisers with 64 scorers are planned
with timings by hand, which are to take two and five minutes of CPU at most.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import ROOT, Report, json_option

from raysearch.__main__ import main as raysearch

ALLOCATION = """\
model: {path: actors/assets/tiny-wan, height: 32, width: 32, num_frames: 17, max_sequence_length: 80}
sampler: {name: unipc, num_steps: 30, guidance_scale: 2.0}
policy: {name: best_of_n, n: 12}
rewards: {search: {name: pixel}, holdout: {name: verifier}}
prompts_file: %s
seeds: [7000]
seeds_apart: true
arms:
  - {name: lowest-best, allocation: {name: lowest_best}, budget: {total_nfe: 3600}}
  - name: sequential
    policy: {name: sequential, n: 12, looks: [12], bars: [1.9], enough: 2.45}
    allocation: {name: threshold, enough: 2.45}
    budget: {total_nfe: 2400}
fleet:
  denoisers: {replicas: 1, num_cpus: 1, slots: 4}
  scorers: {replicas: 1, num_cpus: 0.5}
  encoders: {replicas: 1, num_cpus: 0.1}
output: {videos: false}
"""
LARGE = """\
model: {path: actors/assets/tiny-wan, height: 32, width: 32, num_frames: 17, max_sequence_length: 80}
sampler: {name: unipc, num_steps: 50, guidance_scale: 5.0}
policy: {name: best_of_n, n: 8}
rewards: {search: {name: pixel}}
prompts_file: %s
fleet:
  store_gb: 100
  denoisers: {num_gpus: 1}
  scorers: {num_gpus: 1}
"""
OTHERS = 0.6  # CPUs of the scorer and the encoder
SMALLER = {"sweep": ["seeds=[0]"]}


def said(*words: str) -> str:
    """What a command prints. Raises RuntimeError where it fails."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = raysearch(words)
    if code:
        raise RuntimeError(f"raysearch {' '.join(words)}: exit code {code}")
    return out.getvalue()


def run(config: Path, run_dir: Path, overrides: Sequence[str]) -> None:
    """A run in a process of its own, as a user starts it."""
    group = "sweep" if config.stem.startswith("sweep") else "run"
    words = [sys.executable, "-m", "raysearch", group, str(config), f"run_dir={run_dir}", *overrides]
    env = os.environ | {"RAY_ADDRESS": "local"}
    subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=env)


def measured(
    report: Report, scratch: Path, kinds: Sequence[str], denoisers: Sequence[int], more: Sequence[str]
) -> None:
    """Calibrate, run, plan with the runs' rewards, and print plan and run side by side."""
    captions = (ROOT / "configs" / "held_out_two_60.txt").read_text().splitlines(keepends=True)
    (scratch / "captions.txt").write_text("".join(captions[:20]))
    (scratch / "allocation.yaml").write_text(ALLOCATION % (scratch / "captions.txt"))
    configs = {
        "quickstart": ROOT / "configs" / "quickstart.yaml",
        "sweep": ROOT / "configs" / "sweep_quick.yaml",
        "allocation": scratch / "allocation.yaml",
    }
    rows = []
    for kind in kinds:
        for n in denoisers:
            file, run_dir = scratch / f"{kind}-{n}.timings.json", scratch / f"{kind}-{n}"
            share = min(1.0, ((os.cpu_count() or 1) - OTHERS) / n)  # all replicas must find room on this machine
            overrides = [f"fleet.denoisers.replicas={n}", f"fleet.denoisers.num_cpus={share:.2f}"]
            overrides += [*SMALLER.get(kind, ()), *more]
            said("calibrate", str(configs[kind]), *overrides, "--to", str(file))
            run(configs[kind], run_dir, overrides)
            found = json.loads(said("plan", "--against", str(run_dir), "--timings", str(file), "--json"))
            by = {r["what"]: r for r in found["rows"]}
            wall, nfe, alone = by["wall"], by["NFE shared"], by["NFE alone"]
            busy = [by[f"{k}s busy"] for k in ("denoiser", "scorer")]
            rows.append(
                [
                    kind,
                    found["fleet"],
                    *(f"{wall[k]:.1f}" for k in ("plan", "run")),
                    f"{wall['off']:+.0%}",
                    *(f"{r['plan']:,.0f} / {r['run']:,.0f}" for r in (alone, nfe)),
                    *(f"{b['plan']:.0%} / " + ("-" if b["run"] is None else f"{b['run']:.0%}") for b in busy),
                ]
            )
            print(" | ".join(rows[-1]), flush=True)
    head = (
        "run | fleet | seconds, plan | run | off | NFE alone, plan / run | NFE shared | denoisers busy | scorers busy"
    )
    report.table("against", head, rows)


def large(report: Report, scratch: Path, sizes: Sequence[tuple[int, int, int]]) -> None:
    """CPU seconds of planning fleets of these numbers of searches, denoisers and scorers."""
    rows = []
    for searches, denoisers, scorers in sizes:
        (scratch / "prompts.txt").write_text("\n".join(f"a red circle moving left {i}" for i in range(searches)))
        config = scratch / "large.yaml"
        config.write_text(LARGE % (scratch / "prompts.txt"))
        words = ("--step", "2.4", "--decode", "3", "--score", "3", "--json", "--draws", "1")
        before = time.process_time()
        tries = "--try", f"denoisers={denoisers}", "--try", f"scorers={scorers}"
        found = json.loads(said("plan", str(config), *tries, *words))
        cpu = time.process_time() - before
        (fleet,) = found["fleets"]
        hours = f"{fleet['wall_s'][1] / 3600:.2f}"
        rows.append([f"{searches:,}", f"{denoisers} + {scorers}", f"{fleet['nfe'][1]:,.0f}", hours, f"{cpu:.0f}"])
    report.table("cpu", "searches | fleet | NFE | hours, plan | CPU seconds of the plan", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="plan big fleets instead")
    parser.add_argument("--searches", type=int, default=10_000, help="of --large")
    parser.add_argument("--kinds", nargs="+", default=["quickstart", "sweep", "allocation"])
    parser.add_argument("--denoisers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="overrides of all configs")
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        if args.large:
            n = args.searches
            large(report, Path(scratch), [(n, 64, 16), (n, 512, 64)])
        else:
            measured(report, Path(scratch), args.kinds, args.denoisers, args.set)


if __name__ == "__main__":
    main()
