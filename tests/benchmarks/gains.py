"""What do a run's arms gain over one plain sample, and at what cost? On a run of configs/latent_search.yaml:

    python -m raysearch run configs/latent_search.yaml run_dir=runs/latent_search
    python tests/benchmarks/gains.py runs/latent_search

The gain is that of the judge's VQ + MQ + TA, or of other `--components`, over `--single` on the same caption and seed.
Each arm is compared with those of `--against`: its gain less theirs, and the shares of their gain and of their cost.
Costs are replica-seconds, scoring included, as if an arm had run alone. A second table has the success.

Arms of one comparison may be in several runs of the same captions and seeds: give all their folders. Only captions and
seeds that all arms have finished count, so that a run may be looked at while it goes on; `--arms` leaves others out.
Intervals are 95%, by raysearch.bootstrap.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import Report, json_option

from raysearch.bootstrap import draws, interval, shared

SUCCESS = ("holdout_success", "final_success")
Key = tuple[str, int]  # a caption and a seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run")
    parser.add_argument("--arms", nargs="+", help="the arms to compare, by default all; --single and --against are too")
    parser.add_argument("--single", default="single", help="the arm over which the others gain")
    parser.add_argument("--against", nargs="+", default=["best-of-4", "evolution"], help="arms to compare with")
    parser.add_argument("--components", nargs="+", default=["holdout_VQ", "holdout_MQ", "holdout_TA"])
    json_option(parser)
    args = parser.parse_args()
    arms: dict[str, dict[Key, tuple[float, float, float]]] = {}
    columns: set[str] = set()
    for run in args.runs:
        if not (run / "searches.parquet").exists():
            parser.error(f"{run} holds no searches.parquet")
        table = pq.read_table(run / "searches.parquet")
        columns |= set(table.column_names)
        for arm, of in arms_of(table.to_pylist(), args.components).items():
            if arm in arms:
                print(f"{arm} is that of an earlier run, and not that of {run}")
            else:
                arms[arm] = of
    for c in args.components:
        if c not in columns:
            judged = sorted(n for n in columns if n.startswith(("holdout_", "final_")) and not n.endswith("_chunks"))
            parser.error(f"no run has a column {c}; there are {', '.join(judged) or 'none'}")
    compared = [args.single, *args.against]
    for name in [*compared, *(args.arms or [])]:
        if name not in arms:
            parser.error(f"the arms with judged searches are {', '.join(arms) or 'none'}, and not {name}")
    arms = {a: of for a, of in arms.items() if args.arms is None or a in args.arms + compared}
    both = sorted(set.intersection(*map(set, arms.values())))
    if not both:
        parser.error(f"no caption and seed is finished by all of {', '.join(arms)}; see --arms")
    captions, seeds = zip(*both, strict=True)
    print(f"{len(set(captions))} captions, {len(both)} pairs of caption and seed; gains are over {args.single}")
    values = np.array([[of[k] for of in arms.values()] for k in both])  # (n, arms, 3)
    means = np.concatenate([values.mean(0)[None], draws(values, captions, shared(captions, seeds))])
    judged, cost, success = ({a: means[:, i, k] for i, a in enumerate(arms)} for k in range(3))
    gain = {a: judged[a] - judged[args.single] for a in arms}
    gains, successes = [], []
    for a in arms:
        gains.append([a, cell(gain[a]), cell(cost[a], ".2f")])
        for b in args.against:
            gains[-1] += [cell(gain[a] - gain[b]), cell(gain[a] / gain[b], ".2f"), cell(cost[a] / cost[b], ".2f")]
        successes.append([a, cell(success[a], ".3f"), *(cell(success[a] - success[b]) for b in compared)])
    over = [f"gain minus {b}'s | share of {b}'s gain | share of {b}'s cost" for b in args.against]
    report = Report(args.json)
    report.table("gains", " | ".join(["arm | gain | replica-seconds", *over]), gains)
    if np.isfinite(values[..., 2]).all():
        print()
        report.table("success", " | ".join(["arm | success", *(f"minus {b}'s" for b in compared)]), successes)


def arms_of(rows: Sequence[dict], components: Sequence[str]) -> dict[str, dict[Key, tuple[float, float, float]]]:
    """By arm, and by caption and seed: judged sum, replica-seconds, and success, which is NaN without a judge of it."""
    arms: dict[str, dict[Key, tuple[float, float, float]]] = {}
    for r in rows:
        judged = [r.get(c) for c in components]
        if None not in judged:
            if (r["prompt"], r["seed"]) in arms.get(r["arm"], {}):
                raise SystemExit(f"{r['prompt']!r} has two searches of seed {r['seed']}: captions cannot be told apart")
            success = next((r[s] for s in SUCCESS if r.get(s) is not None), np.nan)
            arms.setdefault(r["arm"], {})[r["prompt"], r["seed"]] = sum(judged), r["replica_seconds"], success
    return arms


def cell(means: np.ndarray, form: str = "+.3f") -> str:
    """The first of some means, and the interval of the others, which are bootstrap draws."""
    value, low, high = (format(float(v), form) for v in (means[0], *interval(means[1:])))
    return value if low == high else f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
