"""Runs that cannot be exported or rendered as asked, and trackers that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistakes import BASE, Mistake

SUITES = "vbench, vbench2, t2v-compbench, evalcrafter, phygenbench"
WHAT = f"{SUITES}, files, preference, wandb, tensorboard, mlflow, trackio"
USED = "is not allowed; it must be left out with --to"


def tables(prompts: int = 1, **changed: Any) -> Callable[[Path], None]:
    """Makes the tables of a run: two finished candidates of each prompt, and a video of the better one.

    `changed` are columns of each search.
    """
    searches, candidates = [], []
    for i in range(prompts):
        own = {"search_id": f"{i:06d}-s0-a", "arm": "a", "prompt": f"caption {i}", "seed": 0, "policy": "best_of_n"}
        own |= {"status": "done", "winner": f"{i}1", "trials": 1, "video": f"videos/{i:06d}-s0-a.mp4"}
        searches.append(own | changed)
        candidates += [
            {"search_id": own["search_id"], "candidate": f"{i}{j}", "part": 0, "step": 8, "sigma": 0.0, "by": "search"}
            | {"trajectory": f"{i}{j}", "reward": j / 2, "origin": "{}"}
            for j in range(2)
        ]

    def make(folder: Path) -> None:
        (folder / "run" / "videos").mkdir(parents=True)
        for row in searches:
            (folder / "run" / "videos" / f"{row['search_id']}.mp4").write_bytes(b"video")
        pq.write_table(pa.Table.from_pylist(searches), folder / "run" / "searches.parquet")
        pq.write_table(pa.Table.from_pylist(candidates), folder / "run" / "candidates.parquet")

    return make


def export(more: str, line: str, make: Callable[[Path], None] | None = None) -> Mistake:
    """`export run`, of the tables of a run unless others are made."""
    config = {"run/config.yaml": BASE + "arms: [{name: a}]\n"}
    return Mistake(f"export run {more}", line, config, make or tables(), left=True)


def render(more: str, line: str) -> Mistake:
    """`render run`, of the tables of a run."""
    return Mistake(f"render run {more}", line, make=tables(), left=True)


TABLE = [
    Mistake("export", "the following arguments are required: RUN_DIR, --to; usage: raysearch export ..."),
    export("--to vbnch out", f"--to: 'vbnch' is not allowed; it must be one of {WHAT}"),
    export("--to vbench", "--to: 'vbench' is not allowed; it must be followed by the folder to make: --to vbench DIR"),
    export(
        "--to vbench out", "RUN_DIR: 'its prompts' is not allowed; it must be those of a run whose prompts have ..."
    ),
    export(
        "--to vbench out",
        "RUN_DIR: arm a has 1 of 5 videos of 'caption 0'; --partial exports what is there",
        tables(tag_dimension='["color"]'),
    ),
    export(
        "--to evalcrafter out",
        "the path 'a/0003.mp4' is that of two videos: 000000-s0-a ('caption 0') and 000001-s0-a ('caption 1')",
        tables(2, tag_number="3"),
    ),
    export(
        "--to evalcrafter out",
        "the tag number of 'caption 0': 'three' is not allowed; it must be a whole number",
        tables(tag_number="three"),
    ),
    export(
        "--to t2v-compbench out",
        "the category of 000000-s0-a: '../x' is not allowed; it must be a text without slashes, which can name a file",
        tables(tag_category="../x", tag_number="1"),
    ),
    export("--to files out", "--pattern: None is not allowed; it must be given with --to files, and with no other"),
    export(
        "--to files out --pattern {prompt", "--pattern: '{prompt' is not allowed; it must be a path with fields ..."
    ),
    export("--to files out --pattern x.mp4 --arm b", "--arm: 'b' is not allowed; it must be one of a"),
    export("--to files out --pattern x.mp4 --margin 1", f"--margin: 1.0 {USED} files"),
    export("--to files run --pattern x.mp4", "DIR: '...run' is not allowed; it must be a new or empty folder: ..."),
    export("--to preference out --pattern x", f"--pattern: 'x' {USED} preference"),
    export("--to preference out --by beauty", "--by: 'beauty' is not allowed; it must be one of sigma, reward"),
    export(
        "--to preference out",
        "RUN_DIR: 'run' is not allowed; it must be a folder whose config.yaml has the arms of its tables, such as b",
        tables(arm="b"),
    ),
    export("--to preference out --margin 2", "RUN_DIR: 'run' is not allowed; it must be a run with at least two ..."),
    export("--to wandb --partial", f"--partial: True {USED} wandb"),
    export("--to trackio --dir x", "track.dir: 'x' is not allowed; it must be left out with trackio: ..."),
    export("--to mlflow", "track.url: None is not allowed; it must be the server, such as http://host:5000, given ..."),
    export("--to mlflow out", "--to: 'out' is not allowed; it must be left out, or an override of the form key=value"),
    Mistake("export none --to wandb", "RUN_DIR: 'none' is not allowed; it must be the folder of a run, with ..."),
    render("", "one of the arguments --candidate --top is required; usage: raysearch render ..."),
    render("--candidate 9", "--candidate: '9' is not allowed; it must be the id of a candidate of this run, or ..."),
    render("--candidate 0", "--candidate: '0' is not allowed; it must be how one id begins: so do 2, such as 00, 01"),
    render("--top 0", "--top: 0 is not allowed; it must be at least 1"),
    render("--top 1 seeds=[1]", "seeds: '[1]' is not allowed; it must be left out: a render has its run's config, ..."),
    render("--top 1", "RUN_DIR: 'run' is not allowed; it must be the folder of a run, with config.yaml"),
    Mistake(
        "track.to=comet", "track.to: 'comet' is not allowed; it must be one of wandb, tensorboard, mlflow, trackio"
    ),
    Mistake("track.project=x", "track.to is missing"),
    Mistake("track.to=mlflow track.dir=x", "track.dir: 'x' is not allowed; it must be left out with mlflow: ..."),
]
