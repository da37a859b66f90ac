"""What `raysearch export` and `raysearch render` are told, and exports that take no model."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from raysearch.config.address import folder_or_url
from raysearch.config.binding import structured
from raysearch.config.track import LIBRARIES, TrackConfig, check_track
from raysearch.errors import ConfigError, check
from raysearch.export import preference, render, suites, trackers
from raysearch.export.links import check_new, fresh, link
from raysearch.files import Folder
from raysearch.parquet import run_table
from raysearch.session import status

FILES, PREFERENCE = "files", "preference"
FOLDERS = (*suites.SUITES, FILES, PREFERENCE)  # exports that take a DIR
OF_TRACKERS = ("project", "dir", "url", "no_videos")
COLUMNS = ("search_id", "arm", "prompt", "seed", "policy", "status", "video")
SEARCHED = "searches chose these videos: scores of them are of searched videos, and of a plain model only in arms of "


class Rendered(Protocol):
    """Writes the videos of candidates to a folder, and returns the exit code."""

    def __call__(
        self, run_dir: Path, picks: Sequence[render.Pick], where: Path, overrides: Sequence[str], *, latents: bool
    ) -> int:
        """Raises ConfigError."""
        ...


@dataclass(frozen=True)
class Asked:
    """What `raysearch export` is asked for, by the names of its options."""

    to: Sequence[str] = ()
    arm: str | None = None
    pattern: str | None = None
    partial: bool = False
    by: str | None = None
    margin: float | None = None
    no_files: bool = False
    latents: bool = False
    project: str = TrackConfig.project
    dir: str | None = None
    url: str | None = None
    no_videos: bool = False


class _Into(argparse.Action):
    """Keeps what an option says in `asked`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        said: dict[str, Any] = {self.dest: True if self.nargs == 0 else values}
        namespace.asked = replace(namespace.asked, **said)


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch export`."""
    parser.add_argument("run_dir", type=folder_or_url, metavar="RUN_DIR", help="the folder or URL of a run")
    what = f"{', '.join(FOLDERS)}, each with the folder to make; or {', '.join(LIBRARIES)}"
    own: dict[str, dict[str, Any]] = {
        "--to": {"nargs": "+", "required": True, "metavar": ("WHAT", "DIR"), "help": what},
        "--arm": {"metavar": "NAME", "help": "of this arm alone"},
        "--pattern": {"metavar": "PATH", "help": f"of {FILES}: such as '{{arm}}/{{prompt:.60}}-{{seed}}.mp4'"},
        "--partial": {"nargs": 0, "help": "of suites and files: what is there, though videos are missing"},
        "--by": {"metavar": "COLUMN", "help": f"of {PREFERENCE}: what is compared (default reward)"},
        "--margin": {"type": float, "metavar": "X", "help": f"of {PREFERENCE}: the least difference (default 0)"},
        "--no-files": {"nargs": 0, "help": f"of {PREFERENCE}: the table alone"},
        "--latents": {"nargs": 0, "help": f"of {PREFERENCE}: the latents, too"},
        "--project": {"metavar": "NAME", "help": f"of trackers (default {TrackConfig.project})"},
        "--dir": {"metavar": "DIR", "help": "of wandb and tensorboard: where their files go"},
        "--url": {"metavar": "URL", "help": "of wandb, mlflow and trackio: the server"},
        "--no-videos": {"nargs": 0, "help": "of trackers: numbers and the table alone"},
    }
    for name, options in own.items():
        parser.add_argument(name, action=_Into, default=argparse.SUPPRESS, **options)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as fleet.backend=local")
    parser.set_defaults(asked=Asked())


def render_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch render`."""
    parser.add_argument("run_dir", type=folder_or_url, metavar="RUN_DIR", help="the folder or URL of a run")
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


def export(
    run_dir: Path, asked: Asked, overrides: Sequence[str], rendered: Rendered, say: Callable[[str], None]
) -> int:
    """Do what an export asks for, and return the exit code. Raises ConfigError.

    `rendered` writes candidates' videos to a folder, and takes the overrides.
    """
    what, where, more = split(asked.to)
    if what == PREFERENCE and where:
        return _to_preference(run_dir, where, asked, [*overrides, *more], rendered, say)
    check(not [*overrides, *more], "an override", [*overrides, *more], f"left out but with --to {PREFERENCE}")
    if where:
        to_files(run_dir, what, where, asked, say)
        return 0
    _check_unused(asked, "arm", "pattern", "partial", "by", "margin", "no_files", "latents")
    values = {"to": what, "project": asked.project, "dir": asked.dir, "url": asked.url, "videos": not asked.no_videos}
    track = structured(TrackConfig, values, "track")
    check_track(track)
    say(f"{trackers.export(run_dir, track)} searches are new to {what}")
    return 0


def split(to: Sequence[str]) -> tuple[str, Path | None, list[str]]:
    """What --to names, the folder to make if it is none of trackers, and overrides after these. Raises ConfigError."""
    what, *rest = to
    check(what in (*FOLDERS, *LIBRARIES), "--to", what, f"one of {', '.join((*FOLDERS, *LIBRARIES))}")
    where = None
    if what in FOLDERS:
        check(len(rest) > 0, "--to", what, f"followed by the folder to make: --to {what} DIR")
        where = Path(rest.pop(0))
    for other in rest:
        check("=" in other, "--to", other, "left out, or an override of the form key=value")
    return what, where, rest


def _to_preference(
    run_dir: Path, where: Path, asked: Asked, overrides: Sequence[str], rendered: Rendered, say: Callable[[str], None]
) -> int:
    _check_unused(asked, "pattern", "partial", *OF_TRACKERS)
    check_new(where)
    by = asked.by or "reward"
    pairs = preference.pairs(run_dir, by=by, margin=asked.margin or 0.0, arm=asked.arm)
    code = 0
    missing = [] if asked.no_files else preference.lacking(run_dir, pairs, latents=asked.latents)
    if missing:
        code = rendered(run_dir, missing, run_dir / render.FOLDER, overrides, latents=asked.latents)
    n = preference.write(run_dir, where, pairs, by=by, files=not asked.no_files, latents=asked.latents)
    say(
        f"{n} pairs in {where}"
        + (f"; {len(pairs) - n} are left out, of which no files could be made" * (n < len(pairs)))
    )
    return code


def _check_unused(asked: Asked, *options: str) -> None:
    for name in options:
        given = getattr(asked, name)
        check(given == getattr(Asked, name), f"--{name.replace('_', '-')}", given, f"left out with --to {asked.to[0]}")


def searches(run_dir: Path, columns: Sequence[str], arm: str | None) -> list[dict[str, Any]]:
    """The rows of searches.parquet, of an arm if one is named. Raises ConfigError, also for a folder with links."""
    rows: list[dict[str, Any]] = run_table(run_dir, "searches.parquet", columns, more=True).to_pylist()
    Folder(run_dir.expanduser()).check()
    arms = dict.fromkeys(r["arm"] for r in rows)
    check(arm is None or arm in arms, "--arm", arm, f"one of {', '.join(arms)}")
    return [r for r in rows if arm in (None, r["arm"])]


def to_files(run_dir: Path, what: str, where: Path, asked: Asked, say: Callable[[str], None]) -> None:
    """Link the winners' videos in the layout of a suite, or by a pattern, into a new folder. Raises ConfigError."""
    pattern, partial = asked.pattern, asked.partial
    _check_unused(asked, "by", "margin", "no_files", "latents", *OF_TRACKERS)
    check((pattern is not None) == (what == FILES), "--pattern", pattern, "given with --to files, and with no other")
    layout = suites.SUITES[what] if pattern is None else suites.of_pattern(pattern)
    rows = searches(run_dir, COLUMNS, asked.arm)
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
