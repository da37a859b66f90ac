"""What a run leaves of its own course, for pages and plans: timeline.parquet and trace.parquet.

No result depends on these files, which the journal could not make again: a process that is killed loses the rows of
its last half minute.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysearch.engine.protocol import Denoise, Denoised, Encode, Scored
from raysearch.engine.trace import Ran
from raysearch.files import Folder
from raysearch.parquet import versioned, write_table
from raysearch.session.snapshot import Snapshot
from raysearch.threads import Lane

TIMELINE, TRACE = "timeline.parquet", "trace.parquet"
EVERY = 10.0  # seconds between the rows of the timeline
WRITE_EVERY = 30.0  # seconds between writes, at least
SHARE = 100  # and as many times longer than a write takes
BATCH = 20_000  # rows that wait in memory as Python values, at most
PATIENCE = 10.0  # seconds that the end of a run waits for a disk
KINDS = ("denoiser", "scorer", "encoder")
OF_RUN = ("total", "done", "failed", "best", "elapsed", "at")
OF_FLEET = ("decodes", "rewards", "store_bytes", "store_latents", "evicted", "recomputed", "restarts", "wasted")

NAME = pa.dictionary(pa.int32(), pa.string())
TRACED = pa.schema(
    {
        "session": pa.int32(),
        "search": pa.int32(),
        "kind": NAME,
        "what": NAME,
        "replica": NAME,
        "node": NAME,
        "slots": pa.int32(),
        "start": pa.float64(),
        "end": pa.float64(),
        "waited": pa.float32(),
        "nfe": pa.int32(),
        "evaluations": pa.int32(),
        "decodes": pa.int32(),
        "seconds": pa.float32(),
        "nbytes": pa.int64(),
        "ended": NAME,
    }
)
TIMED = pa.schema(
    {
        "session": pa.int32(),
        "at": pa.float64(),
        "elapsed": pa.float64(),
        **dict.fromkeys(("total", "done", "failed"), pa.int64()),
        "best": pa.float64(),
        **dict.fromkeys(("nfe", "nfe_run", *OF_FLEET), pa.int64()),
        **{f"{what}_{kind}": pa.int32() for what in ("slots", "busy", "waiting") for kind in KINDS},
    }
)


class Log:
    """A Parquet file to which rows are appended, by one process after the other; each one's rows have its `session`.

    The file is rewritten in a thread of its own, atomically, at most every half minute and for a hundredth of the time.
    A file that is torn, or whose columns are not these, is kept beside the new one, with `.old` (or `.old1`, ...) after
    its name. Where the disk refuses, nothing is recorded any more, and `report` is told so once.
    """

    def __init__(
        self,
        folder: Folder,
        name: str,
        columns: pa.Schema,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._name, self._schema, self._clock = folder, name, versioned(columns), clock
        self._report, self._broken = report, False
        self._rows: list[dict[str, Any]] = []
        self._waiting: list[pa.Table] = []
        self._lane = Lane(name)
        self._writing: Future[None] | None = None
        self._due = clock() + WRITE_EVERY
        self.session = 0
        before = None
        try:
            before = self._held()
        except OSError as error:
            self._give_up(error)
        if before is not None and before.num_rows:
            self.session = 1 + pc.max(before["session"]).as_py()

    def _held(self) -> pa.Table | None:
        """The rows that the file holds; None without a file. One that was read and is not ours is moved away.

        Raises OSError where the disk does not give the file, of which nothing is known then.
        """
        path = self._folder.path / self._name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        with suppress(OSError, pa.ArrowException):  # both are raised of bytes that are no Parquet file
            held = pq.read_table(pa.BufferReader(content))
            if held.schema.equals(self._schema):
                return held
        names = (path.with_name(f"{self._name}.old{n or ''}") for n in count())
        path.rename(next(p for p in names if not os.path.lexists(p)))
        return None

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        self._report(f"{self._name} is not written any more: {error}")

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, without its `session`."""
        if self._broken:
            return
        self._rows.append({"session": self.session} | row)
        if len(self._rows) >= BATCH:
            self._pack()
        if self._clock() >= self._due and (self._writing is None or self._writing.done()):
            self._write()

    def close(self) -> None:
        """Write what waits."""
        self._write()
        self._lane.close(PATIENCE)

    def _pack(self) -> None:
        self._waiting.append(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _write(self) -> None:
        self._pack()
        fresh, self._waiting = self._waiting, []
        self._writing = self._lane.submit(lambda: self._append(fresh))

    def _append(self, fresh: Sequence[pa.Table]) -> None:
        if self._broken or not any(len(t) for t in fresh):
            return
        began = self._clock()
        try:
            held = self._held()
            whole = pa.concat_tables([*([held] if held else []), *fresh]).unify_dictionaries()
            write_table(self._folder, self._name, whole, group=BATCH)
        except OSError as error:
            self._give_up(error)
        now = self._clock()
        self._due = now + max(WRITE_EVERY, SHARE * (now - began))


def trace_row(ran: Ran, epoch: float) -> dict[str, Any]:
    """The row of an item in trace.parquet; `epoch` are the seconds since 1970 at which the loop's clock was 0."""
    request, reply = ran.call.request, ran.reply
    row: dict[str, Any] = {
        "search": ran.age,
        "kind": request.kind,
        "what": ran.call.name,
        "replica": ran.replica,
        "node": ran.node,
        "slots": ran.busy,
        "start": epoch + ran.began,
        "end": epoch + ran.ended,
        "waited": ran.began - ran.asked,
        "nfe": 0,
        "evaluations": 1 if isinstance(request, Denoise | Encode) else len(request.captions),
        "decodes": 0,
        "ended": ran.how,
    }
    if isinstance(reply, Denoised) and isinstance(request, Denoise):
        evaluations = reply.nfe // request.sampler.nfe_per_step
        row |= {"nfe": reply.nfe, "evaluations": evaluations, "seconds": reply.seconds, "nbytes": reply.nbytes}
    if isinstance(reply, Scored):
        row |= {"decodes": reply.decodes, "seconds": reply.seconds}
    return row


def timeline_row(s: Snapshot) -> dict[str, Any]:
    """The row of a snapshot in timeline.parquet; nulls for what a fleet would know that is not up."""
    row: dict[str, Any] = {k: getattr(s, k) for k in OF_RUN}
    row["nfe"] = sum(a.nfe for a in s.arms.values())
    if s.fleet is None:
        row["elapsed"] = None  # it counts from when the fleet is up
    else:
        row |= {k: getattr(s.fleet, k) for k in OF_FLEET} | {"nfe_run": s.fleet.nfe}
        for what in ("slots", "busy", "waiting"):
            row |= {f"{what}_{kind}": n for kind, n in getattr(s.fleet, what).items()}
    return row


class Recording:
    """The timeline and the trace of one process's work on a run."""

    def __init__(self, folder: Folder, report: Callable[[str], None]) -> None:
        self._timeline, self._trace = (Log(folder, n, s, report) for n, s in ((TIMELINE, TIMED), (TRACE, TRACED)))
        self._timeline.session = self._trace.session = max(self._timeline.session, self._trace.session)

    def snapshot(self, s: Snapshot) -> None:
        """Record a snapshot: a sink of the run's progress."""
        self._timeline.add(timeline_row(s))

    def ran(self, ran: Ran) -> None:
        """Record an item that a replica ran."""
        self._trace.add(trace_row(ran, time.time() - asyncio.get_running_loop().time()))

    def close(self) -> None:
        """Write what waits."""
        self._timeline.close()
        self._trace.close()
