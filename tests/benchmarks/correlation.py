"""Does a reward of an early estimate foretell the finished clip, as in ScalingNoise's Figure 3b? On a run whose arms
score the same noises early and finished, with several rewards:

    python -m raysearch run configs/choosing.yaml run_dir=runs/choosing
    python tests/benchmarks/correlation.py runs/choosing

A row is an arm of `--early`, a column one of `--late`, each with its own reward. First Pearson's r within captions: of
what a caption's noises differ by. Then how much of the best noise's lead over a caption's mean the early choice keeps,
as the late reward sees it. Intervals are 95%, by raysearch.bootstrap.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import Report, json_option

from raysearch.bootstrap import draws, interval, shared


def scores(rows: list[dict], arm: str, *, finished: bool) -> dict[tuple[str, str], float]:
    """The reward of each noise, by its group (prompt and seed) and origin: a finished one's where it was finished."""
    found: dict[tuple[str, str], float] = {}
    for r in rows:
        group, _, name = r["search_id"].rpartition(f"-{arm}")
        if group and not name and '"noise"' in r["origin"] and finished == (r["sigma"] == 0):
            found[group, r["origin"]] = r["reward"]
    return found


def parts(first: np.ndarray, last: np.ndarray) -> list[np.ndarray]:
    """Of a group's early and late rewards: sums of squares and of products, the lead of the early choice, the best."""
    x, y = first - first.mean(), last - last.mean()
    return [(x * x).sum(), (y * y).sum(), (x * y).sum(), y[x.argmax()], y.max()]


def figures(means: np.ndarray) -> np.ndarray:
    """(..., 5) means over groups -> (..., 2): Pearson's r, and the share of the lead that is kept."""
    xx, yy, xy, lead, best = np.moveaxis(means, -1, 0)
    return np.stack([xy / np.sqrt(xx * yy), lead / best], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    early = ["one-step", "ten-step", "one-step-efficientnet", "ten-step-efficientnet"]
    parser.add_argument("--early", nargs="+", default=early, help="arms")
    parser.add_argument("--late", nargs="+", default=["full", "full-efficientnet"], help="arms")
    json_option(parser)
    args = parser.parse_args()
    if not (args.run / "candidates.parquet").exists():
        parser.error(f"{args.run} holds no candidates.parquet")
    rows = pq.read_table(args.run / "candidates.parquet").to_pylist()
    found = {a: scores(rows, a, finished=a in args.late) for a in (*args.early, *args.late)}
    keys = sorted(set.intersection(*map(set, found.values())))
    if not keys:
        parser.error(f"the run has no noises that all of {', '.join(found)} have scored")
    names = {g: i for i, g in enumerate(dict.fromkeys(g for g, _ in keys))}
    groups = np.array([names[g] for g, _ in keys])
    captions, _, seeds = zip(*(name.partition("-s") for name in names), strict=True)
    print(f"{len(set(captions))} captions, {len(keys)} noises")
    table = {}
    for a in args.early:
        for b in args.late:
            x, y = (np.array([found[arm][k] for k in keys]) for arm in (a, b))
            by_group = np.array([parts(x[groups == g], y[groups == g]) for g in range(len(names))])
            low, high = interval(figures(draws(by_group, captions, shared(captions, seeds))))
            table[a, b] = figures(by_group.mean(0)), low, high
    report = Report(args.json)
    for k, title in enumerate(("correlation", "lead kept")):
        rows = []
        for a in args.early:
            cells = [f"{m[k]:.2f} ({low[k]:.2f} to {high[k]:.2f})" for m, low, high in (table[a, b] for b in args.late)]
            rows.append([a, *cells])
        report.table(title.replace(" ", "_"), " | ".join([title, *args.late]), rows)


if __name__ == "__main__":
    main()
