"""What small pictures cost: bytes and CPU time of each, and the share that they have of a run of the tiny model.

    python tests/benchmarks/previews.py --pairs 5

The frames of the tiny model are its world's. Larger frames have the spectrum of natural pictures, in which amplitude
falls as one over frequency, and drift. A
strip is one candidate's three frames, as a scorer sends them; a sprite has a row for each strip.

The runs are best-of-8 by the pixel reward on a fleet that stands between them, in turns. `CPU` is the CPU time of this
process, workers included, over that of the run without previews and posters just before or after it. `drawn` is the
CPU time within the functions that make small pictures, over that of their own run: other work that previews make, such
as to choose them and to write them, is in `CPU` alone.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench import SIZE, TINY, Report, json_option, spread

from actors.backend import Backend
from actors.tiny import world
from actors.workers import thumbnails
from raysearch.config import config as configuration
from raysearch.engine.protocol import Fleet
from raysearch.session.session import Session

MODES = {
    "none": {"previews": "none", "posters": False},
    "posters": {"previews": "none", "posters": True},
    "kept": {"previews": "kept", "posters": True},
    "all": {"previews": "all", "posters": True},
}
MADE = ("strip", "sprite", "poster")


def natural(frames: int, height: int, width: int) -> np.ndarray:
    """Frames, uint8 (T, H, W, 3), whose amplitude falls as one over frequency; they drift by two pixels a frame."""
    rng = np.random.default_rng(0)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    spectrum = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    noise = np.fft.fft2(rng.standard_normal((3, height, width)))
    picture = np.fft.ifft2(noise * spectrum).real
    mixed = np.einsum("ij,jhw->hwi", [[1, 0.3, 0.1], [1, -0.1, 0.2], [1, -0.2, -0.3]], picture)
    scaled = np.clip(128 + 50 * mixed / mixed.std(), 0, 255).astype(np.uint8)
    return np.ascontiguousarray([np.roll(scaled, 2 * i, 1) for i in range(frames)])  # as a decoder gives them


def milliseconds(make: Callable[[], Any], repeats: int) -> np.ndarray:
    """The CPU time of each of `repeats` calls."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        make()
        times.append(1000 * (time.thread_time() - began))
    return np.array(times)


def pieces(clip: np.ndarray, scale: int, repeats: int) -> list[list[str]]:
    """The rows of the table of costs for frames of one size."""
    strip = thumbnails.strip(clip)
    rows = {
        "strip": (lambda: thumbnails.strip(clip), 1),
        "row of a sprite, 1 row": (lambda: thumbnails.sprite([strip], clip), 1),
        "row of a sprite, 8 rows": (lambda: thumbnails.sprite([strip] * 8, clip), 8),
        "poster": (lambda: thumbnails.poster(clip[len(clip) // 2], scale=scale), 1),
    }
    size = " x ".join(map(str, clip.shape[1:3])) + f", {len(clip)} frames"
    return [
        [size, name, f"{len(make()) / n:,.0f}", spread(milliseconds(make, repeats) / n, "{:.2f}")]
        for name, (make, n) in rows.items()
    ]


class Kept(Backend):
    """A backend whose fleet stands already."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self._fleet = fleet

    @asynccontextmanager
    async def fleet(self, *given: Any) -> AsyncIterator[Fleet]:  # type: ignore[override]
        """The fleet that stands."""
        yield self._fleet


def config(captions: int, steps: int, **output: Any) -> configuration.Config:
    """Best-of-8 of some captions that the model was not trained on."""
    return configuration.build(
        {
            "model": {"path": str(TINY), **SIZE},
            "sampler": {"num_steps": steps, "guidance_scale": 2.0},
            "policy": {"name": "best_of_n", "n": 8},
            "rewards": {"search": {"name": "pixel"}, "holdout": {"name": "verifier"}},
            "prompts": list(world.HELD_OUT_TWO[:captions]),
            "fleet": {"backend": "local", "denoisers": {"slots": 8}, "encoders": {"cache": False}},
            "output": {"scale": 8, **output},
        }
    )


async def shares(pairs: int, captions: int, steps: int) -> list[list[str]]:
    """The rows of the table of runs."""
    drawn = [0.0]

    def timed(make: Callable[..., bytes]) -> Callable[..., bytes]:
        def made(*given: Any, **more: Any) -> bytes:
            began = time.thread_time()
            try:
                return make(*given, **more)
            finally:
                drawn[0] += time.thread_time() - began

        return made

    for name in MADE:
        setattr(thumbnails, name, timed(getattr(thumbnails, name)))
    c = config(captions, steps)
    plan = Backend().prepare(c, configuration.arms(c))
    cpu: dict[str, list[float]] = {mode: [] for mode in MODES}
    own: dict[str, list[float]] = {mode: [] for mode in MODES}
    size: dict[str, int] = {}
    async with Backend().fleet(c, plan, lambda line: None) as fleet:
        for i in range(pairs + 1):
            for mode in (MODES, reversed(MODES))[i % 2]:
                with tempfile.TemporaryDirectory() as folder:
                    session = Session(config(captions, steps, **MODES[mode]), Kept(fleet), run_dir=Path(folder, "run"))
                    drawn[0], began = 0.0, time.process_time()
                    await session.run()
                    if i:  # the first of each does not count
                        cpu[mode].append(time.process_time() - began)
                        own[mode].append(drawn[0] / cpu[mode][-1])
                    size[mode] = sum(p.stat().st_size for p in Path(folder).rglob("*.webp"))
    rows = []
    for mode in MODES:
        ratios = np.array(cpu[mode]) / np.array(cpu["none"])
        share = spread(np.array(own[mode]), "{:.2%}")
        rows.append([mode, spread(np.array(cpu[mode]), "{:.2f}"), spread(ratios), share, f"{size[mode]:,}"])
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--captions", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=50)
    json_option(parser)
    args = parser.parse_args()
    report = Report(args.json)
    tiny = world.render(world.HELD_OUT_TWO[0], np.random.default_rng(0))
    large = natural(81, 480, 832)
    rows = pieces(tiny, 8, args.repeats) + pieces(large, 1, args.repeats)
    report.table("pictures", "frames | picture | bytes | CPU ms: median, min, max", rows)
    head = "output | CPU s: median, min, max | CPU over none | drawn | bytes of WebP"
    report.table("runs", head, asyncio.run(shares(args.pairs, args.captions, args.steps)))


if __name__ == "__main__":
    main()
