"""Does a reward of one-step estimates foretell the finished clip, as in ScalingNoise's Figure 3b? On runs of one config
with several rewards:

    python -m raysearch run configs/choosing.yaml run_dir=runs/world
    python -m raysearch run configs/choosing.yaml run_dir=runs/efficientnet rewards.search.features=efficientnet
    python tests/benchmarks/correlation.py runs/world runs/efficientnet

A row is a run's reward after one evaluation, a column a run's reward of the finished clip (`one-step` and `full` score
the same noises). Pearson's r within captions: of what a caption's ten noises differ by. Intervals are bootstraps over
captions, 95%.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def scores(run: Path, arm: str) -> dict[tuple[str, str], float]:
    """The reward of each noise, by its group (prompt and seed) and origin: a finished one's where it was finished."""
    found: dict[tuple[str, str], float] = {}
    for r in pq.read_table(run / "candidates.parquet").to_pylist():
        group, _, name = r["search_id"].rpartition(f"-{arm}")
        if group and not name and '"noise"' in r["origin"] and (arm == "full") == (r["sigma"] == 0):
            found[group, r["origin"]] = r["reward"]
    return found


def centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Less the mean of each group."""
    means = np.bincount(groups, values) / np.bincount(groups)
    return values - means[groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    args = parser.parse_args()
    for run in args.runs:
        if not (run / "candidates.parquet").exists():
            parser.error(f"{run} holds no candidates.parquet")
    early, late = ([scores(run, arm) for run in args.runs] for arm in ("one-step", "full"))
    keys = sorted(set.intersection(*map(set, (*early, *late))))
    if not keys:
        parser.error("the runs have no noises in common that one-step and full have scored")
    names = {g: i for i, g in enumerate(dict.fromkeys(g for g, _ in keys))}
    groups = np.array([names[g] for g, _ in keys])
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=2000)
    print(f"{len(names)} captions, {len(keys)} noises")
    print(f"{'one step, finished':24}" + "".join(f"{run.name:>24}" for run in args.runs))
    for run, first in zip(args.runs, early, strict=True):
        cells = []
        for last in late:
            x, y = (centred(np.array([s[k] for k in keys]), groups) for s in (first, last))
            xx, yy, xy = (np.bincount(groups, v) for v in (x * x, y * y, x * y))
            r = xy.sum() / np.sqrt(xx.sum() * yy.sum())
            low, high = np.percentile(drawn @ xy / np.sqrt((drawn @ xx) * (drawn @ yy)), [2.5, 97.5])
            cells.append(f"{r:.2f} ({low:.2f} to {high:.2f})")
        print(f"{run.name:24}" + "".join(f"{c:>24}" for c in cells))


if __name__ == "__main__":
    main()
