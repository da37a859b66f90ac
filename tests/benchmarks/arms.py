"""The arms of a run, as its summary shows them, so that a guide can hold them:

    python -m raysearch run configs/quickstart.yaml run_dir=runs/quickstart
    python tests/benchmarks/arms.py runs/quickstart --json docs/figures/quickstart.json

Grades are means over the winners, by the held-out judge. NFE is that of a search that runs alone.
"""

import argparse
from pathlib import Path

from bench import Report, json_option

from raysearch.errors import ConfigError
from raysearch.session import status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    json_option(parser)
    args = parser.parse_args()
    try:
        arms = status.read(args.run).arms
    except ConfigError as error:
        parser.error(str(error))
    components = list(dict.fromkeys(c for a in arms.values() for c in a.components))
    rows = []
    for name, a in arms.items():
        grades = dict(zip(a.components, zip(a.means, a.intervals, strict=True), strict=True)) if a.intervals else {}
        cells = [f"{grades[c][0]:.3f} ± {grades[c][1]:.3f}" if c in grades else "–" for c in components]
        rows.append([name, str(a.done), *cells, f"{a.nfe / max(a.done, 1):.0f}", str(a.nfe_spent)])
    head = ["arm", "searches", *components, "NFE", "NFE run"]
    Report(args.json).table("arms", " | ".join(head), rows)


if __name__ == "__main__":
    main()
