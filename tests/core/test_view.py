"""The server of `raysearch view` over real sockets of this machine: who may read what, ranges, and runs that go on."""

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pages
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from benchmarks import page_data

from raysearch.page import html, server
from raysearch.page.command import LIVE
from raysearch.page.manifest import made
from raysearch.page.server import Live, application

ROOT = Path(__file__).parents[2]
TOKEN = "a-token"
VIDEO = bytes(range(256)) * 4
SEARCH = "000000-s0-single"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Browser:
    """Sends bytes as they are given, which no client does that tidies paths up."""

    port: int

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return await self.raw(path.encode(), method, {"Host": f"127.0.0.1:{self.port}"} | headers)

    async def raw(self, path: bytes, method: str, headers: dict[str, str]) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{k.replace('_', '-')}: {v}".encode() for k, v in headers.items()]
        first = method.encode() + b" " + path + b" HTTP/1.1"
        writer.write(b"\r\n".join([first, *lines, b"Connection: close", b"", b""]))
        found = await reader.read()
        writer.close()
        head, _, body = found.partition(b"\r\n\r\n")
        status, *others = head.decode("latin-1").split("\r\n")
        named = dict(line.split(": ", 1) for line in others)
        if named.get("Transfer-Encoding") == "chunked":
            raise AssertionError("the length is known")
        return Answer(int(status.split()[1]), named, body)


def run_dir(path: Path) -> Path:
    """A run with one video, one poster, and things beside them that nobody may read."""
    rows = [pages.search(p, 0, a, 1.0 * p) for p in (0, 1) for a in ("single", "best")]
    run = pages.folder(path / "run", searches=rows)
    for name in ("videos/012000", "posters", "journal", "latents"):
        (run / name).mkdir(parents=True)
    (run / "videos" / f"{SEARCH}.mp4").write_bytes(VIDEO)
    (run / "videos" / "012000" / "012345-s0-single.mp4").write_bytes(b"of a large run")
    (run / "posters" / f"{SEARCH}.webp").write_bytes(b"poster")
    (path / "secret.mp4").write_text("secret")
    (run / "videos" / "link.mp4").symlink_to(path / "secret.mp4")
    (run / "videos" / "000000").symlink_to(path)
    (run / "videos" / "notes.txt").write_text("secret")
    (run / "videos" / "folder.mp4").mkdir()
    (run / "journal" / "answers.jsonl").write_text("secret")
    (run / "latents" / f"{SEARCH}.safetensors").write_text("secret")
    os.mkfifo(run / "videos" / "pipe.mp4")
    return run


@asynccontextmanager
async def serving(run: Path, clock=None):
    live = Live(run, lambda r: made(r, live=LIVE), *([clock] if clock else []))
    runner = web.AppRunner(application(live, TOKEN), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, server.HOST, 0)
    await site.start()
    try:
        yield Browser(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def served(test):
    """The test with a browser of a server of `run_dir`."""

    def whole(tmp_path):
        async def inner():
            async with serving(run_dir(tmp_path)) as browser:
                await test(browser)

        asyncio.run(inner())

    return whole


# -- who may read what -----------------------------------------------------------------------------------------------


@served
async def test_the_page_is_the_reports_and_says_that_it_is_live(browser):
    answer = await browser.ask(f"/{TOKEN}/")
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    page = pages.Shown(answer.body)
    assert page.manifest["live"] == {"refresh_s": 2.0}
    assert page.table("searches")["video"] == [None, f"videos/{SEARCH}.mp4", None, None]
    policy = answer.headers["Content-Security-Policy"]
    assert policy == html.policy(html.TEMPLATE.read_text(), connects=True) + "; frame-ancestors 'none'"
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "script-src 'sha256-" in policy
    for header, value in server.HEADERS.items():
        assert answer.headers[header] == value


@served
async def test_nothing_is_there_without_the_secret(browser):
    for path in ("/", "//", "/other/", "/a-toke/", f"/{TOKEN}x/", f"/{TOKEN.upper()}/", "/%00/", "/%ff/"):
        assert (await browser.ask(path)).status == 404, path
    for path in ("data.json", f"videos/{SEARCH}.mp4", "config.yaml", "report/shard-0.js"):
        for before in ("/", "/other/", "//"):
            answer = await browser.ask(before + path)
            assert answer.status == 404 and b"secret" not in answer.body
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost:8265", 200),  # a tunnel has a port of its own
        ("LOCALHOST", 200),
        ("[::1]:80", 200),
        ("evil.example:8470", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8470", 403),
        ("localhost:8470@evil.example", 403),
        ("", 403),
        ("0.0.0.0:8470", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(tmp_path, host, status):
    async def ask():
        async with serving(run_dir(tmp_path)) as browser:
            return await browser.ask(f"/{TOKEN}/data.json", Host=host)

    assert asyncio.run(ask()).status == status


@served
async def test_nothing_can_be_written(browser):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
        for path in ("", "data.json", f"videos/{SEARCH}.mp4", "videos/new.mp4"):
            assert (await browser.ask(f"/{TOKEN}/{path}", method)).status in (404, 405), (method, path)


OUTSIDE = [
    *("config.yaml", "status.json", "searches.parquet", "journal/answers.jsonl", "report.html", "videos", "videos/"),
    *(f"latents/{SEARCH}.safetensors", "videos/notes.txt", "videos/folder.mp4", "videos/pipe.mp4", "videos/link.mp4"),
    *("videos/000000/secret.mp4", "videos/none.mp4", f"videos/{SEARCH}.webp", f"posters/{SEARCH}.mp4"),
    *("videos/../config.yaml", "videos/../../secret.mp4", "videos/../videos/../../secret.mp4", "../secret.mp4"),
    *("videos/%2e%2e/%2e%2e/secret.mp4", "videos/..%2f..%2fsecret.mp4", "videos/%2e%2e%2f%2e%2e%2fsecret.mp4"),
    *("videos/%252e%252e/secret.mp4", "videos/..\\..\\secret.mp4", "videos//etc/passwd", "videos/%2fetc%2fpasswd"),
    *(f"videos/{SEARCH}.mp4%00", "videos/%00.mp4", f"videos/%00/{SEARCH}.mp4", f"videos/./{SEARCH}.mp4"),
    *(
        f"videos//{SEARCH}.mp4",
        f"videos/{SEARCH}.mp4/",
        f"videos/012000/../{SEARCH}.mp4",
        "videos/.mp4",
        "videos/..mp4",
    ),
    *(f"VIDEOS/{SEARCH}.mp4", f"videos/0120000/{SEARCH}.mp4", "videos/" + "a" * 5000 + ".mp4", "videos/\xff.mp4"),
    *("columns-.gz", "columns-00.gz", "columns-../config.yaml", "report/shard-0.js", "report/../config.yaml"),
]


@served
async def test_no_path_leaves_the_media_of_the_run(browser):
    for path in OUTSIDE:
        raw = f"/{TOKEN}/{path}".encode("latin-1")
        answer = await browser.raw(raw, "GET", {"Host": "localhost"})
        assert answer.status in (400, 404), (path, answer)
        assert b"secret" not in answer.body and b"arms:" not in answer.body and b"root:" not in answer.body, path
    assert (await browser.ask(f"/{TOKEN}/videos/{SEARCH}.mp4")).status == 200


def test_absolute_addresses_are_no_way_out(tmp_path):
    async def ask():
        async with serving(run_dir(tmp_path)) as browser:
            found = []
            for path in (b"http://evil.example/a-token/config.yaml", b"file:///etc/passwd", b"*"):
                found.append(await browser.raw(path, "GET", {"Host": "localhost"}))
            return found

    assert all(a.status in (400, 403, 404) and b"root:" not in a.body for a in asyncio.run(ask()))


# -- media and their parts -------------------------------------------------------------------------------------------


@served
async def test_a_video_is_served_whole_with_its_type(browser):
    answer = await browser.ask(f"/{TOKEN}/videos/{SEARCH}.mp4")
    assert (answer.status, answer.body) == (200, VIDEO)
    assert answer.headers["Content-Type"] == "video/mp4" and answer.headers["Accept-Ranges"] == "bytes"
    head = await browser.ask(f"/{TOKEN}/videos/{SEARCH}.mp4", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "1024")
    same = await browser.ask(f"/{TOKEN}/videos/{SEARCH}.mp4", If_None_Match=answer.headers["ETag"])
    assert (same.status, same.body) == (304, b"")
    poster = await browser.ask(f"/{TOKEN}/posters/{SEARCH}.webp")
    assert (poster.body, poster.headers["Content-Type"]) == (b"poster", "image/webp")
    below = await browser.ask(f"/{TOKEN}/videos/012000/012345-s0-single.mp4")
    assert below.body == b"of a large run"


@pytest.mark.parametrize(
    ("named", "first", "last"),
    [
        ("bytes=0-", 0, 1023),
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=1000-9999", 1000, 1023),
        ("bytes=-24", 1000, 1023),
        ("bytes=-9999", 0, 1023),
        (" bytes=5-9 ", 5, 9),
        ("bytes=1024-", None, None),
        ("bytes=9999-99999", None, None),
        ("bytes=-0", None, None),
    ],
)
def test_the_part_that_is_asked_for_is_served(tmp_path, named, first, last):
    async def ask():
        async with serving(run_dir(tmp_path)) as browser:
            return await browser.ask(f"/{TOKEN}/videos/{SEARCH}.mp4", Range=named)

    answer = asyncio.run(ask())
    if first is None:
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1024")
    else:
        assert (answer.status, answer.body) == (206, VIDEO[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1024"


@pytest.mark.parametrize(
    "named",
    ["", "bytes=", "bytes=-", "bytes=9-5", "bytes=0-1,4-5", "items=0-1", "bytes=a-b", "bytes=" + "9" * 400 + "-"],
)
def test_what_names_no_part_is_answered_with_the_whole(named):
    assert server.part(named, 1024) is None


def test_an_empty_file_has_no_parts():
    assert server.part("", 0) is None
    with pytest.raises(web.HTTPRequestRangeNotSatisfiable):
        server.part("bytes=0-", 0)


@served
async def test_a_part_of_a_file_that_has_changed_is_the_whole(browser):
    answer = await browser.ask(f"/{TOKEN}/videos/{SEARCH}.mp4", Range="bytes=5-9", If_Range='"another"')
    assert (answer.status, answer.body) == (200, VIDEO)


# -- a run that goes on ----------------------------------------------------------------------------------------------


def test_the_data_change_with_the_run_and_only_then(tmp_path):
    run, now = tmp_path / "run", [0.0]
    page_data.write(run, searches=10, candidates=20, state="running")

    async def follow():
        async with serving(run, lambda: now[0]) as browser:
            first = await browser.ask(f"/{TOKEN}/data.json")
            given = json.loads(first.body)
            block = await browser.ask(f"/{TOKEN}/{given['columns']}")
            rows = pages.columns(given["manifest"]["tables"]["searches"], gzip.decompress(block.body))
            assert len(rows["search_id"]) == 10
            now[0] += 100
            again = await browser.ask(f"/{TOKEN}/data.json", If_None_Match=first.headers["ETag"])
            assert (again.status, again.body) == (304, b"")
            table = pq.read_table(run / "searches.parquet")
            pq.write_table(table.slice(0, 5), run / "searches.parquet")
            early = await browser.ask(f"/{TOKEN}/data.json", If_None_Match=first.headers["ETag"])
            assert early.status == 304  # it was read less than two seconds ago
            now[0] += 100
            later = await browser.ask(f"/{TOKEN}/data.json", If_None_Match=first.headers["ETag"])
            changed = json.loads(later.body)
            assert changed["manifest"]["tables"]["searches"]["n"] == 5 and changed["columns"] != given["columns"]
            assert (await browser.ask(f"/{TOKEN}/{given['columns']}")).status == 200  # of whoever asked just before
            (run / "searches.parquet").write_bytes(b"torn")
            now[0] += 100
            torn = await browser.ask(f"/{TOKEN}/data.json")
            assert json.loads(torn.body)["manifest"]["tables"]["searches"]["n"] == 5
            pq.write_table(table, run / "searches.parquet")
            now[0] += 100
            whole = json.loads((await browser.ask(f"/{TOKEN}/data.json")).body)
            assert whole["columns"] == given["columns"]

    asyncio.run(follow())


def test_a_folder_that_is_gone_is_said(tmp_path):
    async def ask():
        async with serving(tmp_path / "nowhere") as browser:
            return await browser.ask(f"/{TOKEN}/data.json")

    answer = asyncio.run(ask())
    assert answer.status == 503 and b"RUN_DIR" in answer.body


def test_shards_come_from_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("raysearch.page.manifest.MOST_INLINE", 10)
    page_data.write(tmp_path / "run", searches=10, candidates=30)
    monkeypatch.setattr("raysearch.page.candidates.Candidates.shards", lambda self, most: [(0, 10), (10, 10)])
    answer = asyncio.run(_first_of_two(tmp_path / "run"))
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/javascript")
    assert answer.body.startswith(b'window.raysearchShard(0, "') and not (tmp_path / "run" / "report").exists()


async def _first_of_two(run: Path) -> Answer:
    async with serving(run) as browser:
        first, _ = json.loads((await browser.ask(f"/{TOKEN}/data.json")).body)["manifest"]["shards"]
        return await browser.ask(f"/{TOKEN}/{first['file']}")


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_address_and_ends_with_one_line(tmp_path):
    run = run_dir(tmp_path)
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if not p.is_symlink())
    command = [sys.executable, "-m", "raysearch", "view", str(run), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        address = said.split()[0]
        host, _, rest = address.removeprefix("http://").partition(":")
        port, path = rest.split("/", 1)
        assert host == "127.0.0.1" and len(path) > 30
        answer = asyncio.run(Browser(int(port)).ask("/" + path + "data.json"))
        assert json.loads(answer.body)["manifest"]["run"]["name"] == "run"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "raysearch: interrupted\n")
    assert before == sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if not p.is_symlink())


def test_a_port_that_is_taken_is_one_line(tmp_path, capsys):
    from raysearch.__main__ import main

    run = run_dir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(run), "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"raysearch: --port: {port} is not allowed; it must be one that is free on 127.0.0.1")
    assert said.err.count("\n") == 1 and said.out == ""
