"""How a run in a folder is going, or how it ended, seen from another process. Nothing is written.

Its session writes status.json every few seconds and when it ends. Without one (a run of an earlier version) its
journal and config say how far it came. Whether a run that has not ended goes on, the lock on its journal tells.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from raysearch.config import prompts
from raysearch.config.config import label
from raysearch.errors import check
from raysearch.session import journal
from raysearch.session.progress import ArmTally, Progress
from raysearch.session.snapshot import STATUS, Snapshot, parse


def read(run_dir: Path) -> Snapshot:
    """The latest snapshot of a run. Raises ConfigError."""
    holds = (run_dir / "config.yaml").is_file() and (run_dir / "journal" / journal.ANSWERS).is_file()
    check(holds, "RUN_DIR", str(run_dir), "the folder of a run, with config.yaml and journal/")
    s = _latest(run_dir)
    if s.going and journal.written(run_dir / "journal") is False:
        s = _latest(run_dir)  # a run writes how it ended before it lets go of its journal
        if s.going:
            s = replace(s, state="finished" if 0 < s.total == s.done else "killed", left=None)
    return s


def _latest(run_dir: Path) -> Snapshot:
    file = run_dir / STATUS
    return (parse(file.read_bytes()) if file.is_file() else None) or _journaled(run_dir)


def _journaled(run_dir: Path) -> Snapshot:
    """How far a run came that left no status.json."""
    config, answers = run_dir / "config.yaml", run_dir / "journal" / journal.ANSWERS
    names, total = _planned(config)
    progress = Progress(run_dir.resolve().name, {n: ArmTally(total) for n in names}, config.stat().st_mtime)
    rows = {r["search_id"]: r for r in journal.read(run_dir / "journal") if r["kind"] == "search"}  # the latest of each
    for row in rows.values():
        tally = progress.arms.setdefault(row["arm"], ArmTally(total))
        tally.components = tally.components or tuple(k[8:] for k in row if k.startswith("holdout_"))
        progress.add(row)
    if 0 < progress.total == progress.done:
        state = "finished"
    elif any(r["status"] == "cancelled" for r in rows.values()) and not journal.written(run_dir / "journal"):
        state = "interrupted"
    else:
        state = "running"
    written = answers.stat().st_mtime
    return progress.snapshot(written, written, state)


def _planned(file: Path) -> tuple[list[str], int]:
    """The names of a config's arms, and the searches of each; 0 when its prompts are no longer there."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(file))
        names = [label(a["name"]) for a in config["arms"] or [config["policy"]]]
        texts = prompts.read(config["prompts"], config["prompts_file"])
        return names, len(texts) * len(config["seeds"])
    except Exception:  # yaml's own errors are of no one type, and nothing here is worth failing for
        return [], 0
