"""A run at one moment, in plain values: what the display draws, status.json holds, and a fleet publishes as metrics."""

import json
from dataclasses import asdict, dataclass
from typing import Any

STATUS = "status.json"
GOING = ("starting", "running")  # of the states; the others are ends


@dataclass(frozen=True)
class ArmStatus:
    """How far an arm has come. The winners' means, and half widths of their 95% intervals, are the held-out judge's."""

    total: int  # 0: not known
    done: int = 0  # with a winner, at its budget, or failed
    failed: int = 0
    budget: int = 0
    judge: str = ""
    components: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    intervals: tuple[float, ...] = ()  # none below two winners
    nfe: int = 0  # charged, as if each search had run alone
    nfe_spent: int = 0
    replica_seconds: float = 0.0


@dataclass(frozen=True)
class FleetStatus:
    """What the fleet does, by kind of replica, and what this process has made with it; rates over the last minutes."""

    slots: dict[str, int]
    busy: dict[str, int]
    waiting: dict[str, int]  # items without a slot
    nfe: int
    decodes: int
    rewards: int  # of candidates and of winners
    nfe_per_second: float
    decodes_per_second: float
    rewards_per_second: float
    seconds_per_step: float | None  # of a replica, for one candidate
    seconds_per_score: float | None  # of a replica, decoding included
    store_bytes: int
    store_latents: int
    evicted: int  # latents, to keep the store within its bound
    recomputed: int  # items done again since a latent was lost
    restarts: int  # replicas that died


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    run: str
    state: str  # starting, running, finished, interrupted or broken; who reads may find it killed
    reason: str  # why it broke
    at: float  # since the epoch
    elapsed: float  # since the fleet was up
    left: float | None  # seconds
    best: float | None  # search reward of a winner
    kept: int  # finished by an earlier run
    arms: dict[str, ArmStatus]
    fleet: FleetStatus | None  # once it is up

    @property
    def started(self) -> float:
        return self.at - self.elapsed

    @property
    def going(self) -> bool:
        return self.state in GOING

    @property
    def total(self) -> int:
        return sum(a.total for a in self.arms.values())

    @property
    def done(self) -> int:
        return sum(a.done for a in self.arms.values())

    @property
    def failed(self) -> int:
        return sum(a.failed for a in self.arms.values())

    def json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def parse(text: bytes) -> Snapshot | None:
    """What `json` wrote; None if it is anything else, such as another version's."""
    try:
        values: dict[str, Any] = json.loads(text)
        arms = {name: ArmStatus(**a) for name, a in values["arms"].items()}
        fleet = values["fleet"] and FleetStatus(**values["fleet"])
        return Snapshot(**values | {"arms": arms, "fleet": fleet})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
