"""A judge without a model behind OpenAI's protocol on this machine: its answers follow from the frames' brightness.

    python tests/judge_server.py --refused 0.05 --dropped 0.02 --latency 0.1

prints its address, and serves until it is ended; `GET /counts` says what was asked and answered. It is for tests, and
for a dry run with the reward `judge` that costs nothing.
"""

import argparse
import base64
import io
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

TOKENS = 100  # that each answer costs


def parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    return body["messages"][0]["content"]


def text(body: dict[str, Any]) -> str:
    """All text of a question."""
    return "\n".join(part["text"] for part in parts(body) if part["type"] == "text")


def frames(part: dict[str, Any]) -> list[np.ndarray]:
    """The decoded frames of a part of a message, each uint8 (H, W, 3)."""
    if part["type"] == "text":
        return []
    kind, _, data = part[part["type"]]["url"].partition(";base64,")
    assert kind == {"image_url": "data:image/jpeg", "video_url": "data:video/jpeg"}[part["type"]]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(file, validate=True)))) for file in data.split(",")]


def brightness(content: Iterable[dict[str, Any]]) -> float:
    """The mean of all pixels, from 0 to 1."""
    return float(np.mean([frame.mean() / 255 for part in content for frame in frames(part)]))


def completion(content: str, logprobs: dict[str, float] | None = None) -> dict[str, Any]:
    """A chat completion, with the log-probabilities of first tokens if they are given."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    if logprobs is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return {"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": TOKENS}}


def computed(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to any of the judge's questions: bright is good, and yes."""
    if body.get("logprobs"):
        p = min(max(brightness(parts(body)), 1e-6), 1 - 1e-6)
        return completion("Yes", {"Yes": math.log(p), "No": math.log(1 - p)})
    wanted = body["response_format"]["json_schema"]["schema"]["properties"]
    if "better" not in wanted:
        return completion(json.dumps(dict.fromkeys(wanted, 10 * brightness(parts(body)))))
    second = next(i for i, part in enumerate(parts(body)) if part.get("text") == "The second video:")
    a, b = brightness(parts(body)[:second]), brightness(parts(body)[second:])
    better = "first" if a > b else "second" if b > a else "tie"
    return completion(json.dumps({"better": better, "confidence": abs(a - b)}))


class JudgeServer(ThreadingHTTPServer):
    """Serves on a free port of this machine until it is closed.

    `answer` makes a completion of a request's body. Each request meets the next of `faults`, and none when they are
    used up: a status such as 500, a pair of 429 and its headers, bytes to send as the content of an answer, or `slow`,
    `unread`, `dropped` and `torn`, where the connection is held open, or closed before the request is read, before the
    answer, or within it. A question about models is refused for the API key `refuses`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *,
        answer: Callable[[dict[str, Any]], dict[str, Any]] = computed,
        faults: Iterable[Any] = (),
        latency: float = 0.0,
        refuses: str = "",
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.latency, self.refuses = answer, latency, refuses
        self._faults, self._lock = iter(faults), threading.Lock()
        self.closed = threading.Event()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []  # the header Authorization of each request
        self.met: Counter[str] = Counter()  # faults
        self.answered: Counter[str] = Counter()  # by the digest of the request's body

    @property
    def url(self) -> str:
        """The address for a judge's `url`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def fault(self) -> Any:
        """What the next request meets; None for nothing."""
        with self._lock:
            found = next(self._faults, None)
            if found is not None:
                self.met[str(found[0] if isinstance(found, tuple) else found)] += 1
            return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed, and go away."""


class Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        s = self.server
        if s.refuses and self.headers.get("Authorization") == f"Bearer {s.refuses}":
            self.reply(401, json.dumps({"error": f"no, Bearer {s.refuses}"}).encode())
            return
        again = sum(n - 1 for n in s.answered.values())
        counts = {"answered": len(s.answered), "again": again, "requests": len(s.keys), "faults": dict(s.met)}
        self.reply(200, json.dumps(counts).encode())

    def do_POST(self) -> None:
        fault = self.server.fault()
        self.server.keys.append(self.headers.get("Authorization"))
        if fault == "unread":
            self.close_connection = True
            return
        content = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(content)
        self.server.bodies.append(body)
        self.server.closed.wait(60 if fault == "slow" else self.server.latency)
        if fault in ("dropped", "slow"):
            self.close_connection = True
            return
        if isinstance(fault, int):
            fault = (fault, {})
        if isinstance(fault, tuple):
            status, headers = fault
            said = {"error": {"message": f"no, {self.headers.get('Authorization')}, not now", "code": status}}
            self.reply(status, json.dumps(said).encode(), headers)
            return
        found = fault if isinstance(fault, bytes) else json.dumps(self.server.answer(body)).encode()
        if fault == "torn":
            self.reply(200, found, torn=True)
            return
        self.reply(200, found)
        self.server.answered[blake2b(content, digest_size=16).hexdigest()] += 1

    def reply(self, status: int, content: bytes, headers: Any = None, *, torn: bool = False) -> None:
        self.send_response_only(status)  # without a date
        for name, value in ({"Content-Length": str(len(content))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if torn else content)
        self.wfile.flush()
        self.close_connection |= torn

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(**settings: Any) -> Iterator[JudgeServer]:
    """A server in threads of this process."""
    with JudgeServer(**settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closed.set()
            server.shutdown()
            thread.join()


def by_chance(seed: int, refused: float, dropped: float) -> Iterator[Any]:
    """Faults without end: these shares of requests are answered 429, or dropped."""
    rng = random.Random(seed)
    while True:
        u = rng.random()
        asked_to_wait = (429, {"Retry-After": "0.1"}) if u < refused / 2 else (429, {})
        yield asked_to_wait if u < refused else "dropped" if u < refused + dropped else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refused", type=float, default=0.0, help="the share of requests that are answered 429")
    parser.add_argument("--dropped", type=float, default=0.0, help="the share of connections that are dropped")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that an answer takes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    faults = by_chance(args.seed, args.refused, args.dropped)
    with serving(faults=faults, latency=args.latency) as server:
        print(server.url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
