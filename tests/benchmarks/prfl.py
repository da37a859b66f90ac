"""A step of PRFL against one of reward feedback on pixels: `python tests/benchmarks/prfl.py`.

RGB ReFL denoises without gradient to a late step, takes the x0 estimate there with gradient, decodes it with gradient,
and scores the frames with the learned pixel reward; PRFL is `raysearch prfl`'s own step. Both have the same batch,
guidance, checkpointing and optimizer. Each runs in a process of its own, in turns, so that its peak memory is its own.

Printed are seconds a step three times: with as many steps without gradient for both, half of the grid; the part with
gradient alone; and as published, where PRFL's m is uniform in [0, T - 2] and ReFL's in the last quarter of [0, T - 1],
made of the timings of both parts. Memory is the peak of the process, and what of it the steps themselves added; on a
GPU it is torch's.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import ROOT, SIZE, TINY, Report, json_option, spread
from torch.nn import functional as F

from actors.models import wan
from actors.models.source import Source
from actors.rewards import pavrm, pixel
from actors.training import prfl_config as configs
from actors.training.prfl import Conditions, Decodes, Prfl, hinge, rollout, velocity

KINDS = ("PRFL", "RGB ReFL")


class Refl(Prfl):
    """The same with a reward on decoded frames."""

    def load_reward(self):
        self.autoencoder = wan.Autoencoder(Source(self.folder, "float32", str(self.device)))
        self.autoencoder.vae.requires_grad_(False)
        self.reward = pixel.load(pixel.ASSETS).to(self.device)

    def rewards(self, x, state, m, given):
        c = self.reward.config
        v = velocity(self.trained, x, self.solver.timesteps[m], given, self.c.sampler)
        x0 = x - self.solver.sigmas[m].to(self.device) * v
        mean, inverse_std = self.autoencoder._statistics()
        frames = self.autoencoder.vae.decode(x0 / inverse_std + mean).sample
        if frames.shape[2:] != (c.frames, c.size, c.size):
            frames = F.interpolate(frames, (c.frames, c.size, c.size), mode="trilinear")
        words = torch.tensor([pixel.spell(t, c) for t in self.asked_texts], device=self.device)
        return self.reward(frames, words[:, None])[:, 0].sum(-1)


def peak(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def now(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(kind, config, steps):
    """Seconds of the part without and with gradient, medians over `steps`; peak memory before and after; decodes."""
    c = configs.load(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(c.workers.threads)
    torch.manual_seed(c.seed)
    p = (Prfl if kind == "PRFL" else Refl)(c, device)
    p.asked_texts = [p.captions[i % len(p.captions)] for i in range(c.batch)]
    negative = p.embed([""]).expand(c.batch, -1, -1) if c.sampler.guidance_scale > 1 else None
    given = Conditions(p.embed(p.asked_texts), negative, [None] * c.batch)
    optimizer = torch.optim.AdamW(p.net.parameters(), lr=c.learning_rate)
    m, before, timings = c.sampler.num_steps // 2, peak(device), []
    with Decodes() as decodes, p.precision():
        for _ in range(steps + 1):
            noise = torch.randn(c.batch, *p.shape).to(device)
            began = now(device)
            x, state = rollout(p.model, p.solver, noise, m, given, c.sampler)
            between = now(device)
            loss = hinge(p.rewards(x, state, m, given), target=100.0)  # never reached: the gradient is never 0
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(p.net.parameters(), c.max_grad_norm)
            optimizer.step()
            timings.append((between - began, now(device) - between))
    without, with_gradient = np.median(timings[1:], axis=0)
    return {
        "without": without,
        "with": with_gradient,
        "each": without / m,
        "peak": peak(device),
        "added": peak(device) - before,
        "decodes": decodes.n,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(TINY))
    parser.add_argument("--reward", help="a PAVRM's folder; otherwise an untrained one over six blocks")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=30, help="of the solver")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=2, help="of training, in a process, after one that does not count")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of processes")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "CONFIG"), help=argparse.SUPPRESS)
    json_option(parser)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]), args.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        reward = args.reward or f"{folder}/pavrm"
        if not args.reward:
            pavrm.save(pavrm.of_model(Path(args.model), blocks=6, heads=8), Path(reward))
        config = Path(folder) / "c.json"
        values = {
            "model": {"path": args.model, "dtype": args.dtype, **SIZE},
            "sampler": {"num_steps": args.num_steps, "guidance_scale": args.guidance},
            "reward": {"folder": reward},
            "prompts_file": str(ROOT / "configs" / "training_two.txt"),
            "flow_steps": 0,
            "batch": args.batch,
            "gradient_checkpointing": args.checkpointing,
        }
        config.write_text(json.dumps(values))
        found = {kind: [] for kind in KINDS}
        for i in range(args.repeats):
            for kind in KINDS[:: -1 if i % 2 else 1]:
                command = [sys.executable, __file__, "--one", kind, str(config), "--steps", str(args.steps)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    a, b = ({k: np.array([r[k] for r in found[kind]]) for k in found[kind][0]} for kind in KINDS)
    t = args.num_steps
    published = [(t - 2) / 2 * a["each"] + a["with"], (t - 1 + 3 * t / 4) / 2 * b["each"] + b["with"]]
    rows = [
        ("seconds a step, as many without gradient", a["without"] + a["with"], b["without"] + b["with"]),
        ("of these, with gradient", a["with"], b["with"]),
        ("seconds a step, as published", *published),
        ("peak memory, GB", a["peak"] / 1e9, b["peak"] / 1e9),
        ("of this, added by the steps, GB", a["added"] / 1e9, b["added"] / 1e9),
    ]
    head = f"median, least, most of {args.repeats} | {KINDS[0]} | {KINDS[1]} | ratio"
    Report(args.json).table("prfl", head, [(what, spread(x), spread(y), spread(x / y)) for what, x, y in rows])
    print(f"decodes: {int(a['decodes'].sum())} and {int(b['decodes'].sum())}")


if __name__ == "__main__":
    main()
