"""What the training scripts share: a restartable loop, and clips rendered afresh for every step.

Step k of a run with seed s sees the data of generator (s, k), so that a killed run goes on as if it had never stopped.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from actors.tiny import world


def clips(
    rng: np.random.Generator, n: int, *, frames: int = world.FRAMES, two: float = 0.7
) -> tuple[list[str], torch.Tensor]:
    """`n` captions and their clips as float32 (n, 3, frames, size, size) in [-1, 1]."""
    scenes = [world.place(world.training_objects(rng, two=two), rng, frames=frames) for _ in range(n)]
    pixels = np.stack([world.draw(s) for s in scenes])
    return [world.caption(s.objects) for s in scenes], to_model(pixels)


def to_model(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, frames, height, width, 3) -> float32 (n, 3, frames, height, width) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


def learning_rate(step: int, steps: int, *, peak: float, warm_up: int = 200) -> float:
    """Linear warm-up, then a half cosine down to a fiftieth of `peak`."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(steps - warm_up, 1)
    return peak * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(progress, 1)))))


class Ema:
    """An exponential moving average of parameters; its horizon grows with the run up to 1 / (1 - decay) steps."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for k, v in module.state_dict().items():
            if v.is_floating_point():
                self.average[k].lerp_(v.detach(), 1 - decay)
            else:
                self.average[k].copy_(v)


def train(
    module: torch.nn.Module,
    loss: Callable[[int, np.random.Generator], tuple[torch.Tensor, dict[str, float]]],
    *,
    checkpoint: Path,
    steps: int,
    seed: int,
    peak: float,
    weight_decay: float = 0.0,
    ema: float = 0.999,
    save_every: int = 200,
) -> dict[str, torch.Tensor]:
    """Train `module` on `loss(step, rng)` and return its averaged weights; goes on from `checkpoint` if it exists."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=weight_decay)
    average = Ema(module, ema)
    start, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.average, start, spent = state["average"], state["step"], state["seconds"]
        print(f"goes on from step {start} of {steps}", flush=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    began, sums, seen = time.monotonic() - spent, {}, 0
    torch.set_flush_denormal(True)  # second moments of near-dead weights slow a CPU down otherwise
    module.train()
    for step in range(start, steps):
        torch.manual_seed(hash_of(seed, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=peak)
        value, parts = loss(step, np.random.default_rng([seed, step]))
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update(module, step)
        seen += 1
        for k, v in {"loss": value.item(), **parts}.items():
            sums[k] = sums.get(k, 0.0) + v
        if (step + 1) % 100 == 0:
            line = " ".join(f"{k} {v / seen:.5f}" for k, v in sums.items())
            print(f"step {step + 1}/{steps} {line} ({time.monotonic() - began:.0f} s)", flush=True)
            sums, seen = {}, 0
        if (step + 1) % save_every == 0 or step + 1 == steps:
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.average,
                    "step": step + 1,
                    "seconds": time.monotonic() - began,
                },
                partial,
            )
            partial.replace(checkpoint)
    return average.average


def hash_of(*numbers: int) -> int:
    """A seed for torch's generator that no other numbers, such as (seed, step), share."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
