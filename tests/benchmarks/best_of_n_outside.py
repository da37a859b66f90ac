"""Does best-of-N find what is there? Its search reward against the best of the same N videos made and scored by hand.

    python tests/benchmarks/best_of_n_outside.py --captions 6

"By hand" is diffusers' own WanPipeline, one video after another from the noises that the recipes name, decoded and
scored by the pixel reward one by one; raysearch runs in its batched mode. Prints both means and their ratio.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from bench import TINY, Report, json_option
from diffusers import WanPipeline

from actors.backend import Backend
from actors.rewards import View
from actors.rewards.pixel import PixelReward
from actors.tiny import world
from raysearch.config import config as configuration
from raysearch.recipe.origins import Noise
from raysearch.session.session import Session

MODEL = {"height": 32, "width": 32, "num_frames": 17, "max_sequence_length": 80}
STEPS, GUIDANCE = 30, 2.0


def by_hand(pipeline: WanPipeline, reward: PixelReward, caption: str, seed: int, n: int) -> float:
    totals = []
    for i in range(n):
        noise = torch.randn(1, 8, 5, 8, 8, generator=torch.Generator().manual_seed(Noise(seed, i).key))
        video = pipeline(caption, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise, **MODEL).frames[0]
        frames = np.rint(video * 255).astype(np.uint8)
        totals.append(float(np.sum(reward([View(caption, 0.0, frames=frames)])[0])))
    return max(totals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=6)
    parser.add_argument("--n", type=int, default=16)
    json_option(parser)
    args = parser.parse_args()
    captions = list(world.HELD_OUT_TWO[: args.captions])
    config = configuration.build(
        {
            "model": {"path": str(TINY), **MODEL},
            "sampler": {"num_steps": STEPS, "guidance_scale": GUIDANCE},
            "rewards": {"search": {"name": "pixel"}},
            "policy": {"name": "best_of_n", "n": args.n},
            "prompts": captions,
            "fleet": {"backend": "local", "denoisers": {"slots": 8}},
            "output": {"videos": False},
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        asyncio.run(Session(config, Backend(), run_dir=Path(scratch) / "run").run())
        seconds = time.perf_counter() - began
        found = pq.read_table(Path(scratch) / "run" / "searches.parquet")["reward_search"].to_pylist()
    torch.set_num_threads(1)
    pipeline = WanPipeline.from_pretrained(TINY, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    began = time.perf_counter()
    best = [by_hand(pipeline, PixelReward(), c, 0, args.n) for c in captions]
    alone = time.perf_counter() - began
    rows = [
        ["raysearch", f"{np.mean(found):.4f}", f"{seconds:.0f}"],
        ["diffusers, one video after another", f"{np.mean(best):.4f}", f"{alone:.0f}"],
        ["ratio", f"{np.mean(found) / np.mean(best):.4f}", f"{seconds / alone:.2f}"],
    ]
    head = f"best of {args.n}, {len(captions)} captions | mean search reward | seconds"
    Report(args.json).table("best_of_n_outside", head, rows)


if __name__ == "__main__":
    main()
