"""The server of `raysearch view`: one run's page and its media, on this machine alone, and nothing that changes them.

Every address begins with a secret, so that neither other users of the machine nor other pages in the browser can read
a run. The host that a browser names must be this machine, so that no name of another's leads here.
"""

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from raysearch.errors import ConfigError, told
from raysearch.page import html, reading
from raysearch.page.manifest import FOLDER, Page
from raysearch.page.reading import MEDIA, SUBFOLDER, TABLES, Run
from raysearch.session import journal
from raysearch.session.directory import CONFIG, JOURNAL
from raysearch.session.snapshot import STATUS

HOST = "127.0.0.1"
HOSTS = ("localhost", HOST, "[::1]")  # with any port, as a tunnel has its own
EVERY = 2.0  # seconds between two readings, at least
SHARE = 5  # and this many times what a reading took
CHUNK = 1 << 18  # bytes
KEPT = 3  # blocks of columns that are still served after newer ones
TYPES = {"mp4": "video/mp4", "png": "image/png", "webp": "image/webp"}
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Live:
    """The page of a run as it is now: read again, off the event loop, when its files have changed and it is asked for.

    A reading that fails leaves the page as it was: a run may be writing the file, or its disk be away.
    """

    def __init__(self, run_dir: Path, made: Callable[[Run], Page], clock: Callable[[], float] = time.monotonic) -> None:
        self.run_dir = run_dir.expanduser()
        self.error = ""
        self.columns: dict[str, bytes] = {}  # by name, the newest last
        self._given, self._made, self._clock = run_dir, made, clock
        self._lock = asyncio.Lock()
        self._seen: object = None
        self._due = -1.0
        self._page: Page | None = None

    async def page(self) -> Page:
        """The page. Raises ConfigError if it could never be made."""
        async with self._lock:
            if self._clock() >= self._due:
                began = self._clock()
                await asyncio.to_thread(self._read)
                self._due = self._clock() + max(EVERY, SHARE * (self._clock() - began))
        if self._page is None:
            raise ConfigError(self.error)
        return self._page

    @property
    def newest(self) -> str:
        """The name of the newest block of columns."""
        return list(self.columns)[-1]

    def _read(self) -> None:
        seen = self._signature()
        if seen == self._seen:
            return
        try:
            self._page = self._made(reading.read(self._given))
        except Exception as error:  # also of a table that is none of a run's: whatever was read before stays
            self.error = told(error)
            return
        self.error, self._seen = "", seen
        name = f"columns-{blake2b(self._page.columns, digest_size=8).hexdigest()}.gz"
        self.columns.pop(name, None)
        self.columns[name] = self._page.columns
        for old in list(self.columns)[:-KEPT]:
            del self.columns[old]

    def _signature(self) -> object:
        """What changes when a file changes that the page is made of. A run that goes on writes its status often."""
        files = (CONFIG, STATUS, *(f"{t}.parquet" for t in TABLES), *MEDIA)
        found: list[object] = []
        with suppress(OSError):  # a copy without its journal
            found.append(journal.written(self.run_dir / JOURNAL))  # False once the run was killed
        for name in files:
            try:
                s = os.stat(self.run_dir / name, follow_symlinks=False)
                found.append((s.st_mtime_ns, s.st_size, s.st_ino))
            except OSError:
                found.append(None)
        return found


def application(live: Live, token: str) -> web.Application:
    """What answers requests below `/token/`; every other is 404."""
    template = html.TEMPLATE.read_text()
    policy = f"{html.policy(template, connects=True)}; frame-ancestors 'none'"

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        try:
            if re.sub(r":\d+$", "", host).lower() not in HOSTS:
                raise web.HTTPForbidden(text="the address must name this machine, such as localhost\n")
            given = request.match_info.get("token", "")
            if not secrets.compare_digest(given.encode("utf-8", "replace"), token.encode()):
                raise web.HTTPNotFound
            answer = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        except ConnectionError:  # the browser wants no more of a video
            raise
        except Exception as error:
            status = 503 if isinstance(error, ConfigError) else 500
            return web.Response(status=status, text=f"{told(error)}\n", headers=HEADERS)
        return answer

    async def page(request: web.Request) -> web.StreamResponse:
        filled = await asyncio.to_thread(html.filled, await live.page(), template=template, connects=True)
        headers = HEADERS | {"Content-Security-Policy": policy}
        return web.Response(body=filled, content_type="text/html", charset="utf-8", headers=headers)

    async def data(request: web.Request) -> web.StreamResponse:
        now = await live.page()
        body = html.text_of({"manifest": now.manifest, "columns": live.newest}).encode("utf-8", "replace")
        tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
        headers = HEADERS | {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=headers)

    async def columns(request: web.Request) -> web.StreamResponse:
        return _bytes(live.columns.get(request.match_info["name"]), "application/octet-stream")

    async def shard(request: web.Request) -> web.StreamResponse:
        return _bytes((await live.page()).shards.get(request.match_info["name"]), "text/javascript")

    async def media(request: web.Request) -> web.StreamResponse:
        return await _media(request, live.run_dir, request.match_info["path"].split("/"))

    app = web.Application(middlewares=[guarded])
    app.router.add_get("/{token}/", page)
    app.router.add_get("/{token}/data.json", data)
    app.router.add_get("/{token}/{name:columns-[0-9a-f]+[.]gz}", columns)
    app.router.add_get(f"/{{token}}/{FOLDER}/{{name}}", shard)
    app.router.add_get(f"/{{token}}/{{path:(?:{'|'.join(MEDIA)})/.+}}", media)
    return app


def _bytes(found: bytes | None, kind: str) -> web.StreamResponse:
    if found is None:
        raise web.HTTPNotFound
    return web.Response(body=found, content_type=kind, headers=HEADERS)


# -- files of the run, with ranges -------------------------------------------------------------------------------------


async def _media(request: web.Request, run_dir: Path, parts: list[str]) -> web.StreamResponse:
    """A video or an image, or the part of it that `Range` names."""
    with _medium(run_dir, parts) as file:
        state = os.fstat(file.fileno())
        tag = f'"{state.st_mtime_ns:x}-{state.st_size:x}"'
        kind = TYPES[parts[-1].rpartition(".")[2]]
        headers = HEADERS | {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "no-cache", "Content-Type": kind}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        wanted = part(request.headers.get("Range", ""), state.st_size)
        if request.headers.get("If-Range", tag) != tag:  # the file is another one than that of earlier parts
            wanted = None
        first, last = wanted or (0, state.st_size - 1)
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{state.st_size}"
        answer = web.StreamResponse(status=206 if wanted else 200, headers=headers)
        answer.content_length = last + 1 - first
        await answer.prepare(request)
        while first <= last and request.method != "HEAD":
            content = await asyncio.to_thread(os.pread, file.fileno(), min(CHUNK, last + 1 - first), first)
            if not content:  # the file was cut short meanwhile
                break
            await answer.write(content)
            first += len(content)
        await answer.write_eof()
        return answer


def _medium(run_dir: Path, parts: list[str]) -> BinaryIO:
    """A file of one of the folders of media, with the extension of that folder. Raises HTTPNotFound."""
    folder, *below, name = parts
    placed = folder in MEDIA and (not below or (len(below) == 1 and SUBFOLDER.fullmatch(below[0])))
    if not placed or not name.endswith(f".{MEDIA[folder]}"):
        raise web.HTTPNotFound
    try:
        return reading.opened(run_dir, "/".join(parts))
    except (OSError, ValueError):
        raise web.HTTPNotFound from None


def part(named: str, size: int) -> tuple[int, int] | None:
    """The first and the last byte that a `Range` names in a file, None where it names none that is understood.

    Raises HTTPRequestRangeNotSatisfiable for one beyond the file's end.
    """
    found = RANGE.fullmatch(named.strip())
    if found is None or found[1] + found[2] == "" or max(len(found[1]), len(found[2])) > 18:
        return None
    first, last = (int(n) if n else None for n in found.groups())
    if first is None:
        assert last is not None
        first, last = max(size - last, 0), size - 1 if last else -1
    last = size - 1 if last is None else min(last, size - 1)
    if found[1] and found[2] and int(found[2]) < int(found[1]):
        return None  # it is no range
    if first > last:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return first, last


async def serve(run_dir: Path, made: Callable[[Run], Page], port: int, say: Callable[[str], None]) -> None:
    """Serve a run until the task is cancelled. Raises ConfigError where the port is not free."""
    token = secrets.token_urlsafe(24)
    silent = logging.getLogger(__name__)  # a browser sees its errors, and a scanner's are nobody's
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    app = application(Live(run_dir, made), token)
    runner = web.AppRunner(app, access_log=None, logger=silent, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, HOST, port)
            await site.start()
        except OSError as error:
            allowed = f"one that is free on {HOST} ({os.strerror(error.errno or 0)}); 0 takes any"
            raise ConfigError.of("--port", port, allowed) from error
        (address,) = runner.addresses
        say(f"http://{HOST}:{address[1]}/{token}/ (Ctrl-C ends it)")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
