"""Fills a new folder with files of a run, as hard links where the file system has them."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raysearch.errors import ConfigError, check

APART = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)  # of a link: another file system, or one without


def check_new(where: Path) -> tuple[Path, Path]:
    """The absolute path of a new or empty folder, and of the one that is filled in its place.

    Raises ConfigError if the first is not new or empty, or the second is there.
    """
    try:
        where = Path(os.path.abspath(where.expanduser()))
        partial = where.with_name(f"{where.name}.partial")
        new = not os.path.lexists(where) or (where.is_dir() and not where.is_symlink() and not any(where.iterdir()))
    except (OSError, RuntimeError) as error:
        raise ConfigError.of("DIR", str(where), f"a folder that can be made ({error})") from error
    check(new, "DIR", str(where), "a new or empty folder: nothing is overwritten")
    left = not os.path.lexists(partial)
    check(left, "DIR", str(where), f"one without {str(partial)!r} beside it, which a killed export has left")
    return where, partial


@contextmanager
def fresh(where: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `where` when the context ends without an error, and is deleted with one.

    Raises ConfigError unless `where` is new or an empty folder, and where the disk refuses.
    """
    where, partial = check_new(where)
    made = False
    try:
        partial.mkdir(parents=True)
        made = True
        yield partial
        partial.rename(where)
    except BaseException as error:
        if made:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            said = f"a folder that can be filled ({error.strerror or error}); nothing is left of it"
            raise ConfigError.of("DIR", str(where), said) from error
        raise


def file_in(run_dir: Path, file: str) -> Path:
    """A file of a run. Raises ConfigError unless nothing but folders and a plain file is on the way to it."""
    name = Path(file)
    source = run_dir / name
    inside = bool(name.parts) and not name.is_absolute() and ".." not in name.parts
    way = [run_dir.joinpath(*name.parts[: i + 1]) for i in range(len(name.parts))]
    plain = inside and source.is_file() and not any(p.is_symlink() for p in way)
    check(plain, "RUN_DIR", str(source), "a file of the run, and no link")
    return source


def link(run_dir: Path, file: str, target: Path) -> bool:
    """Give a file of a run another path; True if that took a copy. Raises ConfigError for what is none of its files."""
    source = file_in(run_dir, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in APART:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        return True
    return False
