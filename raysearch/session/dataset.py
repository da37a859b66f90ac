"""What `collect` makes: noisy latents with the grades of the videos that they became, in Parquet shards.

A collection is a run like any other, whose winners' latents are kept at some noise levels on their way. Its config is
an ordinary one whose `rewards.final` grades the finished videos, with a block `collect`:

    collect: {levels: [0.9, 0.8, 0.6, 0.4, 0.2], train: 0.8}

Every rollout has a noise of its own: prompt i has the seeds of the first prompt moved on by i times their range, since
a reward that is trained on few noises learns these by heart.

A rollout's latents come as one Arrow file from where it was judged; at the end they are joined with the grades of
searches.parquet. A caption is on one side of the split only, whole in one shard, and a row group of its own there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.config.reading import read
from raysearch.errors import check
from raysearch.files import Folder
from raysearch.recipe.digests import digest
from raysearch.session.directory import FOLDERS, found
from raysearch.session.plan import ArmPlan
from raysearch.session.tables import FINISHED, SEARCHES

FOLDER = "dataset"
SPLITS = ("train", "test")
SHARD_BYTES = 128 << 20
FROM_SEARCH = ("prompt", "seed", "search_id")
OWN = (*FROM_SEARCH, "split", "step", "sigma", "timestep", "first", "latent", "similarity")  # what no grade is called
GRADE = "final_"  # begins the columns of searches.parquet that hold grades


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The collection of a file with `key=value` overrides. Raises ConfigError."""
    values = read(path, overrides, Config)
    check("sweep" not in values, "sweep", values.get("sweep"), "left out of a collection")
    config = configuration.build({"resume": "auto"} | values | {"collect": values.get("collect") or {}})
    assert config.collect is not None
    levels, train = config.collect.levels, config.collect.train
    check(config.resume != "extend", "resume", "extend", "never, auto or require: its shards hold one set of rollouts")
    check(len(levels) > 0, "collect.levels", levels, "a list of at least one noise level")
    check(all(0 < level <= 1 for level in levels), "collect.levels", levels, "above 0 and at most 1")
    check(len(set(levels)) == len(levels), "collect.levels", levels, "without repetition")
    check(0 < train < 1, "collect.train", train, "a share of the captions, between 0 and 1")
    first, *others = configuration.arms(config)
    final = first.rewards.final
    check(final is not None, "rewards.final", None, f"the reward that grades finished videos (arm {first.name})")
    for arm in others:
        same = arm.rewards.final == final
        check(same, "rewards.final", arm.rewards.final, f"the same in all arms: {arm.name}'s is not {first.name}'s")
    return config


def rollout(latents: np.ndarray, final: np.ndarray, points: Sequence[tuple[int, float]], *, first: bool) -> bytes:
    """An Arrow file of a rollout: latents (n, C, T, H, W) at their steps and sigmas; it ended at `final` (C, T, H, W).

    `similarity` is 0.5 (1 + cosine) of a latent and the final one (LatSearch). Latents are kept as float16. `first`
    is True if their first frame was given and is clean.
    """
    flat, end = latents.reshape(len(latents), -1).astype(np.float64), final.ravel().astype(np.float64)
    cosine = flat @ end / (np.linalg.norm(flat, axis=1) * np.linalg.norm(end))
    steps, sigmas = zip(*points, strict=True)
    columns = {
        "step": pa.array(steps, pa.int64()),
        "sigma": pa.array(sigmas, pa.float64()),
        "timestep": pa.array([1000 * s for s in sigmas], pa.float64()),
        "first": pa.array([first] * len(steps), pa.bool_()),
        "latent": tensors(latents),
        "similarity": pa.array(0.5 * (1 + cosine), pa.float64()),
    }
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def tensors(latents: np.ndarray) -> pa.Array:
    """Latents (n, ...) as an Arrow column of n float16 tensors."""
    kind = pa.fixed_shape_tensor(pa.float16(), latents.shape[1:])
    flat = pa.array(latents.astype(np.float16).ravel())
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, latents[0].size))


def check_arm(config: Config, arm: ArmPlan) -> None:
    """Raises ConfigError where a collection cannot keep an arm's latents, or cannot call its grades what they are."""
    if config.collect is not None:
        stops(arm.sampler.sigmas, config.collect.levels)
        for name in arm.final.components if arm.final else ():
            check(name not in OWN, "rewards.final", name, f"a component called other than {', '.join(OWN)}")


def stops(sigmas: Sequence[float], levels: Sequence[float]) -> list[int]:
    """The steps whose sigmas are nearest to noise levels. Raises ConfigError if two levels have the same step."""
    steps = [min(range(len(sigmas) - 1), key=lambda i: abs(sigmas[i] - level)) for level in levels]
    for level, step in zip(levels, steps, strict=True):
        allowed = f"the only one nearest to its step: both are nearest to step {step}, sigma {sigmas[step]:.3f}"
        check(steps.count(step) == 1, "collect.levels", level, allowed)
    return sorted(steps)


def split_of(prompt: str, train: float) -> str:
    """train or test. Only the caption decides, so that it stays on its side whatever else is collected."""
    drawn = int.from_bytes(digest("split", prompt)[:6], "big") / 2**48
    return "train" if drawn < train else "test"


def collected(config: Config, run_dir: Path, *, complete: bool) -> str:
    """Write the dataset of a run, and return a line that says what it holds. Raises ConfigError if it is empty."""
    assert config.collect is not None
    rows = write(run_dir, train=config.collect.train, complete=complete)
    without = left_out(run_dir)
    kept = sum(rows.values()) > 0 or without == 0
    check(kept, "collect.levels", config.collect.levels, "such that winners pass some of them on their own: none did")
    note = f"; {without} winners are left out, which passed none of the levels on their own" if without else ""
    return ", ".join(f"{n} {split}" for split, n in rows.items()) + f" rows in {run_dir / FOLDER}{note}"


def write(run_dir: Path, *, train: float, complete: bool, shard_bytes: int = SHARD_BYTES) -> dict[str, int]:
    """Write the shards of a run, and return the number of rows of each split.

    If the run is complete its rollouts are deleted; called again, this then leaves the shards as they are. A search
    without a rollout has no rows.
    """
    folder, rollouts = run_dir / FOLDER, run_dir / FOLDERS["arrow"]
    if rollouts.exists():
        searches = pq.read_table(run_dir / "searches.parquet")
        by_prompt: dict[str, list[dict[str, Any]]] = {}
        for r in searches.to_pylist():  # sorted by search_id, hence by prompt
            if r["status"] in FINISHED and found(run_dir, "arrow", r["search_id"]):
                by_prompt.setdefault(r["prompt"], []).append(r)
        with Folder(run_dir).replacing(FOLDER) as partial:
            for split in SPLITS:
                captions = (_caption(rows, run_dir) for p, rows in by_prompt.items() if split_of(p, train) == split)
                _write_shards(partial, split, captions, shard_bytes)
    if complete:
        Folder(run_dir).remove(FOLDERS["arrow"])
    return {s: sum(pq.read_metadata(p).num_rows for p in shards_of(folder, s)) for s in SPLITS}


def left_out(run_dir: Path) -> int:
    """The number of finished searches without rows: their winners start below every noise level."""
    status = pq.read_table(run_dir / "searches.parquet", columns=["status"])["status"].to_pylist()
    shards = shards_of(run_dir / FOLDER, *SPLITS)
    ids = {i for p in shards for i in pq.read_table(p, columns=["search_id"])["search_id"].unique().to_pylist()}
    return sum(s in FINISHED for s in status) - len(ids)


def shards_of(folder: Path, *splits: str) -> list[Path]:
    """The Parquet files of splits in a dataset's folder, in order."""
    return [p for s in splits for p in sorted(folder.glob(f"{s}-*.parquet"))]


def _caption(rows: Sequence[dict[str, Any]], run_dir: Path) -> pa.Table:
    """All rollouts of a caption, with the columns FROM_SEARCH and the grades of their searches."""
    tables = []
    for r in rows:
        with pa.ipc.open_file(found(run_dir, "arrow", r["search_id"])) as file:
            table = file.read_all()
        for name in (*FROM_SEARCH, *(k for k in r if k.startswith(GRADE))):
            value = pa.array([r[name]] * len(table), SEARCHES.get(name, pa.float64()))
            table = table.append_column(name.removeprefix(GRADE), value)
        tables.append(table)
    return pa.concat_tables(tables)


def _write_shards(folder: Path, split: str, captions: Iterator[pa.Table], shard_bytes: int) -> None:
    writer: pq.ParquetWriter | None = None
    size = number = 0
    for table in captions:
        table = table.append_column("split", pa.array([split] * len(table)))
        if writer is None:
            writer = pq.ParquetWriter(folder / f"{split}-{number:05d}.parquet", table.schema)
        writer.write_table(table)
        size += table.nbytes
        if size >= shard_bytes:
            writer.close()
            writer, size, number = None, 0, number + 1
    if writer is not None:
        writer.close()
