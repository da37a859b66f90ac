"""Writes files and folders so that no reader finds half of one, and digests their contents."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

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
    h = blake2b(digest_size=16)
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                h.update(digest(str(file.relative_to(path)), file.stat().st_size))
                with open(file, "rb") as content:
                    while chunk := content.read(1 << 24):
                        h.update(chunk)
    return h.digest()
