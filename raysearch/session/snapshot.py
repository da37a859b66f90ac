"""A run at one moment, in plain values: the display draws it, status.json holds it, a fleet publishes it as metrics."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raysearch.config.typed import typed
from raysearch.parquet import SCHEMA_VERSION

STATUS = "status.json"
GOING = ("starting", "running")  # the states of a run that has not ended
ENDED = ("finished", "interrupted", "broken", "killed")


@dataclass(frozen=True)
class ArmStatus:
    """How far an arm has come. `components`, `means` and `intervals` are of the held-out judge, over winners; without
    a judge they are of the search's reward.

    `gain` is that of the judged reward over the baseline's, paired by caption and seed.
    """

    total: int
    done: int = 0  # searches that ended, whether with a winner, at their budget, or failed
    failed: int = 0
    budget: int = 0
    judge: str = ""
    components: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    intervals: tuple[float, ...] = ()  # half widths of 95% intervals; none of one caption and seed
    nfe: int = 0  # charged, as if each search had run alone
    nfe_spent: int = 0
    replica_seconds: float = 0.0
    gain: float | None = None  # None without pairs
    gain_interval: float | None = None  # half the width of its 95% interval; None of one caption and seed
    pairs: int = 0

    @property
    def fits(self) -> bool:
        """True if there are means of all components or of none, and intervals of all means or of none."""
        return len(self.means) in (0, len(self.components)) and len(self.intervals) in (0, len(self.means))


@dataclass(frozen=True)
class FleetStatus:
    """What the fleet does now, by kind of replica, and what it has made for this process, with rates.

    Rates are those of the last five minutes.
    """

    slots: dict[str, int]
    busy: dict[str, int]
    waiting: dict[str, int]  # items without a slot
    nfe: int
    decodes: int
    rewards: int  # computed, of candidates and of winners
    nfe_per_second: float
    decodes_per_second: float
    rewards_per_second: float
    seconds_per_step: float | None  # replica-seconds of a denoising step of one candidate
    seconds_per_score: float | None  # replica-seconds of a reward, decoding included
    store_bytes: int
    store_latents: int
    evicted: int  # latents, to keep the store within its bound
    recomputed: int  # items done again because a latent was lost
    restarts: int  # replicas that died
    wasted: int = 0  # NFE run ahead of searches that did not ask for them, besides `nfe`; in part an estimate

    @property
    def fits(self) -> bool:
        """True if the numbers of slots are of the same kinds of replicas."""
        return self.slots.keys() == self.busy.keys() == self.waiting.keys()


@dataclass(frozen=True)
class Failure:
    """Searches that failed for one reason, or whose files could not be made again."""

    reason: str
    n: int
    first: str  # the id of the first of them


class Totals:
    """Sums over the arms of a run."""

    arms: Mapping[str, Any]  # by name; each value has `total`, `done` and `failed`

    @property
    def total(self) -> int:
        """The searches of all arms."""
        return sum(a.total for a in self.arms.values())

    @property
    def done(self) -> int:
        """The searches of all arms that have ended."""
        return sum(a.done for a in self.arms.values())

    @property
    def failed(self) -> int:
        """The searches of all arms that have failed."""
        return sum(a.failed for a in self.arms.values())


@dataclass(frozen=True)
class Snapshot(Totals):
    """A run at one moment."""

    run: str
    state: str  # one of GOING or ENDED; only `raysearch status` finds a run killed
    reason: str  # why it broke
    at: float  # seconds since the epoch
    elapsed: float  # seconds since the fleet was up
    left: float | None  # estimated seconds to the end
    best: float | None  # the highest search reward of a winner
    kept: int  # finished by an earlier run
    arms: dict[str, ArmStatus]
    fleet: FleetStatus | None  # None before it is up
    best_search: str = ""  # the id of the search of the best winner
    baseline: str = ""  # the arm over which gains are measured
    failures: tuple[Failure, ...] = ()  # by reason, the most frequent first
    unmade: tuple[Failure, ...] = ()  # of searches that an earlier run finished: files that could not be made again
    schema_version: int = SCHEMA_VERSION

    @property
    def started(self) -> float:
        """When the fleet was up, in seconds since the epoch."""
        return self.at - self.elapsed

    @property
    def going(self) -> bool:
        """True unless the run has ended."""
        return self.state in GOING

    @property
    def fits(self) -> bool:
        """True if the state is one that a run can have, and the snapshot is of this version."""
        return self.state in (*GOING, *ENDED) and self.schema_version == SCHEMA_VERSION

    def json(self) -> bytes:
        """The snapshot as status.json holds it."""
        return json.dumps(asdict(self)).encode()


def parse(text: bytes) -> Snapshot | None:
    """The snapshot of which `json` made this text; None if the text is another version's or no snapshot."""
    try:
        made: Snapshot = typed(Snapshot, json.loads(text))
    except (ValueError, RecursionError):
        return None
    parts: list[Snapshot | ArmStatus | FleetStatus] = [made, *made.arms.values(), *([made.fleet] if made.fleet else [])]
    return made if all(p.fits for p in parts) else None
