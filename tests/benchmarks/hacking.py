"""What do winners gain and lose in each grade, if a search maximises another reward? On a run of configs/hacking.yaml:

    python -m raysearch run configs/hacking_calibration.yaml run_dir=runs/hacking_calibration
    python -m raysearch run configs/hacking.yaml run_dir=runs/hacking
    python tests/benchmarks/hacking.py runs/hacking

Differences are those of the judge's grades, over `--single` on the same caption and seed, and the gain is that of VQ +
MQ + TA. Only captions and seeds that all arms have finished count. Intervals are 95%, by raysearch.bootstrap.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import Report, json_option
from gains import arms_of, cell

from raysearch.bootstrap import draws, shared

GRADES = ("VQ", "MQ", "TA", "success")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--single", default="single", help="the arm with which the others are compared")
    json_option(parser)
    args = parser.parse_args()
    if not (args.run / "searches.parquet").exists():
        parser.error(f"{args.run} holds no searches.parquet")
    rows = pq.read_table(args.run / "searches.parquet").to_pylist()
    of = [arms_of(rows, [f"holdout_{grade}"]) for grade in GRADES]
    if args.single not in of[0]:
        parser.error(f"the arms with judged searches are {', '.join(of[0]) or 'none'}, and not {args.single}")
    both = sorted(set.intersection(*map(set, of[0].values())))
    if not both:
        parser.error(f"no caption and seed is finished by all of {', '.join(of[0])}")
    captions, seeds = zip(*both, strict=True)
    print(f"{len(set(captions))} captions, {len(both)} pairs of caption and seed; differences are from {args.single}")
    values = np.array([[[grade[arm][k][0] for grade in of] for arm in of[0]] for k in both])  # (n, arms, grades)
    means = np.concatenate([values.mean(0)[None], draws(values, captions, shared(captions, seeds))])
    more = means - means[:, [list(of[0]).index(args.single)]]
    gain = more[..., : GRADES.index("success")].sum(-1)
    table = []
    for i, arm in sorted(enumerate(of[0]), key=lambda pair: -gain[0, pair[0]]):  # the best first
        table.append([arm, format(means[0, i, -1], ".2f"), cell(gain[:, i]), *(cell(g) for g in more[:, i].T)])
    Report(args.json).table("arms", " | ".join(["arm", "success", "gain", *(f"{g} more" for g in GRADES)]), table)


if __name__ == "__main__":
    main()
