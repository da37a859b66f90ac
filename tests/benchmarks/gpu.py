"""What raysearch keeps of a GPU's speed: its own workers against diffusers' pipelines, with Wan 2.1 1.3B's sizes.

    python tests/benchmarks/gpu.py

The transformer and the autoencoder are the real classes at their real sizes with random weights; the text encoder is
a small one whose embeddings are as wide. So nothing is downloaded and no video shows anything, but every forward costs
what it costs with real weights. Takes under ten minutes on one large GPU, and needs no Ray.

* `speed`: the time of one step of one candidate under guidance. The pipeline makes one video; a denoiser makes as many
  at a time as it has slots. `a search` is one through the engine with a fleet in this process, as whole rollouts and
  with one step an item, where every state goes through the engine's store. The least share of the pipeline's speed
  that we accept is for exact mode. Memory is the peak that a rollout adds to the weights.
* `same`: what is bit for bit the same, and how far apart the rest is, in standard deviations of the latent.
* `decode`: a finished latent to uint8 frames.
* `generic`: a pipeline that runs as it is (`sampler.name: own`), LTX-Video with a transformer of the real size, against
  its own call. The autoencoder is small, since nothing is decoded.
* `more`: what regional torch.compile gives to the pipeline, and how long all of it took.

Where torch sees no GPU all of it runs on the CPU, for which smaller sizes must be given.
"""

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from bench import Report, json_option, paired, rollouts, search, spread, standing, stepwise
from diffusers import LTXPipeline, WanPipeline, WanTransformer3DModel
from gpu_models import DEVICE, saved, saved_ltx

from actors.backend import Backend
from actors.models import wan
from actors.models.source import Source
from actors.models.weights import DTYPES
from actors.workers.state import State
from actors.workers.worker import Worker
from raysearch.config import config as configuration
from raysearch.engine.protocol import Denoise, Start, Text, Whole
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.origins import Noise

PARTS = ("speed", "same", "decode", "generic", "compile")
AT_LEAST, GENERIC_AT_LEAST = 0.97, 0.91
TEXTS = ("a red circle moving left", "")
CUDA = DEVICE == "cuda"


def now() -> float:
    """The time when all that was asked of the GPU is done."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class Peak:
    """The most memory that the body of a `with` added on the GPU."""

    text = ""

    def __enter__(self) -> "Peak":
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *error: object) -> None:
        if CUDA:
            self.text = f"{(torch.cuda.max_memory_allocated() - self._before) / 1e9:.2f}"


def config(folder: Path, args: argparse.Namespace, slots: int = 1, **sampler: Any) -> configuration.Config:
    """A local fleet on the GPU, and a reward that costs next to nothing."""
    size = {"height": args.height, "width": args.width, "num_frames": args.frames, "max_sequence_length": args.tokens}
    pool = {"num_gpus": int(CUDA)}
    return configuration.build(
        {
            "model": {"path": str(folder), "dtype": args.dtype, **size},
            "sampler": {"num_steps": args.steps, "guidance_scale": 5.0, **sampler},
            "rewards": {"search": {"name": "tiny:LatentNorm"}},
            "prompts": [TEXTS[0]],
            "fleet": {"backend": "local", "denoisers": pool | {"slots": slots}, "scorers": pool, "encoders": pool},
        }
    )


@dataclass(frozen=True)
class Bench:
    """A fleet whose denoiser has `slots`, and what is asked of it."""

    config: configuration.Config
    plan: Any
    fleet: Any
    inputs: dict[str, Any]

    @property
    def sampler(self) -> Sampler:
        return self.plan.arms[0].sampler

    def worker(self, kind: str) -> Worker:
        return next(r.worker for r in self.fleet.replicas if r.kind == kind)

    def made(self, n: int = 1, *, every: int | None = None, preview: bool = False) -> list[np.ndarray]:
        """The latents of `n` rollouts at a time, of the noises 0 to n - 1; as legs of `every` steps each, if given."""
        sampler, denoiser = self.sampler, self.worker("denoiser")
        ends = [*range(every or sampler.num_steps, sampler.num_steps, every or 1), sampler.num_steps]
        states: list[State | None] = [None] * n
        step = 0
        for until in ends:
            waiting = []
            for i, base in enumerate(states):
                start = None if base else Start(Noise(1, i), key=i)
                leg = Denoise(sampler, bytes([i]), step, until, preview and until < sampler.num_steps, start)
                waiting.append(denoiser.submit(i, leg, self.inputs | ({"base": base} if base else {})))
            states = [w.result()[1] for w in waiting]
            step = until
        return [s.latent for s in states if s is not None]

    async def timed(self, n: int) -> float:
        """Seconds of a step of one candidate, of `n` at a time."""
        began = now()
        self.made(n)
        return (now() - began) / n / self.sampler.num_steps

    async def searched(self, policy: Callable[..., Awaitable[None]], n: int) -> float:
        """The same, of a search through the engine."""
        found = await search(self.config, self.plan, self.fleet, partial(policy, n=n), self.fleet.replicas)
        return found.seconds / n / self.sampler.num_steps


@asynccontextmanager
async def bench(folder: Path, args: argparse.Namespace, slots: int = 1, **sampler: Any):
    """A `Bench` that stands, and is gone from the GPU afterwards."""
    c = config(folder, args, slots, **sampler)
    async with standing(Backend(), c) as (fleet, plan):
        encoder = next(r.worker for r in fleet.replicas if r.kind == "encoder")._worker
        if plan.details["source"].runs_pipeline:
            inputs = {"text": encoder.encode(Whole(TEXTS[0], plan.arms[0].sampler), {})}
        else:
            text, negative = (encoder.encode(Text(t, args.tokens), {}) for t in TEXTS)
            inputs = {"text": text, "negative": negative}
        yield Bench(c, plan, fleet, inputs)
    fleet.replicas.clear()
    freed()


def freed() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


class Raw:
    """diffusers' own pipeline, which makes one video at a time; it has the same weights and the same embeddings."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.pipeline = WanPipeline.from_pretrained(folder, dtype=DTYPES[args.dtype]).to(DEVICE)
        self.pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            encoded = self.pipeline.encode_prompt(*TEXTS, max_sequence_length=args.tokens, device=torch.device(DEVICE))
        self._call = dict(zip(("prompt_embeds", "negative_prompt_embeds"), encoded, strict=True))
        self._call |= {"height": args.height, "width": args.width, "num_frames": args.frames}
        self._call |= {"num_inference_steps": args.steps, "guidance_scale": 5.0, "output_type": "latent"}
        self._steps = args.steps

    def made(self) -> np.ndarray:
        """The latent of the noise 0."""
        return self.pipeline(**self._call, generator=torch.Generator().manual_seed(0)).frames.cpu().numpy()

    async def timed(self) -> float:
        """Seconds of a step."""
        began = now()
        self.made()
        return (now() - began) / self._steps


def row(what: str, ours: np.ndarray, raw: np.ndarray, at_least: str, memory: str) -> list[str]:
    seconds = float(np.median(ours))
    return [what, f"{1000 * seconds:.1f}", f"{1 / seconds:.2f}", spread(raw / ours), at_least, memory]


async def speed(folder: Path, args: argparse.Namespace, report: Report) -> None:
    raw = Raw(folder, args)
    rows = []
    with Peak() as peak:
        raw.made()
    alone = peak.text
    for slots in args.slots:
        async with bench(folder, args, slots) as b:
            with Peak() as peak:
                b.made(slots)
            ours, theirs = await paired(args.repeats, partial(b.timed, slots), raw.timed)
            if not rows:
                rows.append(row("diffusers' pipeline", theirs, theirs, "", alone))
            exact = f"{AT_LEAST:.2f}" if slots == 1 else ""
            rows.append(row(f"a denoiser, slots {slots}", ours, theirs, exact, peak.text))
            if slots == 1:
                for policy, what in ((rollouts, "whole rollouts"), (stepwise, "one step an item")):
                    ours, theirs = await paired(args.repeats, partial(b.searched, policy, 1), raw.timed)
                    rows.append(row(f"a search, slots 1, {what}", ours, theirs, f"{AT_LEAST:.2f}", ""))
    async with bench(folder, args, batched_guidance=True) as b:
        with Peak() as peak:
            b.made()
        ours, theirs = await paired(args.repeats, partial(b.timed, 1), raw.timed)
        rows.append(row("a denoiser, slots 1, guidance in one batch", ours, theirs, "", peak.text))
    head = "what | ms a step | steps a second | of the pipeline's speed: median, least, most | at least | GB added"
    report.table("speed", head, rows)


def compared(what: str, a: np.ndarray, b: np.ndarray, claimed: bool) -> list[str]:
    off = float(np.abs(a - b).max() / b.std())
    return [what, "the same bits" if claimed else "about the same", str(np.array_equal(a, b)), f"{off:.1e}"]


async def same(folder: Path, args: argparse.Namespace, report: Report) -> None:
    raw = Raw(folder, args)
    every = max(args.steps // 3, 1)
    rows = []
    for name in ("unipc", "euler", "dpm++", "flow-sde"):
        async with bench(folder, args, name=name) as b:
            (whole,) = b.made()
            for preview in (False, True):
                (legs,) = b.made(every=every, preview=preview)
                how = f"{name}, legs of {every} steps{' that end with a preview' if preview else ''}, and one leg"
                rows.append(compared(how, legs, whole, True))
            if name == "unipc":
                alone = whole
                rows.append(compared("unipc, and diffusers' pipeline", whole, raw.made(), True))
                rows.append(compared("unipc, made again", b.made()[0], whole, True))
    for slots in [s for s in args.slots if s > 1]:
        async with bench(folder, args, slots) as b:
            rows.append(compared(f"in a batch of {slots}, and alone", b.made(slots)[0], alone, False))
    async with bench(folder, args, batched_guidance=True) as b:
        rows.append(compared("guidance in one batch, and in two", b.made()[0], alone, False))
    report.table("same", "what is compared | claimed | equal bits | largest difference", rows)


async def decode(folder: Path, args: argparse.Namespace, report: Report) -> None:
    pipeline = Raw(folder, args).pipeline
    autoencoder = wan.Autoencoder(Source(folder, args.dtype, DEVICE))
    shape = wan.Geometry.of(folder).latent_shape(height=args.height, width=args.width, num_frames=args.frames)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    frames = {}

    @torch.no_grad()
    def theirs() -> np.ndarray:
        mean, inverse_std = autoencoder._statistics()
        pixels = pipeline.vae.decode(latent.to(DEVICE, pipeline.vae.dtype) / inverse_std + mean, return_dict=False)[0]
        return np.rint(pipeline.video_processor.postprocess_video(pixels, output_type="np")[0] * 255).astype(np.uint8)

    async def timed(who: str, made: Callable[[], np.ndarray]) -> float:
        began = now()
        frames[who] = made()
        return now() - began

    def ours() -> np.ndarray:
        return autoencoder.decode(latent)

    memory = []
    for made in (ours, theirs):
        with Peak() as peak:
            made()
        memory.append(peak.text)
    a, b = await paired(args.repeats, partial(timed, "ours", ours), partial(timed, "theirs", theirs))
    rows = [
        ["diffusers' pipeline", spread(b), memory[1], ""],
        ["raysearch", spread(a), memory[0], str(np.array_equal(frames["ours"], frames["theirs"]))],
    ]
    report.table("decode", "one latent to frames | seconds: median, least, most | GB added | the same frames", rows)


class RawLTX:
    """LTX-Video's own pipeline, like `Raw`."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        pipeline = LTXPipeline.from_pretrained(folder, dtype=DTYPES[args.dtype]).to(DEVICE)
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            encoded = pipeline.encode_prompt(*TEXTS, max_sequence_length=args.tokens, device=torch.device(DEVICE))
        names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
        call = dict(zip(names, encoded, strict=True))
        call |= {"height": args.height, "width": args.width, "num_frames": args.frames, "output_type": "latent"}
        self._made = partial(pipeline, **call, num_inference_steps=args.steps, guidance_scale=3.0)
        self._steps = args.steps

    def made(self) -> np.ndarray:
        """The latent of the noise 0."""
        return self._made(generator=torch.Generator().manual_seed(0)).frames.float().cpu().numpy()

    async def timed(self) -> float:
        """Seconds of a step."""
        began = now()
        self.made()
        return (now() - began) / self._steps


async def generic(scratch: Path, args: argparse.Namespace, report: Report) -> None:
    sizes = dict(zip(("height", "width", "frames"), args.ltx_size, strict=True))
    args = argparse.Namespace(**{**vars(args), **sizes, "tokens": min(args.tokens, 128)})
    folder = saved_ltx(scratch / "ltx", args)
    raw = RawLTX(folder, args)
    with Peak() as peak:
        alone = raw.made()
    rows = []
    memory = peak.text
    for slots in args.slots:
        async with bench(folder, args, slots, name="own", guidance_scale=3.0) as b:
            with Peak() as peak:
                off = compared("", b.made(slots)[0], alone, False)[-1]
            ours, theirs = await paired(args.repeats, partial(b.timed, slots), raw.timed)
            if not rows:
                rows.append([*row("LTX-Video's pipeline", theirs, theirs, "", memory), ""])
            at_least = f"{GENERIC_AT_LEAST:.2f}" if slots == 1 else ""
            rows.append([*row(f"a denoiser, slots {slots}", ours, theirs, at_least, peak.text), off])
    head = "what | ms a step | steps a second | of the pipeline's speed: median, least, most | at least | GB added"
    report.table("generic", f"{head} | largest difference", rows)


async def compiled(folder: Path, args: argparse.Namespace) -> list[list[str]]:
    eager, fast = Raw(folder, args), Raw(folder, args)
    fast.pipeline.transformer.compile_repeated_blocks()
    began = now()
    first = fast.made()
    seconds = now() - began
    off = compared("", first, eager.made(), False)[-1]
    a, b = await paired(args.repeats, fast.timed, eager.timed)
    return [
        ["diffusers' pipeline as it is, ms a step", f"{1000 * np.median(b):.1f}"],
        ["with regional torch.compile, ms a step", f"{1000 * np.median(a):.1f}"],
        ["its speed over that of the pipeline as it is: median, least, most", spread(b / a)],
        ["the first compiled video, seconds", f"{seconds:.1f}"],
        ["largest difference of its latent, in standard deviations", off],
    ]


def _billions(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f}B parameters"


async def measure(folder: Path, args: argparse.Namespace, report: Report) -> None:
    began = time.perf_counter()
    model = WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=DTYPES[args.dtype])
    more = [[f"the transformer, {_billions(model)}, GB", f"{model.get_memory_footprint() / 1e9:.2f}"]]
    del model
    for part in (speed, same, decode):
        if part.__name__ in args.parts:
            await part(folder, args, report)
            freed()
    if "generic" in args.parts:
        await generic(folder.parent, args, report)
        freed()
        freed()
    if "compile" in args.parts:
        more += await compiled(folder, args)
    more.append(["this benchmark, minutes", f"{(time.perf_counter() - began) / 60:.1f}"])
    report.table("more", "what | figure", more)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=6, help="of a rollout")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of timings")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    for name, value in {"height": 480, "width": 832, "frames": 33, "tokens": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    wide = {"layers": 30, "heads": 12, "ffn": 8960, "text-width": 4096, "vae-width": 96}
    for name, value in (wide | {"ltx-layers": 28, "ltx-heads": 32}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--ltx-size", type=int, nargs=3, default=[480, 704, 121], help="height, width, frames")
    json_option(parser)
    return parser.parse_args(arguments)


def main() -> None:
    args = parsed()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(saved(Path(scratch) / "wan", args), args, Report(args.json)))


if __name__ == "__main__":
    main()
