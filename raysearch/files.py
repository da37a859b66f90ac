"""Writes files and folders so that no reader finds half of one, and digests their contents."""

import inspect
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from raysearch.recipe.digests import digest


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which replaces `folder` when the context ends without an error."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write(path: Path, content: bytes) -> None:
    """Write a file in one step: at any moment `path` holds the old content or the new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def content_digest(paths: Sequence[Path]) -> bytes:
    """128 bits over the relative names and the contents of files, and of all files below folders. Raises OSError."""
    files = ((path, file) for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]))
    return files_digest((str(file.relative_to(path)), file) for path, file in files if file.is_file())


def chunks(file: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece. Raises OSError."""
    with open(file, "rb") as content:
        while chunk := content.read(1 << 24):
            yield chunk


def files_digest(files: Iterable[tuple[str, Path]], read: Callable[[Path], Iterable[bytes]] = chunks) -> bytes:
    """128 bits over the names and the contents of files, which `read` reads. Raises OSError, and what `read` raises."""
    h = blake2b(digest_size=16)
    for name, file in files:
        h.update(digest(name, file.stat().st_size))
        for chunk in read(file):
            h.update(chunk)
    return h.digest()


def source(function: Callable[..., Any]) -> bytes:
    """The text of the module that defines a function or class, on which its results depend; empty without a file."""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    return Path(file).read_bytes() if file and Path(file).is_file() else b""
