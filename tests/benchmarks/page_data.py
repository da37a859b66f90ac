"""Writes the folder of a run that never was, as large as asked, to see how a page of that size is made and drawn.

    python tests/benchmarks/page_data.py runs/large --searches 10000 --candidates 100000
    python -m raysearch report runs/large

Five arms share prompts and seeds. The candidates of a search are rows of trajectories that are scored at several
steps; later ones are perturbed, renoised or branched from earlier ones. Numbers are drawn with a fixed seed, and
captions are plain words, but for the first one, which tries to be markup. There are a timeline and a trace, and 1% of
the searches failed. There are no videos.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.session.snapshot import ArmStatus, FleetStatus, Snapshot

ARMS = ("single", "best-of-10", "rgrp", "beam", "evolution")
STEPS, START = 30, 1.8e9
HOSTILE = '</script><img src=x onerror=alert(1)> \u2028 & a "red" circle'
CONFIG = """\
model: {path: actors/assets/tiny-wan, height: 32, width: 32, num_frames: 17}
sampler: {name: unipc, num_steps: 30}
rewards: {search: {name: pixel}, holdout: {name: verifier}}
seeds_apart: false
baseline: single
arms: [%s]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--searches", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=100_000, help="of all searches together")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--state", default="finished", help="of the run: finished, running, killed ...")
    args = parser.parse_args()
    began = time.perf_counter()
    write(args.folder, searches=args.searches, candidates=args.candidates, seeds=args.seeds, state=args.state)
    print(f"{args.folder} in {time.perf_counter() - began:.1f} s")


def write(folder: Path, *, searches: int, candidates: int, seeds: int = 4, state: str = "finished") -> None:
    """Write the files of such a run into a new folder."""
    (folder / "journal").mkdir(parents=True)
    (folder / "journal" / "answers.jsonl").touch()
    (folder / "config.yaml").write_text(CONFIG % ", ".join(f"{{name: {a}, policy: {{name: {a}}}}}" for a in ARMS))
    rng = np.random.default_rng(0)
    rows = of_searches(rng, searches, seeds)
    tried = of_candidates(rng, rows, candidates)
    best = tried.sort_by([("search_id", "ascending"), ("step", "descending"), ("reward", "descending")])
    winner = dict(zip(reversed(best["search_id"].to_pylist()), reversed(best["candidate"].to_pylist()), strict=True))
    rows = rows.append_column("winner", pa.array([winner.get(i) for i in rows["search_id"].to_pylist()], pa.string()))
    for name, table in (("searches", rows), ("candidates", tried), ("timeline", timeline(rng)), ("trace", trace(rng))):
        pq.write_table(table.replace_schema_metadata({"schema_version": "1"}), folder / f"{name}.parquet")
    (folder / "status.json").write_bytes(status(rows, state))


def of_searches(rng: np.random.Generator, n: int, seeds: int) -> pa.Table:
    """searches.parquet, sorted by id; winners are set by `of_candidates`."""
    group, arm = np.arange(n) // len(ARMS), np.arange(n) % len(ARMS)
    prompt, seed = group // seeds, group % seeds
    difficulty = rng.normal(size=prompt.max(initial=0) + 1)[prompt]
    search = difficulty + 0.3 * arm + rng.normal(scale=0.5, size=n)
    judged = difficulty + 0.2 * arm + rng.normal(scale=0.5, size=n)
    failed = rng.random(n) < 0.01
    colours = ("red", "green", "blue", "cyan", "magenta", "yellow")
    captions = [f"a {colours[p % 6]} circle moving left beside the {p}th square" for p in range(int(prompt.max()) + 1)]
    captions[0] = HOSTILE
    cost = 60 * (1 + 5 * (arm > 0)) * np.ones(n, int)
    there = lambda values: pa.array(np.where(failed, np.nan, values), from_pandas=True)  # noqa: E731
    columns = {
        "search_id": [f"{p:06d}-s{s}-{ARMS[a]}" for p, s, a in zip(prompt, seed, arm, strict=True)],
        "arm": [ARMS[a] for a in arm],
        "prompt": [captions[p] for p in prompt],
        "seed": seed,
        "policy": [ARMS[a] for a in arm],
        "policy_args": ["{}"] * n,
        "allocation": pa.nulls(n, pa.string()),
        "status": np.where(failed, "failed", "done"),
        "reason": [f"RewardError: frame {i} of item {i:012x} is not finite" if f else "" for i, f in enumerate(failed)],
        "reward_search": there(search),
        "reward_final": pa.nulls(n, pa.float64()),
        "reward_holdout": there(judged),
        "nfe": cost,
        "decodes": cost // 60 + 1,
        "reward_calls": cost // 60,
        "trials": np.ones(n, int),
        "nfe_spent": (cost * 0.7).astype(int),
        "tokens": np.zeros(n, int),
        "winner_tokens": np.zeros(n, int),
        "replica_seconds": cost * 0.05 * rng.uniform(0.9, 1.1, n),
        "wall_seconds": cost * 0.1 * rng.uniform(0.9, 1.1, n),
        "video": pa.nulls(n, pa.string()),
        "tag_kind": [("easy", "hard")[p % 2] for p in prompt],
        **{f"holdout_{c}": there(judged / 3 + rng.normal(scale=0.1, size=n)) for c in ("VQ", "MQ", "TA")},
        "holdout_success": there((judged > 0) * 1.0),
    }
    return pa.table(columns).sort_by("search_id")


def of_candidates(rng: np.random.Generator, searches: pa.Table, n: int) -> pa.Table:
    """candidates.parquet of `n` rows. Three rows of a trajectory follow each other: steps 10, 20 and 30."""
    per = max(n // max(searches.num_rows, 1), 1)
    search = np.repeat(np.arange(searches.num_rows), per)
    k = np.tile(np.arange(per), searches.num_rows)
    trajectory, scored = k // 3, k % 3
    step = (scored + 1) * STEPS // 3
    ids = np.frombuffer(rng.bytes(16 * len(search)), "V16")
    text = np.array([i.hex() for i in (bytes(x) for x in ids)])
    paths = np.array([bytes(x).hex() for x in np.frombuffer(rng.bytes(16 * len(search)), "V16")])
    before = np.maximum(np.arange(len(search)) - scored - rng.integers(1, 4, len(search)), 0)
    first = np.arange(len(search)) - scored
    derived = ((trajectory % 3 > 0) & (search[before] == search))[first]
    kinds = ("perturb", "renoise", "branch")
    origins, parents = [], []
    for i, (d, parent, t) in enumerate(zip(derived, text[before[first]], trajectory, strict=True)):
        own = {"beta": 0.1, "kind": kinds[t % 3], "ordinal": int(t), "parent": parent}
        fresh = {"index": int(t), "kind": "noise", "seed": int(search[i] % 4)}
        origins.append(json.dumps(own if d else fresh, separators=(",", ":")))
        parents.append(parent if d else None)
    reward = rng.normal(size=len(search)) + 0.3 * scored
    columns = {
        "search_id": searches["search_id"].take(pa.array(search)),
        "candidate": text,
        "parent": pa.array(parents, pa.string()),
        "origin": origins,
        "part": np.zeros(len(search), int),
        "step": step,
        "sigma": 1 - step / STEPS,
        "trajectory": paths[first],
        "by": np.where(step == STEPS, "search", "early"),
        "reward": reward,
        "nfe": step * 2,
        "making_s": step * 0.05,
        "scoring_s": np.full(len(search), 0.02),
        "kept": reward > 0,
        "num_steps": np.full(len(search), STEPS),
        "call": k // 2,
        "asked_s": k * 0.7,
        "nfe_after": (k + 1) * 20,
        "pixel": reward,
    }
    return pa.table(columns)


def timeline(rng: np.random.Generator, rows: int = 360) -> pa.Table:
    """timeline.parquet of two sessions, each half of the rows, ten seconds apart."""
    session = np.arange(rows) * 2 // rows
    elapsed = 10.0 * (np.arange(rows) - session * (rows // 2))
    columns = {"at": START + elapsed + session * 86400, "elapsed": elapsed, "session": session}
    grown = np.linspace(0, 1, rows)
    columns |= {"total": np.full(rows, 10_000), "done": (10_000 * grown).astype(int)}
    columns |= {"failed": (100 * grown).astype(int)}
    columns |= {"best": 3 * grown, "nfe": (3e6 * grown).astype(int), "nfe_run": (2e6 * grown).astype(int)}
    lost = {"restarts": 0.01, "evicted": 2, "recomputed": 0.2, "wasted": 3}
    columns |= {k: (v * elapsed).astype(int) for k, v in lost.items()}
    for kind, slots in (("denoiser", 64), ("scorer", 16), ("encoder", 1)):
        columns |= {f"slots_{kind}": np.full(rows, slots), f"busy_{kind}": rng.integers(0, slots + 1, rows)}
        columns |= {f"waiting_{kind}": rng.integers(0, 99, rows)}
    return pa.table(columns)


def trace(rng: np.random.Generator, rows: int = 200_000) -> pa.Table:
    """trace.parquet of the same two sessions."""
    session = rng.integers(0, 2, rows)
    start = START + session * 86400 + rng.uniform(0, 1780, rows)
    what = rng.choice(["denoise", "look", "finish", "encode"], rows, p=[0.5, 0.4, 0.09, 0.01])
    kind = np.where(what == "denoise", "denoiser", np.where(what == "encode", "encoder", "scorer"))
    took = rng.uniform(0.05, 0.5, rows)
    columns = {"session": session, "start": start, "end": start + took, "waited": rng.exponential(0.5, rows)}
    columns |= {"kind": kind, "what": what, "replica": np.char.add("r", rng.integers(0, 8, rows).astype(str))}
    columns |= {"node": np.full(rows, "n0"), "search": rng.integers(0, 10_000, rows), "slots": rng.integers(1, 9, rows)}
    columns |= {"nfe": np.where(what == "denoise", 20, 0), "evaluations": np.where(what == "denoise", 10, 1)}
    columns |= {"decodes": (what != "denoise") * 1, "seconds": took / 4, "nbytes": np.full(rows, 4096)}
    columns |= {"ended": rng.choice(["done", "died", "lost"], rows, p=[0.99, 0.005, 0.005])}
    return pa.table(columns)


def status(searches: pa.Table, state: str) -> bytes:
    """status.json of such a run."""
    n = searches.num_rows // len(ARMS)
    arms = {a: ArmStatus(n, n if state == "finished" else n // 2) for a in ARMS}
    kinds = {"denoiser": 64, "scorer": 16, "encoder": 1}
    fleet = FleetStatus(kinds, kinds, kinds, 1, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1, 1, 0, 0, 0)
    left = 60.0 if state == "running" else None
    return Snapshot("large", state, "", START + 88200, 1800.0, left, 3.0, 0, arms, fleet, "", "single").json()


if __name__ == "__main__":
    main()
