"""`raysearch report` and `raysearch view`: their arguments, and what they do."""

import argparse
import asyncio
import math
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from raysearch.config.address import folder_or_url
from raysearch.errors import ConfigError, FolderError, check
from raysearch.files import Folder
from raysearch.page import html, reading
from raysearch.page.manifest import FOLDER, Page, made

FILE = "report.html"
PORT = 8470
LIVE = {"refresh_s": 2.0}


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch report`."""
    parser.add_argument("run_dir", type=folder_or_url, metavar="RUN_DIR", help="the folder or URL of a run or a sweep")
    parser.add_argument("--embed", type=int, default=0, metavar="N", help="put N videos into the page (default 0)")
    _price(parser)
    alone = f"write one file that needs nothing beside it, in place of RUN_DIR/{FILE}"
    parser.add_argument("--to", type=Path, metavar="FILE", help=alone)


def view_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raysearch view`."""
    parser.add_argument("run_dir", type=folder_or_url, metavar="RUN_DIR", help="the folder or URL of a run or a sweep")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"on 127.0.0.1 (default {PORT}); 0: any")
    _price(parser)


def _price(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--price", type=float, metavar="DOLLARS", help="what an hour of a replica costs")


def check_price(price: float | None) -> None:
    """Raises ConfigError."""
    right = price is None or (math.isfinite(price) and price >= 0)
    check(right, "--price", price, "dollars for an hour of a replica, a number from 0")


def report(run_dir: Path, embed: int, price: float | None, to: Path | None, say: Callable[[str], None]) -> int:
    """Write a run's page, and return the exit code. Raises ConfigError."""
    check(embed >= 0, "--embed", embed, "a number of videos, from 0")
    check_price(price)
    run = reading.read(run_dir)
    page = made(run, price=price, embed=embed, alone=to is not None)
    content = html.filled(page)
    if to is None:
        _write(run.path, page, content, run_dir)
    else:
        _write_alone(to, content)
    inside = len(page.manifest["media"]["embedded"]["videos"])
    there = len(run.media["videos"].keys() | run.media["images"].keys())
    holds = f", {inside} of the run's {there} videos in it" if embed else ""
    where, files = to or run_dir / FILE, len(page.shards)
    beside = f", and {files} files in {run_dir / FOLDER}" if files else ""
    say(f"{where} ({len(content) / 1e6:.1f} MB{holds}){beside}: open it in a browser")
    return 0


def _write(path: Path, page: Page, content: bytes, run_dir: Path) -> None:
    """Write a page and its shards into the run's folder; shards that no page names any longer are deleted."""
    folder = Folder(path)
    try:
        for name, shard in page.shards.items():
            folder.write(f"{FOLDER}/{name}", shard)
        folder.write(FILE, content)
        linked = (path / FOLDER).is_symlink()  # what it leads to is not this run's
        for old in [] if linked else path.glob(f"{FOLDER}/shard-*.js"):
            if old.name not in page.shards:
                folder.unlink(f"{FOLDER}/{old.name}")
    except (FolderError, OSError) as error:
        cause = error.__cause__ or error
        said = f"a folder in which {FILE} can be written ({getattr(cause, 'strerror', None) or cause}); --to FILE helps"
        raise ConfigError.of("RUN_DIR", str(run_dir), said) from error


def _write_alone(to: Path, content: bytes) -> None:
    """Write a page as a file of its own, in place of nothing but an older page. Raises ConfigError."""
    try:
        file = to.expanduser()
        free = not os.path.lexists(file) or (not file.is_symlink() and file.is_file() and _is_page(file))
        there = file.parent.is_dir() and not file.is_dir()
    except (OSError, RuntimeError, ValueError):  # it cannot be read; there is no such user; a NUL
        free = there = False
    check(there, "--to", str(to), "a file that can be written, in a folder that is there")
    check(free, "--to", str(to), "a new file, or a page that this command wrote before")
    partial = file.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with open(partial, "xb") as made:  # with the rights that new files have
            made.write(content)
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ConfigError.of("--to", str(to), f"a file that can be written ({error.strerror or error})") from error


def _is_page(file: Path) -> bool:
    with open(file, "rb") as found:
        return found.read(len(html.OPENING)) == html.OPENING


def view(run_dir: Path, port: int, price: float | None, say: Callable[[str], None]) -> int:
    """Serve a run's page until Ctrl-C. Raises ConfigError, KeyboardInterrupt."""
    check(0 <= port <= 65535, "--port", port, "a number from 0 to 65535")
    check_price(price)
    from raysearch.page.server import serve

    def page(run: reading.Run) -> Page:
        live: dict[str, Any] = LIVE
        return made(run, price=price, live=live)

    reading.read(run_dir)  # a mistake is told at once
    asyncio.run(serve(run_dir, page, port, say))
    return 0
