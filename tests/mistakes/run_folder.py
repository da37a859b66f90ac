"""Run folders that hold something else than their run, that are damaged, or that cannot be written."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path
from zlib import crc32

from mistakes import Mistake
from raysearch.config import config as configuration

GO_ON = ["run", "config.yaml", "resume=auto"]
FRESH = "run_dir: '...run' is not allowed; it must be a new or empty folder, or one with a run of this config"
NEW = "run_dir: '...run' is not allowed; it must be a new or empty folder: this one holds files, which are kept"
HELD = "run_dir: '...run' is not allowed; it must be a folder that holds a run of this config (resume=require)"
NO_RECORD = (
    "run_dir: '...run' is not allowed; it must be a folder whose journal/answers.jsonl holds nothing but records of "
    "this version (...)"
)
TORN = (
    "run_dir: '...run' is not allowed; it must be a folder whose journal/content.json is whole; without that file the "
    "run goes on, and nothing is compared"
)
DAMAGED = f"{FRESH}: its config.yaml is damaged"
NOT_WRITABLE = "run_dir: ...file/run' is not allowed; it must be a writable folder (...)"
NO_PATH = "run_dir: '{}' is not allowed; it must be the path of a folder..."
FILE = {"file": ""}
LONG = ["x" * 300, "runs/" + "ü" * 200, "x" * 256 + "/run"]
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


def begun(files: Mapping[str, bytes]) -> Callable[[Path], None]:
    """Makes the folder of a run of the config, stopped at its start, with other `files` in place of its own."""

    def make(where: Path) -> None:
        with chdir(where):
            config = configuration.load(Path("config.yaml"), ["resume=auto"])
        own = {"config.yaml": configuration.resolved(config).encode(), "journal/answers.jsonl": b""}
        for name, content in (own | files).items():
            (where / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (where / "run" / name).write_bytes(content)

    return make


def journaled(record: object) -> dict[str, bytes]:
    """A journal whose one line has a right checksum, but is no record of this version."""
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    return {"journal/answers.jsonl": b"%08x %s\n" % (crc32(text), text)}


ROW = {"kind": "search", "search_id": "000000-s0-single", "arm": "single", "prompt": "a", "seed": 0, "status": "done"}
COST = {"nfe": 16, "decodes": 0, "reward_calls": 0, "nfe_spent": 16, "replica_seconds": 1.0, "reward_search": None}
ASKED = {"kind": "answer", "search": "000000-s0-single", "reward": "x", "asked": [], "components": [], "seconds": []}
RECORDS: list[object] = [
    *([], None, 3, "text", {}, b"{", b"\xff", b"[" * 100_000, {"kind": "note"}, {"kind": []}),
    *(ROW, ROW | COST, ROW | COST | {"candidates": []}, ROW | COST | {"candidates": {"step": 3}}),
    ROW | COST | {"candidates": {"step": [1], "reward": []}},
    ROW | COST | {"candidates": {"step": ["first"]}},
    ROW | COST | {"candidates": {}, "arm": "another"},
    ROW | COST | {"candidates": {}, "nfe": "many"},
    ROW | COST | {"candidates": {}, "search_id": 7},
    ROW | COST | {"candidates": {}, "search_id": "nameless"},
    ROW | COST | {"candidates": {}, "seed": "first"},
    *(ASKED, ASKED | {"wall": 0.0}, ASKED | {"wall": 0.0, "spent": 0}, ASKED | {"search": "nameless"}),
    ASKED | {"search": None},
]
CONTENTS = [b"", b"{", b"[]", b"3", b'"text"', b"null", b"\xff\xfe", b"[[1]]", b"[" * 100_000]
CONFIGS = [b"\xff\xfe", b"model: [", b"model: &a {x: *a}", b"\0", b"a: !!python/name:os.system x", b"- - [", b"\t- x"]
LINKED = [
    *("config.yaml", "status.json", "status.json.partial", "searches.parquet", "searches.parquet.partial"),
    *("candidates.parquet", "journal/answers.jsonl", "journal/content.json", "journal/content.json.partial"),
    *("videos/000000-s0-single.mp4", "summary.md", "curves.png.partial", "mine"),
]
FOLDERS = ["videos", "latents", "frames", "rollouts", "posters", "previews"]
FOLDERS += ["spill", "journal", "dataset.partial", "checkpoints"]
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
    *(Mistake(GO_ON, NO_RECORD, make=begun(journaled(r)), left=True, heavy=True) for r in RECORDS),
    *(Mistake(GO_ON, TORN, make=begun({"journal/content.json": c}), left=True, heavy=True) for c in CONTENTS),
    *(Mistake(GO_ON, DAMAGED, make=begun({"config.yaml": c}), left=True) for c in CONFIGS),
    Mistake(GO_ON, DAMAGED, make=begun({"config.yaml": b"just a text"}), left=True),
    Mistake(GO_ON, DAMAGED, make=begun({"config.yaml": b"- a\n- list"}), left=True),
    Mistake(GO_ON, DAMAGED, make=begun({"config.yaml": b""}), left=True),
    Mistake("run_dir=run", f"{NEW}; resume=auto goes on with the run in it", make=begun({}), left=True),
    Mistake("run_dir=run", NEW, files={"run/mine": "precious"}, left=True),
    Mistake(GO_ON, NEW, files={"run/mine": "precious"}, left=True),
    Mistake(["run", "config.yaml", "resume=require"], HELD, files={"run/mine": "precious"}, left=True),
    Mistake(["run", "config.yaml", "resume=require"], HELD),
    Mistake(
        "run_dir=file", "run_dir: '...file' is not allowed; it must be a readable folder (...)", files={"file": ""}
    ),
    Mistake(
        "run_dir=file/run",
        "run_dir: ...file/run' is not allowed; it must be a writable folder (...)",
        files={"file": ""},
        heavy=True,
    ),
    *(
        Mistake(f"run_dir={name}", f"run_dir: '{name}' is not allowed; it must be the path of a folder, ...")
        for name in LONG
    ),
    Mistake(
        "run_dir=~nobody_of_this_name/x",
        NO_PATH.format("~nobody_of_this_name/x"),
    ),
]
