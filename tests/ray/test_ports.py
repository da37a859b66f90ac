"""The ports of the Ray that a run starts: on which interfaces they listen, and which ask for the token."""

import ipaddress
import os
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import grpc
import psutil
from clusters import ROOT

AGENT, JOBS = 52365, "/api/job_agent/jobs/"
FREE = {44217, 44227, AGENT}  # metrics of the autoscaler and the dashboard, and whether the node's agent is well
METHODS = [
    "NodeInfoGcsService/CheckAlive",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/HealthCheck",
]
DRIVER = """if True:
    import sys, ray
    from actors.cluster.head import joined
    joined(None)
    actor = ray.remote(type("Actor", (), {"here": lambda self: True})).remote()
    ray.get(actor.here.remote())
    print("ready", flush=True)
    sys.stdin.read()
"""


def listening(processes: list[psutil.Process]) -> list[tuple[str, int]]:
    """The addresses and ports on which these processes listen, as the kernel has them."""
    inodes = set()
    for p in processes:
        with suppress(OSError):  # it has ended
            links = [os.readlink(fd) for fd in Path(f"/proc/{p.pid}/fd").iterdir()]
            inodes |= {m[1] for m in (re.fullmatch(r"socket:\[(\d+)\]", x) for x in links) if m}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                address, port = local.split(":")
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.append((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def says(port: int) -> set[str]:
    """What a port says to calls and requests without the token."""
    said = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        for method in METHODS:
            error = channel.unary_unary(f"/ray.rpc.{method}").future(b"", timeout=60).exception()
            said.add(error.code().name if error else "OK")
    for path in ("/metrics", "/api/healthz", JOBS):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as page:
                said.add(f"{page.status} {path}")
        except urllib.error.HTTPError as error:
            said.add(f"{error.code} {path}")
        except (OSError, HTTPException):  # it speaks gRPC
            pass
    return said


def test_all_ports_are_on_loopback_and_what_can_do_anything_asks_for_the_token(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k == "RAY_TMPDIR"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24)}
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(
        command, cwd=ROOT, env=kept | token, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout.readline() == "ready\n"
        me = psutil.Process(driver.pid)
        found = listening([me, *me.children(recursive=True)])
        answers = {port: says(port) for _, port in found}
        driver.stdin.close()
    assert len(found) > 6  # the head, the raylet's two, its agents, the driver, the actor
    assert [a for a in found if not loopback(a[0])] == []
    assert any("UNAUTHENTICATED" in said for said in answers.values())
    for port, said in answers.items():
        if port not in FREE:
            assert said & {"UNAUTHENTICATED", f"401 {JOBS}"} and not any(s.startswith(("OK", "200")) for s in said)
    assert f"401 {JOBS}" in answers.get(AGENT, {f"401 {JOBS}"})  # another Ray of this machine may have that port
    assert driver.returncode == 0
