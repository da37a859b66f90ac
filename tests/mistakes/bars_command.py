"""Folders, arms and costs from which `bars` cannot choose a rule."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistakes import Mistake

NULL = {"bars": None, "enough": None, "early": False, "n": 3, "looks": [4]}
SET = NULL | {"bars": [0.5], "enough": 0.9}


def run(
    captions: int = 2,
    arms: dict[str, Any] | None = None,
    *,
    status: str = "done",
    policy: str = "sequential",
    drop: Callable[[dict[str, Any]], bool] = lambda row: False,
    without: str = "",
    each: dict[str, Any] | None = None,
    **changed: Any,
) -> Callable[[Path], None]:
    """Makes the tables of a run: three noises a search, which are looked at at step 4 and finished at step 10.

    Of candidates.parquet `each` changes all rows and `changed` the last; rows to `drop` and the column `without` are
    left out.
    """
    searches, candidates = [], []
    for name, arguments in (arms or {"tuning": NULL}).items():
        for i in range(captions):
            search = f"{i:06d}-s{i}-{name}"
            searches.append(
                {"search_id": search, "arm": name, "prompt": f"caption {i}", "seed": i, "policy": policy}
                | {"policy_args": json.dumps(arguments), "status": status, "replica_seconds": 40.0}
            )
            candidates += [
                {"search_id": search, "part": 0, "trajectory": f"{i} {noise}", "step": step, "by": "search"}
                | {"reward": noise / 2, "nfe": 2 * step + 2 * (step < 10), "making_s": 10.0, "scoring_s": 1.0}
                for noise in range(3)
                for step in (4, 10)
            ]
    candidates[-1] |= changed
    candidates = [row | (each or {}) for row in candidates if not drop(row)]

    def make(folder: Path) -> None:
        (folder / "tables").mkdir()
        pq.write_table(pa.Table.from_pylist(searches), folder / "tables" / "searches.parquet")
        table = pa.Table.from_pylist(candidates)
        kept = [c for c in table.column_names if c != without]
        pq.write_table(table.select(kept), folder / "tables" / "candidates.parquet")

    return make


def row(line: str, make: Callable[[Path], None], more: str = "", cost: str = "0.9") -> Mistake:
    """`bars` in the folder `tables`, against best-of-3 if `more` says nothing else."""
    return Mistake(f"bars tables --cost {cost} --against 3 {more}", line, make=make)


def torn(folder: Path) -> None:
    """A run whose candidates.parquet is torn."""
    run()(folder)
    (folder / "tables" / "candidates.parquet").write_bytes(b"PAR1")


TUNES = "`sequential` with bars: null and enough: null"
NO_RUN = "RUN_DIR: '{}' is not allowed; it must be the folder of a run, with searches.parquet and candidates.parquet"
TABLE = [
    *(Mistake(f"bars {name} --cost 0.5", NO_RUN.format(name)) for name in ("nowhere", "config.yaml", ".")),
    Mistake("bars run --cost 0.5", NO_RUN.format("run"), files={"run/searches.parquet/a": ""}, left=True),
    Mistake("bars ~nobody_of_this_name/run --cost 0.5", "RUN_DIR: ...can be read (...)"),
    row("RUN_DIR: 'tables' is not allowed; it must be a folder whose candidates.parquet can be read (...)", torn),
    row(
        "RUN_DIR: 'tables' is not allowed; it must be the folder of a run of this version of raysearch: its "
        "candidates.parquet lacks by",
        run(without="by"),
    ),
    row(
        f"RUN_DIR: 'tables' is not allowed; it must be the folder of a run with an arm of {TUNES}; its arms are a, b",
        run(arms={"a": SET, "b": NULL | {"enough": 0.9}}),
    ),
    row(
        f"RUN_DIR: 'tables' is not allowed; it must be the folder of a run with an arm of {TUNES}; ...", run(policy="a")
    ),
    row(
        "--arm: None is not allowed; it must be one of a, b: the run has several arms to choose bars from",
        run(arms={"a": NULL, "b": NULL, "c": SET}),
    ),
    row(
        f"--arm: 'c' is not allowed; it must be one of a, b, the arms of {TUNES}",
        run(arms={"a": NULL, "b": NULL, "c": SET}),
        "--arm c",
    ),
    row(
        "RUN_DIR: 'tables' is not allowed; it must be a run of at least 2 captions, whose searches are done: it has 1, "
        "1 searches",
        run(1),
    ),
    row("RUN_DIR: ...whose searches are done: it has 0, 0 searches", run(status="budget")),
    row(
        "RUN_DIR: 'tables' is not allowed; it must be a run whose noises were all looked at at steps [4] and finished: "
        "not so in 000001-s1-tuning",
        run(drop=lambda r: r["trajectory"] == "1 2" and r["step"] == 10),
    ),
    row("RUN_DIR: ...: not so in 000000-s0-tuning", run(drop=lambda r: r["step"] == 4)),
    row("RUN_DIR: ...: not so in 000001-s1-tuning", run(drop=lambda r: r["trajectory"] == "1 2")),
    *(
        row(
            f"RUN_DIR: ...; it must be a run of finite numbers: {column} in 000001-s1-tuning is {shown}",
            run(**{column: value}),
        )
        for column in ("reward", "making_s", "scoring_s")
        for value, shown in ((float("nan"), "nan"), (float("inf"), "inf"), (None, "nan"))
    ),
    row(
        "--cost: 0.4 is not allowed; it must be at least 0.406 of best-of-3's, what the cheapest rule costs; the "
        "dearest costs 1.08",
        run(),
        cost="0.4",
    ),
    *(row("--cost: ... is not allowed; it must be a number above 0, such as 0.5", run(), cost=c) for c in ("0", "nan")),
    row("--cost: inf is not allowed; it must be a number above 0, such as 0.5", run(), cost="inf"),
    *(
        row(f"{k}: {v} is not allowed; it must be in {least}..3, the noises of a search of tuning", run(), f"{k} {v}")
        for k, least in (("--against", 2), ("--batch", 1))
        for v in (least - 1, 4)
    ),
    row(
        "RUN_DIR: ...; it must be a run with at least 2 noises a search: policy.n is 1",
        run(arms={"tuning": NULL | {"n": 1}}),
    ),
    row(
        "RUN_DIR: ...; it must be a run where noises differ: the finished videos of every search have equal rewards",
        run(each={"reward": 1.0}),
    ),
    row("RUN_DIR: ...; it must be a run of videos of one clip each: bars for long videos cannot be ...", run(part=1)),
    row("RUN_DIR: ...whose searches are done: it has 1, 1 searches", run(drop=lambda r: r["trajectory"][0] == "1")),
    row(
        "--json: 'none/a.json' is not allowed; it must be a file in a folder that is there", run(), "--json none/a.json"
    ),
    row("--json: 'tables' is not allowed; it must be a file that can be written (...)", run(), "--json tables"),
]
