"""Files and folders that are there whole or not at all, and digests of what they hold."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from raysearch.recipe.digests import digest


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `folder`: that is there whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def content_digest(paths: Sequence[Path]) -> bytes:
    """128 bits of names and contents of files, and of all the files in folders."""
    h = blake2b(digest_size=16)
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                h.update(digest(str(file.relative_to(path)), file.stat().st_size))
                with open(file, "rb") as content:
                    while chunk := content.read(1 << 24):
                        h.update(chunk)
    return h.digest()
