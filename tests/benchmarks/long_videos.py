"""How good and how steady are a run's long videos, arm by arm? As ScalingNoise's Table 2 (2503.16400):

    python -m raysearch run configs/long.yaml run_dir=runs/long
    python tests/benchmarks/long_videos.py runs/long

The judge is the run's `holdout`, the exact verifier, chunk by chunk: success (what the caption says, and kept so), in
the first and in the last chunk, in all of them, and VQ, the imaging quality. The others are VBench's by the parts that
ship: subject consistency with `--features` instead of DINO; background consistency as the colour of what no object
covers, instead of CLIP; motion smoothness with frames between two others instead of AMT's; flicker as it is. They need
`output.frames=true`. NFE and replica-seconds are over those of `--against`. Only captions and seeds that all arms have
finished count; intervals are 95%, by raysearch.bootstrap.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from bench import Report, json_option

from actors import features
from actors.tiny.verifier import coverage
from raysearch.bootstrap import draws, interval, shared


def consistency(d: np.ndarray) -> float:
    """VBench's: of unit features (T, D) the mean likeness to the first frame and to the one before."""
    return float(0.5 * ((d[1:] @ d[0]).mean() + (d[1:] * d[:-1]).sum(1).mean()))


def measures(frames: np.ndarray, look: features.Features, every: int) -> list[float]:
    """Of frames uint8 (T, H, W, 3): subject, background, smoothness, flicker; 1 is best."""
    x = frames.astype(np.float32) / 255
    bare = coverage(frames).max(1) < 0.1  # (T, H, W)
    ground = np.stack([f[b].mean(0) if b.any() else np.zeros(3) for f, b in zip(x, bare, strict=True)])
    moved = 0.5 * (np.abs(ground[1:] - ground[0]).mean() + np.abs(np.diff(ground, axis=0)).mean())
    between = np.abs(x[1:-1] - 0.5 * (x[:-2] + x[2:])).mean()
    return [consistency(look(frames[::every])), 1 - moved, 1 - between, 1 - np.abs(np.diff(x, axis=0)).mean()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--against", default="base", help="the arm whose cost is 1")
    parser.add_argument("--features", default="efficientnet", choices=list(features.NAMES))
    parser.add_argument("--path", type=Path, help="of the features' weights")
    parser.add_argument("--every", type=int, default=1, help="the features look at each so many-th frame")
    parser.add_argument("--arms", nargs="+", help="only these; all by default")
    json_option(parser)
    args = parser.parse_args()
    if not (args.run / "searches.parquet").exists():
        parser.error(f"{args.run} holds no searches.parquet")
    rows = [r for r in pq.read_table(args.run / "searches.parquet").to_pylist() if r.get("holdout_success_chunks")]
    arms: dict[str, dict[tuple[str, int], dict]] = {}
    for r in rows:
        arms.setdefault(r["arm"], {})[r["prompt"], r["seed"]] = r
    arms = {a: rows for a, rows in arms.items() if args.arms is None or a in args.arms}
    if args.against not in arms:
        parser.error(f"the run's arms with judged long videos are {', '.join(arms) or 'none'}, and not {args.against}")
    both = sorted(set.intersection(*map(set, arms.values())))
    captions, seeds = zip(*both, strict=True)
    seeds = shared(captions, seeds)
    looked = (args.run / "frames").is_dir()
    torch.set_num_threads(1)  # of so small a network threads wait for each other
    look = features.find(args.features)(args.path) if looked else None
    names = [
        "success",
        "first",
        "last",
        "all",
        "VQ",
        *(["subject", "background", "smooth", "flicker"] if looked else []),
    ]
    table = {}
    for arm, found in arms.items():
        values = []
        for key in both:
            r = found[key]
            s = r["holdout_success_chunks"]
            row = [np.mean(s), s[0], s[-1], min(s), r["holdout_VQ"]]
            if look is not None:
                row += measures(np.load(args.run / "frames" / f"{r['search_id']}.npy"), look, args.every)
            values.append([*row, r["nfe"], r["replica_seconds"]])
        table[arm] = np.array(values)
    pairs = f"{len(set(captions))} captions, {len(both)} pairs of caption and seed"
    print(f"{pairs}; ± 95%; costs are over {args.against}'s")
    report, rows = Report(args.json), []
    for arm, values in table.items():
        mean = values.mean(0)
        low, high = interval(draws(values, captions, seeds))
        half = (high - low) / 2
        cost = values[:, -2:].mean(0) / table[args.against][:, -2:].mean(0)
        cells = [f"{m:.3f} ± {h:.3f}" for m, h in zip(mean[:-2], half[:-2], strict=True)]
        rows.append([arm, *cells, f"{cost[0]:.2f}", f"{cost[1]:.2f}"])
    report.table("videos", " | ".join(["arm", *names, "NFE", "seconds"]), rows)
    rows = []
    for arm in [a for a in table if a != args.against]:
        gained = table[arm][:, 0] - table[args.against][:, 0]
        low, high = interval(draws(gained, captions, seeds))
        rows.append([arm, f"{gained.mean():+.3f} ({low:+.3f} to {high:+.3f})"])
    report.table("gains", f"arm | success beyond that of {args.against}, paired by caption and seed", rows)


if __name__ == "__main__":
    main()
