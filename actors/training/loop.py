"""The loop of every training: AdamW, a learning rate that rises and falls, and a moving average of the weights.

Step k of a training with seed s draws the same random numbers however often the training was stopped before, and its
caller gives it the same batch. So a training that goes on from its state ends as if it had never been stopped. The loop
knows nothing of Ray, of datasets or of what is trained.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from actors.training.config import Schedule
from raysearch.errors import ConfigError

PRINT_EVERY = 100  # steps


class Means:
    """Means of the values that were added under each name."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        """Add one value under each name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        """The mean under each name, in the order in which the names came."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def clear(self) -> None:
        """Forget all values."""
        self._sums.clear()
        self._counts.clear()


Loss = Callable[[int, Any, Means], torch.Tensor]
"""`loss(step, batch, means)` returns the scalar to minimise, and adds to `means` the values to report."""


class Training:
    """A net in training with its optimizer, its averaged weights, and how many steps are done.

    Parameters that are frozen when it is made stay as they are, and are not in its state. `means` holds the values of
    the losses until its owner clears them. `rank` tells the random numbers of several workers apart.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, *, rank: int = 0, max_grad_norm: float = 1.0) -> None:
        self.net, self.schedule, self.means, self.step = net, schedule, Means(), 0
        self._rank, self._max_grad_norm, self._began = rank, max_grad_norm, time.monotonic()
        self._learnt = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self._parameters = list(self._learnt.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
        )
        # Its decay rises with the steps k, (1 + k) / (10 + k), up to `ema`.
        self._average = EMAModel(self._parameters, decay=schedule.ema, foreach=True) if schedule.ema else None

    @property
    def seconds(self) -> float:
        """Seconds since the training began, without the time between being stopped and going on."""
        return time.monotonic() - self._began

    def state(self) -> dict[str, Any]:
        """Everything that `resume` needs, for torch.save; its tensors are those of the net, not copies."""
        return {
            "net": self._learnt,
            "optimizer": self._optimizer.state_dict(),
            "moving_average": self._average.state_dict() if self._average else None,
            "step": self.step,
            "seconds": self.seconds,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the state of an earlier process. Raises ConfigError for one of an earlier version."""
        if "moving_average" not in state:
            raise ConfigError("the checkpoint is of an earlier version of raysearch; begin anew in another folder")
        self.net.load_state_dict(state["net"], strict=False)  # frozen parameters are not in the state
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average:
            self._average.load_state_dict(state["moving_average"])
        self.step, self._began = state["step"], time.monotonic() - state["seconds"]

    def run(self, loss: Loss, batches: Iterable[Any]) -> Iterator[float]:
        """Take the steps that are left; after each, yield the norm of its gradient before clipping.

        `batches` begins with the batch of step `self.step`. Raises FloatingPointError where a loss is not finite.
        """
        torch.set_flush_denormal(True)  # second moments of near-dead weights slow a CPU down otherwise
        try:
            self.net.train()
            for step, batch in zip(range(self.step, self.schedule.steps), batches, strict=False):
                torch.manual_seed(seed_of(self.schedule.seed, step, self._rank))
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate(step, self.schedule)
                value = loss(step, batch, self.means)
                if not torch.isfinite(value):
                    raise FloatingPointError(f"the loss is {value.item()} at step {step}")
                self._optimizer.zero_grad(set_to_none=True)
                value.backward()
                norm = nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
                self._optimizer.step()
                if self._average:
                    self._average.step(self._parameters)
                self.step = step + 1
                yield norm.item()
        finally:
            torch.set_flush_denormal(False)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the net has its averaged weights and is in evaluation mode."""
        if self._average:
            self._average.store(self._parameters)
        self.finish()
        try:
            yield
        finally:
            if self._average:
                self._average.restore(self._parameters)
            self.net.train()

    def finish(self) -> None:
        """Leave the averaged weights in the net for good, in evaluation mode; without an average, the last weights."""
        if self._average:
            self._average.copy_to(self._parameters)
        self.net.eval()


def learning_rate(step: int, schedule: Schedule) -> float:
    """The learning rate of a step: a linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < schedule.warm_up:
        return schedule.learning_rate * (step + 1) / schedule.warm_up
    progress = (step - schedule.warm_up) / max(schedule.steps - schedule.warm_up, 1)
    return schedule.learning_rate * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(progress, 1)))))


def seed_of(*numbers: int) -> int:
    """A seed for torch's generator that no other numbers, such as (seed, step, rank), share."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def train(net: nn.Module, loss: Loss, schedule: Schedule, *, checkpoint: Path) -> None:
    """Train in this process alone, printing the means of the losses; leaves the averaged weights in `net`.

    The batch of step k is numpy's generator of (seed, k). The state is kept in `checkpoint` every `schedule.every`
    steps; where that file exists, the training goes on from it. Raises what `Training` raises.
    """
    training = Training(net, schedule)
    if checkpoint.exists():
        training.resume(torch.load(checkpoint, weights_only=True))
        print(f"goes on from step {training.step} of {schedule.steps}", flush=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    batches = (np.random.default_rng([schedule.seed, step]) for step in count(training.step))
    for _ in training.run(loss, batches):
        done = training.step
        if done % PRINT_EVERY == 0:
            values = " ".join(f"{name} {value:.5f}" for name, value in training.means.values().items())
            print(f"step {done}/{schedule.steps} {values} ({training.seconds:.0f} s)", flush=True)
            training.means.clear()
        if done % schedule.every == 0 or done == schedule.steps:
            partial = checkpoint.with_suffix(".partial")
            torch.save(training.state(), partial)
            partial.replace(checkpoint)
    training.finish()
