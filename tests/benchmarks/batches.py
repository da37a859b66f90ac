"""What do `sequential`'s rules gain at what cost, and how long do they take, for one or more noises at a time? On the
tuning run of configs/tuning_bars.yaml:

    python -m raysearch run configs/tuning_bars.yaml
    python tests/benchmarks/batches.py runs/tuning_bars --arm pixel

For every `--batches` and `--costs`, the best rule at that mean cost, as `raysearch bars` finds it. Gains and costs are
shares of best-of-4's, chosen on four fifths of the captions and measured on the others. The latency of a search is what
it does one after the other, in rollouts of one noise.
"""

import argparse
from pathlib import Path

from bench import Report, json_option

from raysearch.bars.choice import chosen
from raysearch.bars.rollouts import read

AGAINST = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--arm")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--costs", type=float, nargs="+", default=[0.5, 0.6])
    json_option(parser)
    args = parser.parse_args()
    _, of = read(args.run, args.arm, "seconds")
    lines = []
    for batch in args.batches:
        for cost in args.costs:
            found = chosen(of, cost=cost, against=AGAINST, batch=batch)
            rule, expected, fitted = found["policy"], found["expected"], found["cross_fitted"]
            rollout = expected["cost"] / expected["cost_share"] / AGAINST
            few, median, many = (expected["latency"][k] / rollout for k in ("p10", "p50", "p90"))
            lines.append(
                [
                    f"{batch}",
                    f"{rule['looks']}, {[round(b, 2) for b in rule['bars']]}",
                    "–" if rule["enough"] is None else f"{rule['enough']:.2f}",
                    f"{rule['n']}",
                    *("{:.2f} [{:.2f}, {:.2f}]".format(*fitted[k]) for k in ("gain_share", "cost_share")),
                    f"{median:.1f} ({few:.1f} to {many:.1f})",
                ]
            )
    head = "batch | looks, bars | enough | n | gain | cost | latency: median, 10% to 90%"
    Report(args.json).table("batches", head, lines)


if __name__ == "__main__":
    main()
