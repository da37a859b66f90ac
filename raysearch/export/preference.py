"""Pairs of finished videos of a prompt, of which one is preferred: what trainings such as DPO read.

The two have the same prompt and the same seed of the run. They are those with the highest and the lowest value in a
column of candidates.parquet: the reward, or one of its components. Arms of one reward and sampler are put together.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysearch.config import config as configuration
from raysearch.errors import check
from raysearch.export.links import fresh, link
from raysearch.export.render import FOLDER, SEARCHED, Pick, config_of, file_of, scored
from raysearch.files import Folder
from raysearch.parquet import run_table, write_table
from raysearch.session import tables
from raysearch.session.directory import FOLDERS, found
from raysearch.session.plan import group_of

TABLE = "preference.parquet"
SIDES = ("chosen", "rejected")
SHOWN = ("mp4", "png")
KINDS = {"video": SHOWN, "latents": ("safetensors",)}  # columns of files, and their extensions

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """The rows of two candidates in candidates.parquet, and the prompt and the seed that they have in common."""

    prompt: str
    seed: int
    chosen: Row
    rejected: Row

    @property
    def sides(self) -> tuple[Row, Row]:
        """The rows in the order of SIDES."""
        return self.chosen, self.rejected


def pairs(run_dir: Path, *, by: str = "reward", margin: float = 0.0, arm: str | None = None) -> list[Pair]:
    """A pair for each prompt and seed whose finished candidates differ in a column, by at least a margin.

    Drafts, which have fewer steps than their arm's sampler or a step cache, are in no pair. Of equals the earlier row
    counts. Raises ConfigError, also if there is no pair.
    """
    check(margin >= 0, "--margin", margin, "at least 0")  # NaN is not
    rows = run_table(run_dir, "searches.parquet", (*SEARCHED, "prompt", "seed")).to_pylist()
    Folder(run_dir.expanduser()).check()
    searches = {r["search_id"]: r for r in rows if arm in (None, r["arm"])}
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    check(arm is None or arm in arms, "--arm", arm, f"one of {', '.join(arms)}")
    own = {a.name: a for a in configuration.arms(config_of(run_dir, ())[0])}
    strange = next((name for name in arms if name not in own), None)
    allowed = f"a folder whose config.yaml has the arms of its tables, such as {strange}"
    check(strange is None, "RUN_DIR", str(run_dir), allowed)
    for key, values in (
        ("rewards.search", [a.rewards.search for a in own.values()]),
        ("sampler", [a.sampler.settled for a in own.values()]),
    ):
        alike = arm is not None or all(v == values[0] for v in values)
        check(alike, "--arm", arm, f"one of {', '.join(arms)}: the arms do not have the same {key}")
    groups: dict[str, dict[str, Row]] = defaultdict(dict)
    for r in scored(run_dir, by):
        if r["search_id"] in searches and r["by"] == "search" and r["sigma"] == 0 and r[by] is not None:
            check(not r["part"], "RUN_DIR", str(run_dir), "a run of videos of one clip each: pairs are of whole videos")
            a = own[searches[r["search_id"]]["arm"]]
            if r["step"] == a.sampler.num_steps and not a.arguments.get("cache"):
                groups[group_of(r["search_id"])].setdefault(r["candidate"], r)
    made = []
    for of_prompt in groups.values():
        best, worst = (pick(of_prompt.values(), key=lambda r: r[by]) for pick in (max, min))
        if best[by] > worst[by] and best[by] - worst[by] >= margin:
            search = searches[best["search_id"]]
            made.append(Pair(search["prompt"], search["seed"], best, worst))
    allowed = f"a run with at least two finished candidates of a prompt, {margin:g} apart in {by}"
    check(len(made) > 0, "RUN_DIR", str(run_dir), allowed)
    return made


def lacking(run_dir: Path, found_pairs: Sequence[Pair], *, latents: bool) -> list[Pick]:
    """The candidates of pairs whose video, or with `latents` whose latents, the run does not have."""
    winners = _winners(run_dir)
    kinds = list(KINDS) if latents else ["video"]
    picks = {
        r["candidate"]: Pick(r["candidate"], r["search_id"])
        for pair in found_pairs
        for r in pair.sides
        if any(_source(run_dir, r["candidate"], winners, kind) is None for kind in kinds)
    }
    return list(picks.values())


def write(
    run_dir: Path, where: Path, found_pairs: Sequence[Pair], *, by: str, files: bool = True, latents: bool = False
) -> int:
    """Write the table of pairs to a new folder, with their `files` beside it unless there shall be none.

    Returns the number of pairs. Those of which a file is missing are left out. Raises ConfigError.
    """
    winners, run_dir = _winners(run_dir), run_dir.expanduser()
    kinds = [k for k in KINDS if files and (latents or k == "video")]
    numbers = ["reward", *(k for k in found_pairs[0].chosen if k not in tables.CANDIDATES)]
    rows: list[Row] = []
    with fresh(where) as folder:
        for pair in found_pairs:
            sources = {k: [_source(run_dir, r["candidate"], winners, k) for r in pair.sides] for k in kinds}
            if any(None in of_kind for of_kind in sources.values()):
                continue
            row: Row = {"prompt": pair.prompt, "seed": pair.seed, "by": by}
            row["margin"] = pair.chosen[by] - pair.rejected[by]
            for i, (side, r) in enumerate(zip(SIDES, pair.sides, strict=True)):
                row |= {side: r["candidate"], f"{side}_search": r["search_id"], f"{side}_origin": r["origin"]}
                row |= {f"{side}_{k}": r[k] for k in numbers}
                row |= {f"{side}_{k}": _linked(run_dir, sources[k][i], folder, k, r["candidate"]) for k in kinds}
            rows.append(row)
        check(len(rows) > 0, "RUN_DIR", str(run_dir), "a run whose candidates can be made again")
        write_table(Folder(folder), TABLE, pa.Table.from_pylist(rows, schema=_schema(numbers)))
    return len(rows)


def _schema(numbers: Sequence[str]) -> pa.Schema:
    columns = [("prompt", pa.string()), ("seed", pa.int64()), ("by", pa.string()), ("margin", pa.float64())]
    for side in SIDES:
        columns += [(f"{side}{k}", pa.string()) for k in ("", "_search", "_origin", *(f"_{k}" for k in KINDS))]
        columns += [(f"{side}_{k}", pa.float64()) for k in numbers]
    return pa.schema(columns)


def _linked(run_dir: Path, source: Path | None, folder: Path, kind: str, candidate: str) -> str:
    """The name, in a folder, of a candidate's file of a kind, which is linked there unless it is there already."""
    assert source is not None
    name = Path(FOLDERS[source.suffix[1:]], f"{candidate}{source.suffix}")
    if not (folder / name).exists():
        link(run_dir, str(source.relative_to(run_dir)), folder / name)
    return str(name)


def _winners(run_dir: Path) -> dict[str, str]:
    """The first search that each winner has won."""
    rows = run_table(run_dir, "searches.parquet", SEARCHED).to_pylist()
    return {r["winner"]: r["search_id"] for r in reversed(rows) if r["winner"] is not None}


def _source(run_dir: Path, candidate: str, winners: dict[str, str], kind: str) -> Path | None:
    """The file of a candidate in the run's folder: that of a search that it has won, or one that was rendered."""
    folder = run_dir.expanduser()
    own = (found(folder, e, winners[candidate]) for e in KINDS[kind]) if candidate in winners else ()
    return next((p for p in own if p is not None), None) or file_of(folder / FOLDER, candidate, *KINDS[kind])
