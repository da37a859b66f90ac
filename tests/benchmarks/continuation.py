"""Does the tiny model continue a clean first frame? Image-to-video through raysearch, judged by the verifier.

    python tests/benchmarks/continuation.py --captions 40

First frames are those of true renders of held-out captions. Prints, with the first frame given and without: success,
mean grades, and how close the first frame of the video is to the given one (PSNR in dB).
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench import TINY, Report, json_option
from PIL import Image

from actors.backend import Backend
from actors.tiny import world
from raysearch.config import config as configuration
from raysearch.session.session import Session


def run(
    scratch: Path, name: str, captions: list[str], images: list[Path | None]
) -> tuple[list[dict], list[np.ndarray]]:
    lines = [{"prompt": c} | ({"image": str(i)} if i else {}) for c, i in zip(captions, images, strict=True)]
    (scratch / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    config = configuration.build(
        {
            "model": {
                "path": str(TINY),
                "height": 32,
                "width": 32,
                "num_frames": 17,
                "max_sequence_length": 80,
            },
            "sampler": {"num_steps": 30, "guidance_scale": 2.0},
            "rewards": {"holdout": {"name": "verifier"}},
            "prompts_file": str(scratch / f"{name}.jsonl"),
            "fleet": {"backend": "local", "denoisers": {"slots": 8}},
            "max_searches": 16,
            "output": {"videos": False, "frames": True},
        }
    )
    asyncio.run(Session(config, Backend(), run_dir=scratch / name).run())
    rows = pq.read_table(scratch / name / "searches.parquet").to_pylist()
    return rows, [np.load(scratch / name / "frames" / f"{r['search_id']}.npy") for r in rows]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(20 * np.log10(255) - 10 * np.log10(np.mean((a.astype(float) - b) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=40)
    json_option(parser)
    args = parser.parse_args()
    captions = list(world.HELD_OUT_TWO[: args.captions])
    with tempfile.TemporaryDirectory() as folder:
        scratch, images = Path(folder), []
        for i, caption in enumerate(captions):
            images.append(scratch / f"{i}.png")
            Image.fromarray(world.render(caption, np.random.default_rng([7, i]))[0]).save(images[-1])
        given = [np.asarray(Image.open(i)) for i in images]
        lines = []
        for name, firsts in (("first frame given", images), ("text alone", [None] * len(captions))):
            rows, frames = run(scratch, name.replace(" ", "-"), captions, firsts)
            grades = [f"{np.mean([r[f'holdout_{k}'] for r in rows]):.3f}" for k in ("success", "VQ", "MQ", "TA")]
            near = np.mean([psnr(f[0], g) for f, g in zip(frames, given, strict=True)])
            lines.append([name, str(len(rows)), *grades, f"{near:.1f} dB"])
    head = "generated from | captions | success | VQ | MQ | TA | first frame against the true one"
    Report(args.json).table("continuation", head, lines)


if __name__ == "__main__":
    main()
