"""Runs of which no page can be made, and pages that cannot be asked for."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mistakes import BASE, Mistake
from mistakes.status_command import WHOLE

CONFIG = {"run/config.yaml": BASE, "run/status.json": WHOLE.json()}
NO_RUN = "RUN_DIR: '{}' is not allowed; it must be the folder of a run, with config.yaml"


def table(name: str, **columns: list[str]) -> Callable[[Path], None]:
    """Makes a table of a run."""
    return lambda folder: pq.write_table(pa.table(columns), folder / "run" / name)


def linked(folder: Path) -> None:
    """Make a run whose config is a link."""
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").symlink_to(folder / "config.yaml")


def kept(folder: Path) -> None:
    """Make a folder where the page would be."""
    (folder / "run" / "report.html").mkdir()


def of(arguments: str, line: str, make: Callable[[Path], None] = lambda folder: None) -> Mistake:
    """A command on a run that has a config."""
    return Mistake(arguments, line, CONFIG, make, left=True)


TABLE = [
    *(Mistake(f"{c} {name}", NO_RUN.format(name)) for c in ("report", "view") for name in ("nowhere", "config.yaml")),
    Mistake("report /", NO_RUN.format("/")),
    Mistake("report run", NO_RUN.format("run"), make=linked, left=True),
    Mistake(
        "report ~nobody_of_this_name/run", "RUN_DIR: '~nobody_of_this_name/run' is not allowed; ... can be read (...)"
    ),
    Mistake("report", "the following arguments are required: RUN_DIR; usage: raysearch report ..."),
    Mistake("view", "the following arguments are required: RUN_DIR; usage: raysearch view ..."),
    of("report run --embed -1", "--embed: -1 is not allowed; it must be a number of videos, from 0"),
    of("report run --embed many", "argument --embed: invalid int value: 'many'; usage: raysearch report ..."),
    of("report run --price -2", "--price: -2.0 is not allowed; it must be dollars for an hour of a replica, ..."),
    of("view run --price nan", "--price: nan is not allowed; it must be dollars for an hour of a replica, ..."),
    of("view run --port 65536", "--port: 65536 is not allowed; it must be a number from 0 to 65535"),
    of("report run --to nowhere/x.html", "--to: 'nowhere/x.html' is not allowed; it must be a file that can be ..."),
    of(
        "report run --to .",
        "--to: '.' is not allowed; it must be a file that can be written, in a folder that is there",
    ),
    of(
        "report run",
        "RUN_DIR: 'run' is not allowed; it must be a folder in which report.html can be written (...",
        kept,
    ),
    of("report run seeds=[1]", "unrecognized arguments: seeds=[1]; usage: raysearch report ..."),
    Mistake(
        "report run",
        "RUN_DIR: 'run' is not allowed; it must be a folder whose searches.parquet can be read (...)",
        CONFIG | {"run/searches.parquet": "torn"},
        left=True,
    ),
    of(
        "view run",
        "RUN_DIR: 'run' is not allowed; it must be the folder of a run of this version of raysearch: its "
        "searches.parquet lacks arm, prompt, seed, status",
        table("searches.parquet", search_id=["000000-s0-a"]),
    ),
    of(
        "report run",
        "RUN_DIR: 'run' is not allowed; it must be a folder whose searches.parquet is a run's (...)",
        table("searches.parquet", **{k: ["x"] for k in ("search_id", "arm", "prompt", "seed", "status")}),
    ),
]
