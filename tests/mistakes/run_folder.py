"""Run folders that hold something else than their run, that are damaged, or that cannot be written."""

import os
from collections.abc import Callable
from pathlib import Path

from mistakes import Mistake

GO_ON = ["run", "config.yaml", "resume=auto"]
PLAIN = "run_dir: '...run' is not allowed; it must be a folder of plain files and folders: "


def link(name: str, *, folder: bool = False) -> Callable[[Path], None]:
    """Makes a run's folder in which `name` is a link to what lies beside the folder."""

    def make(where: Path) -> None:
        (where / "victim").mkdir() if folder else (where / "victim").write_text("precious")
        path = where / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (where / "run" / "config.yaml").touch()
        path.unlink(missing_ok=True)
        path.symlink_to(where / "victim")

    return make


def pipe(name: str) -> Callable[[Path], None]:
    """Makes a run's folder in which `name` is a named pipe."""

    def make(where: Path) -> None:
        (where / "run" / "journal").mkdir(parents=True)
        (where / "run" / "config.yaml").touch()
        os.mkfifo(where / "run" / name)

    return make


def folder(name: str) -> Callable[[Path], None]:
    """Makes a run's folder in which `name` is a folder."""

    def make(where: Path) -> None:
        (where / "run" / name).mkdir(parents=True)
        if name != "config.yaml":
            (where / "run" / "config.yaml").touch()

    return make


LINKED = [
    *("config.yaml", "status.json", "status.json.partial", "searches.parquet", "searches.parquet.partial"),
    *("candidates.parquet", "journal/answers.jsonl", "journal/content.json", "journal/content.json.partial"),
    *("videos/000000-s0-single.mp4", "summary.md", "curves.png.partial", "mine"),
]
FOLDERS = ["videos", "latents", "frames", "rollouts", "spill", "journal", "dataset.partial", "checkpoints"]
TABLE = [
    *(Mistake(GO_ON, f"{PLAIN}{n} in it is a link", make=link(n), left=True) for n in LINKED),
    *(Mistake(GO_ON, f"{PLAIN}{n} in it is a link", make=link(n, folder=True), left=True) for n in FOLDERS),
    *(
        Mistake(GO_ON, f"{PLAIN}{n} in it is neither a file nor a folder", make=pipe(n), left=True)
        for n in ("journal/answers.jsonl", "status.json", "status.json.partial", "searches.parquet")
    ),
    *(
        Mistake(GO_ON, f"{PLAIN}{n} in it is a folder", make=folder(n), left=True)
        for n in ("config.yaml", "searches.parquet", "candidates.parquet", "status.json", "journal/answers.jsonl")
    ),
    Mistake(GO_ON, f"{PLAIN}journal/content.json in it is a folder", make=folder("journal/content.json"), left=True),
]
