"""How much of best-of-8's gain do drafts keep, with and without a step cache, and at what share of its cost?

    OMP_NUM_THREADS=1 python tests/benchmarks/drafts.py runs/drafts --json docs/figures/drafts.json

Each arm of draft and commit chooses one of the same eight noises of a caption by the pixel reward of a draft, and
renders it in full without a cache; best-of-8 renders all eight. The exact verifier, which no arm has seen, judges, and
the gain is that of VQ + MQ + TA over one plain sample on the same caption and noise. `NFE run` are evaluations that
were run, and seconds are replica-seconds; both are of searches that run alone: nothing is shared between arms. Arms
take turns, some captions at a time (`--block`), so that whatever else the machine does meets all of them.

A run that was stopped goes on when the same command is given again. Intervals are 95%, by raysearch.bootstrap.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from bench import ROOT, SIZE, TINY, Report, json_option
from gains import cell

import raysearch
from raysearch.bootstrap import draws

SINGLE, WHOLE = "single", "best-of-8"
EXPLORE = {"name": "best_of_n", "n": 8}
# As published, and looser: the published thresholds are for 50 steps, between which less changes.
CACHES: dict[str, dict[str, Any] | None] = {
    "no cache": None,
    "first_block": {"name": "first_block"},
    "first_block 0.2": {"name": "first_block", "threshold": 0.2},
    "easy": {"name": "easy"},
    "easy 0.2": {"name": "easy", "threshold": 0.2},
    "taylor": {"name": "taylor"},
    "taylor 2": {"name": "taylor", "interval": 2},
    "guidance": {"name": "guidance"},
}
GRADES = ("holdout_VQ", "holdout_MQ", "holdout_TA")
COLUMNS = (*GRADES, "holdout_success", "nfe", "nfe_spent", "replica_seconds", "prompt", "status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs of all arms are kept")
    parser.add_argument("--captions", type=int, default=100, help="of configs/held_out_two.txt, the first so many")
    parser.add_argument("--block", type=int, default=25, help="captions of an arm before the next arm has its turn")
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 10, 15], help="of drafts")
    parser.add_argument("--full", type=int, default=30, help="steps of a rendering")
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=list(CACHES))
    json_option(parser)
    args = parser.parse_args()
    captions = (ROOT / "configs" / "held_out_two.txt").read_text().splitlines()[: args.captions]
    arms = policies(args.steps, args.caches)
    began, todo = time.monotonic(), [(first, arm) for first in range(0, len(captions), args.block) for arm in arms]
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    done = 0
    for i, (first, arm) in enumerate(todo):
        block = captions[first : first + args.block]
        run_dir = args.folder / f"{first:04d}-{args.block}-{arm.replace(' ', '-')}"
        if len(finished(run_dir)) < len(block):
            given = config(block, first, arms[arm], args.full, run_dir)
            raysearch.run(given, report=lambda line: None)
            done += 1
        rows[arm] += finished(run_dir)
        passed = time.monotonic() - began
        left = passed / done * (len(todo) - i - 1) if done else 0.0
        print(f"{i + 1} of {len(todo)}: {arm}, captions {first + 1} to {first + len(block)}; {passed / 60:.1f} min, "
              f"about {left / 60:.0f} more", flush=True)  # fmt: skip
    for arm, of in rows.items():
        if [r["prompt"] for r in of] != captions:
            raise SystemExit(f"{arm} has not finished the captions; see the runs in {args.folder}")
    Report(args.json).table("drafts", *table(rows, captions))


def policies(steps: Sequence[int], caches: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The policies of all arms, by their names."""
    drafts = {
        f"{n} steps, {name}": {"name": "draft_commit", "draft_steps": n, "cache": CACHES[name], "explore": EXPLORE}
        for n in steps
        for name in caches
    }
    return {SINGLE: {"name": "single"}, WHOLE: EXPLORE, **drafts}


def config(captions: Sequence[str], first: int, policy: dict[str, Any], steps: int, run_dir: Path) -> dict[str, Any]:
    """The run of one arm; the noise of a caption is its own."""
    return {
        "model": {"path": str(TINY), **SIZE},
        "sampler": {"name": "unipc", "num_steps": steps, "guidance_scale": 2.0},
        "policy": policy,
        "rewards": {"search": {"name": "pixel"}, "holdout": {"name": "verifier"}},
        "prompts": [{"prompt": c, "seed": 6000 + first + i} for i, c in enumerate(captions)],
        "fleet": {"backend": "local", "denoisers": {"slots": 8}},
        "max_searches": 4,
        "output": {"videos": False},
        "resume": "auto",
        "run_dir": str(run_dir),
    }


def finished(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of the searches of a run that are done, in the order of the captions."""
    file = run_dir / "searches.parquet"
    if not file.exists():
        return []
    found = pq.read_table(file).sort_by("search_id").select(COLUMNS).to_pylist()
    return [r for r in found if r["status"] == "done"]


def table(rows: dict[str, list[dict[str, Any]]], captions: Sequence[str]) -> tuple[str, list[list[str]]]:
    """The head and the rows of the table."""
    by_arm = [
        [(sum(r[g] for g in GRADES), r["holdout_success"], r["nfe_spent"], r["replica_seconds"]) for r in of]
        for of in rows.values()
    ]
    values = np.array(by_arm).transpose(1, 0, 2)  # (captions, arms, 4)
    means = np.concatenate([values.mean(0)[None], draws(values, captions)])
    judged, success, nfe, seconds = (dict(zip(rows, means[..., k].T, strict=True)) for k in range(4))
    gain = {arm: judged[arm] - judged[SINGLE] for arm in rows}
    made = []
    for arm, of in rows.items():
        kept = cell(gain[arm] / gain[WHOLE], ".2f") if arm not in (SINGLE, WHOLE) else "–"
        charged = np.mean([r["nfe"] for r in of])
        shares = [cell(x[arm] / x[WHOLE], ".2f") for x in (nfe, seconds)]
        counted = [f"{charged:.0f}", f"{nfe[arm][0]:.0f}", *shares]
        made.append([arm, f"{success[arm][0]:.2f}", cell(gain[arm]), kept, *counted])
    head = "arm | success | gain | share of best-of-8's gain | NFE charged | NFE run | share of it | share of seconds"
    return head, made


if __name__ == "__main__":
    main()
