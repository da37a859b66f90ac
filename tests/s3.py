"""A real S3 server on this machine, and before it a proxy that fails, cuts off, delays or loses what it is told to."""

import http.client
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from subprocess import PIPE, Popen
from typing import Any

BUCKET = "bucket"
SERVE = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Proxy:
    """Passes requests on. `fault` sees a method and a path, and answers what becomes of the request.

    fail: 503; cut: the connection is closed before the body is read; lost: done, but not answered; a number: so many
    seconds later; None: as it is.
    """

    def __init__(self, server: int) -> None:
        self.fault: Callable[[str, str], Any] = lambda method, path: None
        self.puts: list[str] = []  # the paths of all files that were written
        self.bytes = 0
        self.waiting = threading.Event()  # never set: a wait that a closed proxy could end
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                path = self.path.partition("?")[0]
                fault = proxy.fault(self.command, path)
                if fault == "cut":
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if isinstance(fault, int | float):
                    proxy.waiting.wait(fault)
                if fault == "fail":
                    self.send_error(503, "Slow Down")
                    return
                behind = http.client.HTTPConnection("127.0.0.1", server)
                behind.request(self.command, self.path, body, dict(self.headers))
                answer = behind.getresponse()
                content = answer.read()
                behind.close()
                if self.command == "PUT" and answer.status < 300:
                    proxy.puts.append(path.removeprefix(f"/{BUCKET}/"))
                    proxy.bytes += len(body)
                if fault == "lost":
                    self.close_connection = True
                    return
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

            def handle_error(self, request: Any, client: Any) -> None:
                """A client that was killed is no error."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to use the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def s3() -> Iterator[Proxy]:
    """A server with one empty bucket, in a process of its own, behind a proxy."""
    with Popen([sys.executable, "-c", SERVE], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        made = http.client.HTTPConnection("127.0.0.1", port)
        made.request("PUT", f"/{BUCKET}", headers={"Content-Length": "0"})
        assert made.getresponse().status == 200
        made.close()
        proxy = Proxy(port)
        try:
            yield proxy
        finally:
            proxy.server.shutdown()
            proxy.server.server_close()
            with suppress(OSError):
                process.kill()


def files(environ: Mapping[str, str], prefix: str = "run") -> dict[str, bytes]:
    """The files of a folder of the bucket, past the proxy's faults if there are none."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        prefix=prefix,
        endpoint=environ["AWS_ENDPOINT_URL"],
        access_key_id="a",
        secret_access_key="b",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    return {m["path"]: bytes(obstore.get(store, m["path"]).bytes()) for batch in obstore.list(store) for m in batch}
