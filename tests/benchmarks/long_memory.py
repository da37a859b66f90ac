"""Does a long video's memory grow, and does a killed one go on? One video out of a queue, in this process's children:

    python tests/benchmarks/long_memory.py

Prints the peak resident memory of whole runs (`fleet.backend=local`, models included) with `--frames` and with `--more`
frames; then kills the latter near its end, has it go on, and compares the frames.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import ROOT, Report, json_option


def command(run_dir: Path, frames: int, args: argparse.Namespace) -> list[str]:
    return [
        *(sys.executable, "-m", "raysearch", "run", str(ROOT / "configs" / "quickstart.yaml"), f"run_dir={run_dir}"),
        *("policy.name=single", "arms=null", "rewards.search=null", "prompts=[a red circle moving left]", "seeds=[0]"),
        *(f"model.path={args.model}", "fleet.backend=local", "fleet.denoisers.slots=1", "fleet.store_gb=0.001"),
        *(f"sampler={{name: euler, num_steps: {args.steps}, guidance_scale: 2.0}}", "resume=auto"),
        f"long={{chunks: {(frames - 1) // 16}, prefix: 1, fifo: {{partitions: {args.partitions}}}}}",
        *("output.frames=true", "output.videos=true"),
    ]


def start(run_dir: Path, frames: int, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    log = open(run_dir.with_suffix(".log"), "wb")  # noqa: SIM115
    return subprocess.Popen(command(run_dir, frames, args), cwd=ROOT, stdout=log, stderr=log)


def finished(run: "subprocess.Popen[bytes]", run_dir: Path) -> float:
    """Wait for it; its peak resident memory in MB."""
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        sys.exit(run_dir.with_suffix(".log").read_text())
    return usage.ru_maxrss / 1024


def video(run_dir: Path) -> np.ndarray:
    (file,) = (run_dir / "frames").iterdir()
    return np.load(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="actors/assets/tiny-wan")
    parser.add_argument("--frames", type=int, default=113)
    parser.add_argument("--more", type=int, default=513)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--partitions", type=int, default=10)
    json_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many, cut = (Path(folder) / name for name in ("few", "many", "cut"))
        peaks, lengths = [], []
        for path, frames in ((few, args.frames), (many, args.more)):
            peaks.append(finished(start(path, frames, args), path))
            lengths.append(len(video(path)))
        run = start(cut, args.more, args)
        near = 0.8 * ((args.more - 1) // 16 - 1)  # of the parts that are kept: the clip, and one a chunk but at the end
        while run.poll() is None and len(list((cut / "spill").glob("*.part"))) < near:
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.wait()
        kept = len(list((cut / "spill").glob("*.part")))
        finished(start(cut, args.more, args), cut)
        (row,) = pq.read_table(cut / "searches.parquet").to_pylist()
        same = np.array_equal(video(cut), video(many))
    rows = [[f"peak memory of a video of {n} frames", f"{peak:.0f} MB"] for n, peak in zip(lengths, peaks, strict=True)]
    rows += [
        ["ratio", f"{peaks[1] / peaks[0]:.3f}"],
        ["parts on disk when the run was killed", str(kept)],
        ["NFE that the run needed to go on, of all", f"{row['nfe_spent']} of {row['nfe']}"],
        ["the frames are those of an undisturbed run", str(same)],
    ]
    Report(args.json).table("long_memory", "what | figure", rows)


if __name__ == "__main__":
    main()
