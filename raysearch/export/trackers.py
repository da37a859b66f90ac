"""Tells an experiment tracker of a run's finished searches, each once: while the run goes on, or afterwards.

What a tracker has been told is a list of search ids in the run's folder, `tracked/`, and the first line names the
tracker's own run. So an export that is given twice tells nothing twice, and a run that is resumed goes on where it was.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeAlias

from raysearch.config.config import Config
from raysearch.config.track import TrackConfig
from raysearch.errors import RaysearchError, told
from raysearch.export.libraries import Tracker, check_library, opened
from raysearch.export.links import file_in
from raysearch.files import Folder, own_content
from raysearch.parquet import run_table
from raysearch.recipe.digests import digest
from raysearch.session import journal
from raysearch.session.progress import Sink
from raysearch.session.snapshot import Snapshot
from raysearch.session.tables import FINISHED
from raysearch.threads import Lane

FOLDER = "tracked"
TABLE = "searches.parquet"
EVERY = 10.0  # seconds between looks at a run's table
PATIENCE = 120.0  # seconds for the last of it, when the run has ended
MEANS = {"reward": "reward_search", "final": "reward_final", "holdout": "reward_holdout", "nfe": "nfe"}
MEANS |= {"replica_seconds": "replica_seconds"}


Sums: TypeAlias = dict[str, tuple[int, float]]  # of a number of MEANS: of how many searches, and the sum


class Tracking:
    """A tracker that is told of a run's searches. No two processes tell the same tracker of the same run at a time."""

    def __init__(self, run_dir: Path, track: TrackConfig) -> None:
        """Raises ConfigError as `check_library` does. Nothing is opened yet."""
        check_library(track)
        self._track, self._run_dir = track, run_dir.expanduser()
        where = digest(track.project, track.dir, track.url).hex()[:12]
        self._state = Path(FOLDER, f"{track.to}-{where}.txt")
        self._open = ExitStack()
        self._tracker: Tracker | None = None
        self._told: dict[str, None] | None = None  # ids of the searches that the tracker has
        self._sums: dict[str, Sums] = {}  # by arm

    def update(self) -> int:
        """Tell the tracker of the searches that have finished since, and return how many these are.

        Raises RaysearchError where the tracker's library fails, and ConfigError where another process tells it now.
        """
        rows = run_table(self._run_dir, TABLE, ("search_id", "status"), more=True).to_pylist()
        done = {r["search_id"]: r for r in rows if r["status"] in FINISHED}
        if self._told is None:
            self._open.enter_context(journal.held(self._run_dir / FOLDER))
            known = own_content(self._run_dir / self._state).decode(errors="replace").split("\n")[:-1]
            self._id, self._told = (known[0] if known else None), dict.fromkeys(known[1:])
            for search_id in self._told:
                if r := done.get(search_id):
                    self._sums[r["arm"]] = _added(self._sums.get(r["arm"], {}), r)
        new = [r for search_id, r in done.items() if search_id not in self._told]
        for r in new:
            self._tell(r)
        return len(new)

    def _tell(self, r: dict[str, Any]) -> None:
        assert self._told is not None
        arm, video = r["arm"], file_in(self._run_dir, r["video"]) if self._track.videos and r["video"] else None
        sums = _added(self._sums.get(arm, {}), r)
        try:
            if self._tracker is None:
                name = self._run_dir.resolve().name
                self._tracker = opened(self._track, name, self._id, token_hex(6), self._run_dir)
                if self._id is None:
                    self._remember(self._tracker.id)
            means = {f"{arm}/{k}": total / n for k, (n, total) in sums.items()}
            self._tracker.log(len(self._told) + 1, means, r, video)
        except Exception as error:
            raise RaysearchError(f"{self._track.to}: {told(error)}") from error
        self._told[r["search_id"]], self._sums[arm] = None, sums
        self._remember(r["search_id"])

    def _remember(self, line: str) -> None:
        with Folder(self._run_dir).append(self._state) as file:
            file.write(f"{line}\n".encode())

    def finish(self) -> None:
        """Tell the tracker the rest, and close it."""
        try:
            if (self._run_dir / TABLE).is_file():  # else the run has ended before its first search has
                self.update()
        finally:
            self.close()

    def close(self) -> None:
        """Give the tracker the table of all that it was told of, and let go of it. Raises RaysearchError."""
        try:
            if self._tracker is not None and self._told is not None:
                rows = run_table(self._run_dir, TABLE, ("search_id", "status"), more=True).to_pylist()
                self._tracker.close(self._run_dir / TABLE, [r for r in rows if r["search_id"] in self._told])
        except Exception as error:
            raise RaysearchError(f"{self._track.to}: {told(error)}") from error
        finally:
            self._tracker = self._told = None
            self._open.close()


def _added(sums: Sums, r: dict[str, Any]) -> Sums:
    """An arm's sums with one search more."""
    there = {k: r[column] for k, column in MEANS.items() if r.get(column) is not None}
    return sums | {k: (sums.get(k, (0, 0.0))[0] + 1, sums.get(k, (0, 0.0))[1] + v) for k, v in there.items()}


def export(run_dir: Path, track: TrackConfig) -> int:
    """Tell a tracker of a run's finished searches that it does not know, and return their number.

    Raises ConfigError, and RaysearchError where the tracker's library fails.
    """
    run_table(run_dir, TABLE, ("search_id",))  # what is no run's folder is left as it is
    Folder(run_dir.expanduser()).check()
    tracking = Tracking(run_dir, track)
    try:
        return tracking.update()
    finally:
        tracking.close()


def sinks(config: Config, run_dir: Path) -> Sequence[Sink]:
    """What tells the tracker that a config names while a run goes on; nothing without one. Raises ConfigError.

    The tracker has a thread of its own, so that one that is slow does not hold the run up.
    """
    if config.track is None:
        return ()
    tracking, lane = Tracking(run_dir, config.track), Lane("tracker")
    running: Future[Any] | None = None

    def show(s: Snapshot) -> None:
        nonlocal running
        if not s.going:
            lane.submit(tracking.finish).result(PATIENCE)
        elif (run_dir / TABLE).is_file() and (running is None or running.done()):
            before, running = running, lane.submit(tracking.update)
            if before is not None:
                before.result()

    return [(EVERY, show)]
