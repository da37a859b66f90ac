"""Folders of which `status` cannot tell how a run goes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistakes import Mistake
from raysearch.session.snapshot import ArmStatus, FleetStatus, Snapshot

SLOTS = {"denoiser": 1, "scorer": 1, "encoder": 1}
FLEET = FleetStatus(SLOTS, SLOTS, SLOTS, 1, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1, 1, 0, 0, 0)
ARM = ArmStatus(2, 1, 0, 0, "quality", ("quality",), (0.5,), (), 40, 40, 23.0)
WHOLE = Snapshot("run", "running", "", 1.8e9, 24.0, 24.0, 0.5, 0, {"single": ARM}, FLEET)
DAMAGED = "RUN_DIR: 'run' is not allowed; it must be the folder of a run of this version of raysearch: ..."
NO_RUN = "RUN_DIR: '{}' is not allowed; it must be the folder of a run, with config.yaml and journal/"
UNREAD = "RUN_DIR: '{}' is not allowed; it must be the folder of a run, which can be read (...)"


def run(status: str | bytes | None) -> Callable[[Path], None]:
    """Makes the folder of a run with a status.json of these bytes, or of another without one."""

    def make(where: Path) -> None:
        (where / "run" / "journal").mkdir(parents=True)
        (where / "run" / "config.yaml").touch()
        (where / "run" / "journal" / "answers.jsonl").touch()
        if status is not None:
            (where / "run" / "status.json").write_bytes(status.encode() if isinstance(status, str) else status)

    return make


def but(**changed: Any) -> str:
    """A status.json that is right but for some values."""
    return json.dumps(json.loads(WHOLE.json()) | changed)


def of_arm(**changed: Any) -> str:
    """A status.json that is right but for some values of its arm."""
    return but(arms={"single": json.loads(WHOLE.json())["arms"]["single"] | changed})


def of_fleet(**changed: Any) -> str:
    """A status.json that is right but for some values of its fleet."""
    return but(fleet=json.loads(WHOLE.json())["fleet"] | changed)


def without(key: str) -> str:
    """A status.json that lacks a key."""
    values = json.loads(WHOLE.json())
    del values[key]
    return json.dumps(values)


def pipe(where: Path) -> None:
    """Make the folder of a run whose status.json is a named pipe."""
    run(None)(where)
    os.mkfifo(where / "run" / "status.json")


TEXTS: list[str | bytes] = [
    *("", "{", "[]", "null", "3", '"running"', "{}", "[" * 100_000, b"\xff\xfe", b"\0" * 4096, but()[:-40]),
    *(without("arms"), without("fleet"), without("at"), but(more=1)),
    *(but(run=3), but(state=None), but(state="sleeping"), but(reason=["x"]), but(at="now"), but(elapsed=float("nan"))),
    *(but(at=1e300), but(at=-(10**400)), but(left="long"), but(best=True), but(kept=1.5), but(arms=[])),
    *(but(arms={"a": 3}), of_arm(total="2"), of_arm(total=float("inf")), of_arm(done=None), of_arm(judge={})),
    *(of_arm(components="quality"), of_arm(means=[0.5, 0.5]), of_arm(means=["high"]), of_arm(intervals=[0.1, 0.2])),
    *(of_arm(nfe=1.5), of_fleet(slots=[]), of_fleet(slots={"denoiser": "one"}), of_fleet(busy={})),
    *(of_fleet(waiting=None), of_fleet(nfe_per_second="fast"), of_fleet(seconds_per_step=float("-inf"))),
    of_fleet(store_bytes=10**30),
]
TABLE = [
    *(Mistake(["status", "run"], DAMAGED, make=run(text), left=True) for text in TEXTS),
    Mistake(
        ["status", "run"],
        "RUN_DIR: 'run' is not allowed; it must be the folder of a run that has written status.json: this one has not "
        "started its fleet",
        make=run(None),
        left=True,
    ),
    Mistake(["status", "run"], "RUN_DIR: ...has not started its fleet", make=pipe, left=True),
    *(Mistake(["status", name], NO_RUN.format(name)) for name in ("nowhere", "config.yaml", ".", "/", "/dev/null")),
    Mistake(["status", "runs"], NO_RUN.format("runs"), files={"runs/config.yaml": "{}"}),
    Mistake(["report", "runs"], NO_RUN.format("runs"), files={"runs/config.yaml": "{}"}),
    Mistake(["report", "run"], "RUN_DIR: 'run' ...has not started its fleet", make=run(None), left=True),
    Mistake(["status", "runs"], NO_RUN.format("runs"), files={"runs/status.json": but()}),
    Mistake(["status", "runs"], NO_RUN.format("runs"), files={"runs/config.yaml": "{}", "runs/journal/lock": ""}),
    Mistake(["status", "x" * 300], UNREAD.format("x" * 300)),
    Mistake(["status", "~nobody_of_this_name/run"], UNREAD.format("~nobody_of_this_name/run")),
]
