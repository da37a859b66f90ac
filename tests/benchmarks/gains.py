"""What do a run's arms gain over one plain sample, and at what cost? On a run of configs/latent_search.yaml:

    python -m raysearch run configs/latent_search.yaml run_dir=runs/latent_search
    python tests/benchmarks/gains.py runs/latent_search

The gain is that of the judge's VQ + MQ + TA, or of other `--components`, paired by caption and seed; only those that
all arms have finished count, so that a run may be looked at while it goes on. Costs are replica-seconds, scoring
included, as if an arm had run alone. Ratios are to `--against`; intervals are bootstraps over captions, 95%.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import Report, json_option


def arms_of(run: Path, components: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Judged sum and replica-seconds (n, 2) of each arm, in one order; and the captions' numbers (n,)."""
    table = pq.read_table(run / "searches.parquet").to_pylist()
    arms: dict[str, dict[tuple[str, int], tuple[float, float]]] = {}
    for r in table:
        judged = [r[c] for c in components]
        if None not in judged:
            arms.setdefault(r["arm"], {})[r["prompt"], r["seed"]] = sum(judged), r["replica_seconds"]
    both = sorted(set.intersection(*map(set, arms.values()))) if arms else []
    order = {p: i for i, p in enumerate(dict.fromkeys(p for p, _ in both))}
    return {a: np.array([rows[k] for k in both]) for a, rows in arms.items()}, np.array([order[p] for p, _ in both])


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
    arms, captions = arms_of(args.run, args.components)
    for name in (args.single, args.against):
        if name not in arms:
            parser.error(f"the run's arms with judged searches are {', '.join(arms) or 'none'}, and not {name}")
    n = captions.max() + 1
    # Sums over each caption's seeds: (captions, arms, 2), then of captions drawn with replacement.
    sums = np.stack([[np.bincount(captions, x) for x in rows.T] for rows in arms.values()]).transpose(2, 0, 1)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=2000)
    index = list(arms).index
    single, against = index(args.single), index(args.against)

    def figures(total: np.ndarray) -> np.ndarray:
        """(..., arms, 2) -> (..., arms, 4): gain, its ratio, seconds a search, their ratio."""
        gain = (total[..., 0] - total[..., single, None, 0]) / len(captions)
        cost = total[..., 1] / len(captions)
        ratios = gain / gain[..., against, None], cost / cost[..., against, None]
        return np.stack([gain, ratios[0], cost, ratios[1]], -1)

    found = figures(sums.sum(0))
    low, high = np.percentile(figures(np.einsum("dc,cak->dak", drawn, sums)), [2.5, 97.5], axis=0)
    half = (high - low) / 2
    print(f"{n} captions, {len(captions)} pairs of caption and seed")
    rows = []
    for i, arm in enumerate(arms):
        cells = [f"{found[i, k]:.3f} ± {half[i, k]:.3f}" for k in (0, 1, 3)]
        rows.append([arm, *cells[:2], f"{found[i, 2]:.2f}", cells[2]])
    head = f"arm | gain | share of {args.against}'s gain | replica-seconds | share of {args.against}'s cost"
    Report(args.json).table("gains", head, rows)


if __name__ == "__main__":
    main()
