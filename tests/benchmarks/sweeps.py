"""What each arm of a sweep gains over the baseline, so that a guide can hold it:

    python -m raysearch sweep configs/sweep_steps.yaml
    python tests/benchmarks/sweeps.py runs/sweep_steps --json docs/figures/sweep_steps.json

The table is that of the sweep's curves.parquet: costs as if an arm had run alone, the gain in the judged reward, the
success, and the gain in success. Gains are paired by caption and seed; intervals are 95%.
"""

import argparse
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from bench import Report, json_option

from raysearch.sweep.curves import judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--curves", nargs="+", help="the curves to show, by default all")
    json_option(parser)
    args = parser.parse_args()
    if not (args.run / "curves.parquet").exists():
        parser.error(f"{args.run} holds no curves.parquet")
    arms: dict[str, dict[str, Any]] = {}
    for r in pq.read_table(args.run / "curves.parquet").to_pylist():
        if args.curves is None or r["curve"] in args.curves:
            arms.setdefault(r["arm"], {})[r["measure"]] = r
    measures = {m for of in arms.values() for m in of}
    judge = judged(measures) or "reward_search"
    success = next((m for m in ("holdout_success", "final_success") if m in measures), None)
    if judge not in measures:
        parser.error(f"no curve of {args.run} has a finished search")
    head = "arm | pairs | NFE | replica-seconds | gain" + (" | success | gain in success" if success else "")
    rows = []
    for arm, of in arms.items():
        r = of[judge]
        line = [arm, str(r["pairs"]), f"{r['budget']:.0f}", f"{r['replica_seconds']:.2f}", gain(r)]
        rows.append(line + ([f"{of[success]['mean']:.3f}", gain(of[success])] if success else []))
    Report(args.json).table("gains", head, rows)


def gain(r: dict[str, Any]) -> str:
    """The paired difference of a row of curves.parquet, with its interval if it has one; a dash without pairs."""
    if not r["pairs"]:
        return "–"
    difference, low, high = (f"{r[k]:+.3f}" for k in ("difference", "difference_low", "difference_high"))
    return difference if low == high else f"{difference} [{low}, {high}]"


if __name__ == "__main__":
    main()
