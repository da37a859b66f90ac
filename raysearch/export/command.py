"""What `raysearch export` and `raysearch render` are told, and exports that take no model."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raysearch.errors import ConfigError, check
from raysearch.export import render, suites
from raysearch.export.links import fresh, link
from raysearch.files import Folder
from raysearch.parquet import run_table
from raysearch.session import status

FILES, PREFERENCE = "files", "preference"
FOLDERS = (*suites.SUITES, FILES, PREFERENCE)  # exports that take a DIR
COLUMNS = ("search_id", "arm", "prompt", "seed", "policy", "status", "video")
SEARCHED = "searches chose these videos: scores of them are of searched videos, and of a plain model only in arms of "


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch export`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
    what = f"{', '.join(FOLDERS)}, each with the folder to make"
    parser.add_argument("--to", nargs="+", required=True, metavar=("WHAT", "DIR"), help=what)
    parser.add_argument("--arm", metavar="NAME", help="of this arm alone")
    parser.add_argument("--pattern", metavar="PATH", help="with --to files, such as '{arm}/{prompt:.60}-{seed}.mp4'")
    parser.add_argument("--partial", action="store_true", help="export what is there, though videos are missing")


def render_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch render`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--candidate", metavar="ID", help="its id in candidates.parquet, or how that begins")
    which.add_argument("--top", type=int, metavar="K", help="the K candidates with the highest rewards")
    parser.add_argument("--arm", metavar="NAME", help="with --top, of this arm alone")
    parser.add_argument("--by", default="reward", metavar="COLUMN", help="with --top (default reward)")
    parser.add_argument("--to", type=Path, metavar="DIR", help=f"where videos go (default RUN_DIR/{render.FOLDER})")
    parser.add_argument("--latents", action="store_true", help="write the latents, too")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as fleet.backend=local")


def picked(run_dir: Path, candidate: str | None, top: int | None, arm: str | None, by: str) -> list[render.Pick]:
    """The candidates that `raysearch render` is asked for. Raises ConfigError."""
    if candidate is not None:
        return [render.named(run_dir, candidate)]
    assert top is not None
    return render.highest(run_dir, top, arm=arm, by=by)


def split(to: Sequence[str]) -> tuple[str, Path | None, list[str]]:
    """What --to names, the folder if that takes one, and the overrides that came after them. Raises ConfigError."""
    what, *rest = to
    check(what in FOLDERS, "--to", what, f"one of {', '.join(FOLDERS)}")
    where = Path(rest.pop(0)) if rest else None
    check(where is not None, "--to", what, f"followed by the folder to make: --to {what} DIR")
    for other in rest:
        check("=" in other, "--to", other, "left out, or an override of the form key=value")
    return what, where, rest


def searches(run_dir: Path, columns: Sequence[str], arm: str | None) -> list[dict[str, Any]]:
    """The rows of searches.parquet, of an arm if one is named. Raises ConfigError, also for a folder with links."""
    rows: list[dict[str, Any]] = run_table(run_dir, "searches.parquet", columns, more=True).to_pylist()
    Folder(run_dir.expanduser()).check()
    arms = dict.fromkeys(r["arm"] for r in rows)
    check(arm is None or arm in arms, "--arm", arm, f"one of {', '.join(arms)}")
    return [r for r in rows if arm in (None, r["arm"])]


def to_files(
    run_dir: Path,
    what: str,
    where: Path,
    *,
    arm: str | None,
    pattern: str | None,
    partial: bool,
    say: Callable[[str], None],
) -> None:
    """Link the winners' videos in the layout of a suite, or by a pattern, into a new folder. Raises ConfigError."""
    check((pattern is not None) == (what == FILES), "--pattern", pattern, "given with --to files, and with no other")
    layout = suites.SUITES[what] if pattern is None else suites.of_pattern(pattern)
    rows = searches(run_dir, COLUMNS, arm)
    if not partial:
        _check_ended(run_dir)
    places = suites.placed(rows, layout, partial=partial)
    check(len(places) > 0, "RUN_DIR", str(run_dir), "the folder of a run with videos of finished searches")
    copied = 0
    with fresh(where) as folder:
        for path, row in places.items():
            copied += link(run_dir.expanduser(), row["video"], folder / path)
    left = sum(r["video"] is not None for r in rows) - len({r["search_id"] for r in places.values()})
    say(f"{len(places)} videos in {where}" + (f"; {left} more than are wanted are left out" if left else ""))
    if copied:
        say(f"{copied} of them are copies, as the file system does not link them")
    if any(r["policy"] != "single" for r in places.values()):
        say(SEARCHED + "the policy `single`")


def _check_ended(run_dir: Path) -> None:
    """Raises ConfigError for a run that has not ended all its searches, if its status tells."""
    try:
        s = status.read(run_dir)
    except ConfigError:  # a run without anybody who watched it
        return
    if s.done < s.total:
        raise ConfigError(f"RUN_DIR: {s.done} of {s.total} searches are done; --partial exports what is there")
