"""What do a run's arms gain over one plain sample, and at what cost? On a run of configs/latent_search.yaml:

    python -m raysearch run configs/latent_search.yaml run_dir=runs/latent_search
    python tests/benchmarks/gains.py runs/latent_search

The gain is that of the judge's VQ + MQ + TA, or of other `--components`, paired by caption and seed; only those that
all arms have finished count, so that a run may be looked at while it goes on. Costs are replica-seconds, scoring
included, as if an arm had run alone. Ratios are to `--against`; intervals are 95%, by raysearch.bootstrap.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import Report, json_option

from raysearch.bootstrap import draws, interval, shared


def arms_of(run: Path, components: list[str]) -> tuple[dict[str, np.ndarray], list[tuple[str, int]]]:
    """Judged sum and replica-seconds (n, 2) of each arm, in one order; and the n captions and seeds."""
    table = pq.read_table(run / "searches.parquet").to_pylist()
    arms: dict[str, dict[tuple[str, int], tuple[float, float]]] = {}
    for r in table:
        judged = [r[c] for c in components]
        if None not in judged:
            arms.setdefault(r["arm"], {})[r["prompt"], r["seed"]] = sum(judged), r["replica_seconds"]
    both = sorted(set.intersection(*map(set, arms.values()))) if arms else []
    return {a: np.array([rows[k] for k in both]) for a, rows in arms.items()}, both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--single", default="single", help="the arm over which the others gain")
    parser.add_argument("--against", default="best-of-4")
    parser.add_argument("--components", nargs="+", default=["holdout_VQ", "holdout_MQ", "holdout_TA"])
    json_option(parser)
    args = parser.parse_args()
    if not (args.run / "searches.parquet").exists():
        parser.error(f"{args.run} holds no searches.parquet")
    for c in args.components:
        columns = pq.read_schema(args.run / "searches.parquet").names
        if c not in columns:
            judged = [n for n in columns if n.startswith(("holdout_", "final_")) and not n.endswith("_chunks")]
            parser.error(f"the run has no column {c}; it has {', '.join(judged) or 'no judge'}")
    arms, both = arms_of(args.run, args.components)
    for name in (args.single, args.against):
        if name not in arms:
            parser.error(f"the run's arms with judged searches are {', '.join(arms) or 'none'}, and not {name}")
    captions, seeds = zip(*both, strict=True)
    values = np.stack(list(arms.values()), 1)  # (n, arms, 2)
    index = list(arms).index
    single, against = index(args.single), index(args.against)

    def figures(means: np.ndarray) -> np.ndarray:
        """(..., arms, 2) -> (..., arms, 4): gain, its ratio, seconds a search, their ratio."""
        gain = means[..., 0] - means[..., single, None, 0]
        cost = means[..., 1]
        ratios = gain / gain[..., against, None], cost / cost[..., against, None]
        return np.stack([gain, ratios[0], cost, ratios[1]], -1)

    found = figures(values.mean(0))
    low, high = interval(figures(draws(values, captions, shared(captions, seeds))))
    half = (high - low) / 2
    print(f"{len(set(captions))} captions, {len(both)} pairs of caption and seed")
    rows = []
    for i, arm in enumerate(arms):
        cells = [f"{found[i, k]:.3f} ± {half[i, k]:.3f}" for k in (0, 1, 3)]
        rows.append([arm, *cells[:2], f"{found[i, 2]:.2f}", cells[2]])
    head = f"arm | gain | share of {args.against}'s gain | replica-seconds | share of {args.against}'s cost"
    Report(args.json).table("gains", head, rows)


if __name__ == "__main__":
    main()
