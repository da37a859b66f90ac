"""How a run in a folder is going, or how it ended, seen from another process. Nothing is written.

A session writes status.json when its fleet starts, every few seconds, and when it ends. Whether a run that has not
ended still goes on is told by the lock on its journal.
"""

import os
from dataclasses import replace
from pathlib import Path

from raysearch.errors import ConfigError, check
from raysearch.session import journal
from raysearch.session.directory import CONFIG, JOURNAL
from raysearch.session.snapshot import STATUS, Snapshot, parse


def read(run_dir: Path) -> Snapshot:
    """The latest snapshot of a run. Raises ConfigError."""
    try:
        return _read(run_dir.expanduser())
    except (OSError, RuntimeError) as error:  # it cannot be read; there is no such user
        raise ConfigError.of("RUN_DIR", str(run_dir), f"the folder of a run, which can be read ({error})") from error


def check_folder(run_dir: Path) -> None:
    """Raise ConfigError unless a run has begun in a folder."""
    holds = (run_dir / CONFIG).is_file() and (run_dir / JOURNAL / journal.ANSWERS).is_file()
    check(holds, "RUN_DIR", str(run_dir), "the folder of a run, with config.yaml and journal/")


def _read(run_dir: Path) -> Snapshot:
    check_folder(run_dir)
    s = _latest(run_dir)
    if s.going and journal.written(run_dir / JOURNAL) is False:
        s = _latest(run_dir)  # a run writes how it ended before it lets go of its journal
        if s.going:
            s = replace(s, state="finished" if 0 < s.total == s.done else "killed", left=None)
            if s.state == "killed" and os.statvfs(run_dir).f_flag & os.ST_RDONLY:
                s = replace(s, reason="its file system is read-only")  # the run could not write how it ended
    return s


def _latest(run_dir: Path) -> Snapshot:
    file = run_dir / STATUS
    found = parse(file.read_bytes()) if file.is_file() else None
    if found is None:
        allowed = f"the folder of a run that has written {STATUS}: this one has not started its fleet"
        if file.is_file():
            allowed = f"the folder of a run of this version of raysearch: its {STATUS} is damaged or of another"
        raise ConfigError.of("RUN_DIR", str(run_dir), allowed)
    return found
