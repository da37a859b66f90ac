"""What a run came to, as the object of `--json`, and the commands that go on with it or show it."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysearch.session.snapshot import ArmStatus, Snapshot


@dataclass(frozen=True)
class Command:
    """A command as its user gave it: the program, such as `.venv/bin/python -m raysearch`, and its arguments."""

    program: Sequence[str]
    arguments: Sequence[str]

    @classmethod
    def given(cls, argv: Sequence[str] | None) -> "Command":
        """The command of this process, or of a call with the arguments `argv`."""
        if argv is not None:
            return cls(("raysearch",), tuple(argv))
        arguments = tuple(sys.argv[1:])
        program = tuple(sys.orig_argv[: len(sys.orig_argv) - len(arguments)])
        if "-m" not in program:  # the installed script, which its interpreter runs
            program = (sys.argv[0],)
        return cls(program, arguments)

    def again(self, run_dir: str) -> str:
        """The command that goes on with this one's run, as a shell takes it."""
        kept = [a for a in self.arguments if not a.startswith(("run_dir=", "resume="))]
        return shlex.join([*self.program, *kept, f"run_dir={run_dir}", "resume=require"])

    def report(self, run_dir: str) -> str:
        """The command that writes the page of this one's run."""
        return shlex.join([*self.program, "report", run_dir])


def unfinished(s: Snapshot) -> bool:
    """True if a run has ended and there is something to go on with: searches undone or failed, or files unmade."""
    return not s.going and (s.done < s.total or bool(s.failures or s.unmade))


def described(s: Snapshot, run_dir: str) -> dict[str, Any]:
    """A run as plain values of JSON, whose names stay as they are; configs/README.md lists them.

    Means and the half widths of 95% intervals are by the component of the judge, or of the search's reward.
    """
    searches = {"n": s.total, "done": s.done, "failed": s.failed, "kept": s.kept, "unmade": sum(f.n for f in s.unmade)}
    return {
        "schema_version": s.schema_version,
        "run_dir": run_dir,
        "run": s.run,
        "state": s.state,
        "reason": s.reason,
        "at": s.at,
        "elapsed": s.elapsed,
        "left": s.left,
        "searches": searches,
        "best": None if s.best is None else {"reward": s.best, "search": s.best_search},
        "baseline": s.baseline,
        "arms": [_arm(name, a) for name, a in s.arms.items()],
        "cost": {k: sum(getattr(a, k) for a in s.arms.values()) for k in ("nfe", "nfe_spent", "replica_seconds")},
        "failures": [asdict(f) for f in s.failures],
        "unmade": [asdict(f) for f in s.unmade],
        "fleet": None if s.fleet is None else asdict(s.fleet),
    }


def _arm(name: str, a: ArmStatus) -> dict[str, Any]:
    gain = None if a.gain is None else {"mean": a.gain, "interval": a.gain_interval, "pairs": a.pairs}
    return {
        "name": name,
        "n": a.total,
        "done": a.done,
        "failed": a.failed,
        "at_budget": a.budget,
        "judge": a.judge or None,
        "means": dict(zip(a.components, a.means, strict=False)),
        "intervals": dict(zip(a.components, a.intervals, strict=False)),
        "gain": gain,
        "cost": {k: getattr(a, k) for k in ("nfe", "nfe_spent", "replica_seconds")},
    }
