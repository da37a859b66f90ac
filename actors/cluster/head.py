"""The cluster that a run goes to: one whose head answers at an address, or one that is started on this machine."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import ray
from ray._private import ray_constants, services

from raysearch.config.fleet import check_address
from raysearch.errors import ConfigError, NoReplica
from raysearch.threads import Lane

ANSWER_S = 10.0  # seconds within which a head must answer
SOON_S = 1.0  # seconds after which the user is told that an answer is waited for
LOOK_S = 5.0  # seconds between two looks whether the head is there
LOST_S = 30.0  # seconds for which a head may be away; Ray ends this process, without a word of ours, after 60
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # a call to a head that has no arguments


def joined(
    address: str | None,
    key: str = "address",
    *,
    metrics: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Connect to the cluster at `address`, or start one on this machine, unless this process is connected.

    A cluster that is started here listens on loopback alone, and exports Ray's metrics only with `metrics`. `report`
    takes a line if the cluster takes long to answer. Raises ConfigError, which names `key`, if no cluster answers;
    NoReplica if Ray does not start here.
    """
    if ray.is_initialized():
        return
    if not address:
        key, address = "RAY_ADDRESS", os.environ.get("RAY_ADDRESS") or "local"
        check_address(address, key)
    try:
        if address == "local":  # said to Ray, too: else it waits for a killed cluster whose address file is left
            settings = {"include_dashboard": False, "_system_config": {"enable_metrics_collection": metrics}}
            with loopback_alone():
                lasting(lambda: start("local", **settings))
            return
        if address == "auto":
            address = services.get_ray_address_from_environment("auto", None)
        wait_for_answer(address, report)
        start(address)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"{key}: no Ray cluster answers at {address!r} ({first_line(error)})") from error
    except Exception as error:  # untyped errors of Ray: on a busy machine a node may not start in time
        raise NoReplica(f"Ray does not start: {first_line(error)}; fleet.backend=local does without Ray") from error


def lasting(work: Callable[[], None]) -> None:
    """Do some work in a thread that lasts as long as the process.

    The kernel ends Ray's processes together with the thread that started them. They are started while this thread
    waits: a process that is forked while another thread imports torch may hang or crash.
    """
    if threading.current_thread() is threading.main_thread():
        work()
    else:
        Lane("Ray's processes").submit(work).result()


def start(address: str, **more: object) -> None:
    """`ray.init`, which says nothing unless it fails."""
    ray.init(address=address, logging_level="ERROR", log_to_driver=False, **more)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def loopback_alone() -> Iterator[None]:
    """Within it, a Ray that starts listens on loopback, as Ray does by itself where it supports no clusters.

    Else most of its ports listen on every interface. Ray reads the environment for this when it is imported, which a
    policy of the user's may have done before.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def wait_for_answer(address: str, report: Callable[[str], None] = lambda line: None) -> None:
    """Return if a head answers at `address`, which may be that of Ray's client. Raises ConnectionError if none does.

    `ray.init` itself would wait for minutes.
    """
    if os.environ.get("RAY_USE_TLS") == "1":  # only Ray knows the certificates
        return
    with grpc.insecure_channel(address.removeprefix("ray://"), [("grpc.enable_http_proxy", 0)]) as channel:
        answer = channel.unary_unary(ALIVE).future(b"", timeout=ANSWER_S)
        try:
            error = answer.exception(SOON_S)
        except grpc.FutureTimeoutError:
            report(f"waiting for the Ray cluster at {address}")
            error = answer.exception()
    known = {grpc.StatusCode.UNAUTHENTICATED}  # a head that asks for a token answers, too
    if address.startswith("ray://"):
        known.add(grpc.StatusCode.UNIMPLEMENTED)  # so does the server for Ray's client, which has no such call
    if error is not None and error.code() not in known:
        raise ConnectionError(f"{error.code().name.lower().replace('_', ' ')}: {error.details()}")


def answers(address: str) -> bool:
    """True if a head answers at `address`."""
    try:
        wait_for_answer(address)
    except ConnectionError:
        return False
    return True


async def standing() -> None:
    """Return never. Raises NoReplica if the head has been away for LOST_S, or the node of this process is lost."""
    here = ray.get_runtime_context()
    head, node, seen = here.gcs_address, here.get_node_id(), time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        if await asyncio.to_thread(answers, head):
            seen = time.monotonic()
            if not any(n["Alive"] for n in await asyncio.to_thread(ray.nodes) if n["NodeID"] == node):
                raise NoReplica(f"the fleet is lost: Ray's node of this process has ended ({node[:8]})")
        elif time.monotonic() - seen > LOST_S:
            raise NoReplica(
                f"the fleet is lost: the head of the Ray cluster, {head}, has not answered for {LOST_S:g} s"
            )
