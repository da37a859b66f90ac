"""What a look at an x0 prediction costs beside a step of the tiny model, and whether a small decoder changes rewards.

    python tests/benchmarks/looks.py --captions 48 --noises 8

A look is a scorer's answer by the pixel reward: with the model's own decoder, with that decoder on the first latent
frames alone (`first_latent_frames`), and with the small decoder of `parts.preview_vae`. A step is two evaluations of
the transformer, since guidance is on. All are timed in turns, on one thread, and every look is at a latent of its own.

Then samples of captions that nothing was trained on are looked at on their way, by both decoders. Of two samples of one
caption, a look is right if the one with the higher reward has the higher final reward, too: the pixel reward's of the
finished video, or the verifier's grades. `rho` is Spearman's rank correlation of the rewards by both decoders.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from bench import SIZE, TINY, Report, json_option, spread
from diffusers import WanPipeline

from actors.backend import Backend
from actors.models.source import Source
from actors.models.wan import Autoencoder, Preview, Transformer
from actors.models.weights import pretrained, quiet
from actors.rewards import View
from actors.rewards.pixel import PixelReward
from actors.tiny import world
from actors.tiny.training.pixel_data import predicted
from actors.tiny.verifier import Verifier
from actors.workers import worker
from actors.workers.scorer import Scorer
from actors.workers.state import State
from raysearch.config import config as configuration
from raysearch.config.parts import PartConfig
from raysearch.engine.protocol import Look

SMALL = TINY.parent / "preview-vae" / "model.safetensors"
FIRST = 2  # latent frames of a look at the beginning
CAPTION = world.HELD_OUT_TWO[0]
STEPS, GUIDANCE = 30, 2.0


def scorer(**blocks: object) -> tuple[Scorer, str]:
    """A scorer of the tiny model with the pixel reward, and the reward's key."""
    reward = {"name": "pixel", **blocks.pop("reward", {})}  # type: ignore[dict-item]
    values = {"model": {"path": str(TINY), **SIZE}, "rewards": {"search": reward}, "prompts": [CAPTION], **blocks}
    config = configuration.build(values | {"fleet": {"backend": "local"}})
    plan = Backend().prepare(config, configuration.arms(config))
    return worker.build("scorer", config, plan), plan.arms[0].reward.key  # type: ignore[return-value, union-attr]


def look(made: Scorer, key: str, rng: np.random.Generator) -> float:
    """The seconds of a look at a latent that nobody has seen."""
    latent, velocity = rng.standard_normal((2, 1, 8, 5, 8, 8), np.float32)
    inputs = {"state 0": State(latent, velocity)}
    began = time.perf_counter()
    reply = made.look(Look((key,), (CAPTION,), (None,), 0.5), inputs)
    seconds = time.perf_counter() - began
    assert reply.decodes == 1
    return seconds


def timings(repeats: int) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of the tables of costs, and of what a look is made of."""
    rng, source = np.random.default_rng(0), replace(Source(TINY), preview=PartConfig(file=str(SMALL)))
    transformer, text = Transformer(source), torch.randn(1, SIZE["max_sequence_length"], source.geometry.text_dim)
    parts = {"preview_vae": {"file": str(SMALL)}}
    own, begun, small = scorer(), scorer(reward={"first_latent_frames": FIRST}), scorer(parts=parts)
    big, little, pixel = Autoencoder(source), Preview(source), PixelReward()
    view = View(CAPTION, 0.5, frames=world.render(CAPTION, rng))

    def timed(act: Callable[[], object]) -> Callable[[], float]:
        def measured() -> float:
            began = time.perf_counter()
            act()
            return time.perf_counter() - began

        return measured

    def latent() -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((1, 8, 5, 8, 8), np.float32))

    def step() -> None:
        for _ in range(2):
            transformer(latent(), torch.tensor([500.0]), text, [None])

    ways = {
        "a step": timed(step),
        "a look, own decoder": lambda: look(*own, rng),
        f"a look, own decoder, first {FIRST} latent frames": lambda: look(*begun, rng),
        "a look, small decoder": lambda: look(*small, rng),
        "decoding, own": timed(lambda: big.decode(latent())),
        "decoding, small": timed(lambda: little.decode_rows(latent())),
        "the pixel reward": timed(lambda: pixel([view])),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats + 3):
        for name, way in (ways.items(), reversed(ways.items()))[i % 2]:
            seconds = way()
            if i >= 3:  # the first ones do not count
                found[name].append(seconds)
    base = np.array(found["a step"])
    rows = [[n, spread(1000 * np.array(s), "{:.1f}"), spread(np.array(s) / base, "{:.2f}")] for n, s in found.items()]
    return rows[:4], rows[4:]


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, where equals share the middle one."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def right(looks: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Of rewards (captions, noises), for each pair of a caption that differs in the end: 1, 0, or 0.5 for equals."""
    pairs = [(a, b) for a, b in combinations(range(looks.shape[1]), 2)]
    said = np.concatenate([np.sign(looks[:, a] - looks[:, b]) for a, b in pairs])
    true = np.concatenate([np.sign(final[:, a] - final[:, b]) for a, b in pairs])
    return ((said * true + 1) / 2)[true != 0]


@torch.inference_mode()
def agreement(captions: int, noises: int, steps: Sequence[int]) -> list[list[str]]:
    """The rows of the table of rewards by both decoders."""
    quiet()
    pipe = pretrained(WanPipeline, TINY, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    source = replace(Source(TINY), preview=PartConfig(file=str(SMALL)))
    own, small, pixel, verifier = Autoencoder(source), Preview(source), PixelReward(), Verifier()
    looks = np.zeros((2, len(steps), captions, noises))
    final = np.zeros((2, captions, noises))
    for c, caption in enumerate(world.HELD_OUT_TWO[:captions]):
        *x0s, done = predicted(
            pipe,
            [caption] * noises,
            [captions * n + c for n in range(noises)],
            steps=STEPS,
            guidance=GUIDANCE,
            previews=tuple(steps),
        )
        for s, x0 in enumerate(x0s):
            for d, decode in enumerate((own.decode_rows, small.decode_rows)):
                views = [View(caption, 0.5, frames=frames) for frames in decode(x0)]
                looks[d, s, c] = pixel(views).sum(1)
        views = [View(caption, 0.0, frames=frames) for frames in own.decode_rows(done)]
        final[0, c] = pixel(views).sum(1)
        final[1, c] = np.asarray(verifier(views))[:, :3].sum(1)
    rows = []
    for s, step in enumerate([*map(str, steps), "all"]):
        at = slice(None) if step == "all" else slice(s, s + 1)
        a, b = (ranks(looks[d, at].ravel()) for d in (0, 1))
        row = [step, f"{np.corrcoef(a, b)[0, 1]:.4f}"]
        for judge in final:
            by = [np.concatenate([right(way, judge) for way in looks[d, at]]) for d in (0, 1)]
            difference = 100 * (by[1].mean() - by[0].mean())
            row += [str(len(by[0])), f"{by[0].mean():.1%}", f"{by[1].mean():.1%}", f"{difference:+.1f}"]
        rows.append(row)
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=48)
    parser.add_argument("--noises", type=int, default=8)
    parser.add_argument("--at", type=int, nargs="*", default=[5, 10, 15, 20, 25], help="steps of 30 to look at")
    parser.add_argument("--repeats", type=int, default=60)
    json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(args.json)
    costs, parts = timings(args.repeats)
    head = "ms: median, min, max | over a step: median, min, max"
    report.table("costs", f"tiny model | {head}", costs)
    report.table("parts", f"part of a look | {head}", parts)
    judged = "pairs by {0} | own decoder | small decoder | points"
    head = f"step of {STEPS} | rho | {judged.format('final reward')} | {judged.format('verifier')}"
    report.table("agreement", head, agreement(args.captions, args.noises, args.at))


if __name__ == "__main__":
    main()
