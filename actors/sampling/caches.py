"""What the slots of cached drafts have seen of their model, and the outputs that follow from it without an evaluation.

`raysearch.config.step_cache` says which papers the formulas are of. Each slot has a memory of its own, so a draft's
decisions do not depend on what is denoised beside it. All tensors are of any one shape, but for those of `Taylor`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, factorial

import torch

from raysearch.config import step_cache


@dataclass
class Easy:
    """EasyCache: decides by the conditional output, as published, and gives the guided one."""

    cache: step_cache.Easy
    num_steps: int
    _decided: int = -1  # the step at which an evaluation is awaited
    _before: torch.Tensor | None = None  # the input of the step before
    _input: torch.Tensor | None = None  # that of the last evaluation, and its outputs
    _output: torch.Tensor | None = None
    _added: torch.Tensor | None = None
    _k: float | None = None
    _sum: float = 0.0

    def known(self, step: int, x: torch.Tensor) -> torch.Tensor | None:
        """The output for the input `x` at a step; None if the model is to be evaluated."""
        if step == self._decided:
            return None
        before, self._before = self._before, x
        if ceil(self.cache.warmup * self.num_steps) <= step < self.num_steps - 1 and self._k is not None:
            assert before is not None and self._output is not None and self._added is not None
            self._sum += self._k * _mean(x - before) / max(_mean(self._output), 1e-30)
            if self._sum < self.cache.threshold:
                return (x + self._added).to(self._output.dtype)
        self._sum, self._decided = 0.0, step
        return None

    def see(self, step: int, x: torch.Tensor, conditional: torch.Tensor, guided: torch.Tensor) -> None:
        """Take the outputs of an evaluation."""
        if self._input is not None and self._output is not None:
            self._k = _mean(conditional - self._output) / max(_mean(x - self._input), 1e-30)
        self._input, self._output, self._added = x, conditional, guided - x


@dataclass
class Taylor:
    """TaylorSeer: a Taylor expansion, in steps, of several outputs at once; guidance is linear in them."""

    cache: step_cache.Taylor
    _at: int = 0  # the step of the last evaluation
    _factors: list[list[torch.Tensor]] = field(default_factory=list)  # by output: it, and its derivatives

    def known(self, step: int) -> list[torch.Tensor] | None:
        """The outputs at a step; None if the model is to be evaluated."""
        if self.cache.evaluates(step):
            return None
        n = step - self._at
        return [sum(f * (n**i / factorial(i)) for i, f in enumerate(of)) for of in self._factors]  # type: ignore[misc]

    def see(self, step: int, outputs: Sequence[torch.Tensor]) -> None:
        """Take the outputs of an evaluation."""
        made = []
        for before, output in zip(self._factors or [[]] * len(outputs), outputs, strict=True):
            now = [output]
            for derivative in before[: self.cache.order]:
                now.append((now[-1] - derivative) / (step - self._at))
            made.append(now)
        self._factors, self._at = made, step


@dataclass
class Blocks:
    """First Block Cache of one half of guidance and one net: residuals (L, D) at the last whole evaluation."""

    threshold: float
    first: torch.Tensor | None = None  # what the first block added
    others: torch.Tensor | None = None  # what the other blocks added
    saved: Fraction = Fraction(0)  # evaluations

    def hits(self, first: torch.Tensor) -> bool:
        """True if the first block added nearly what it had added at the last whole evaluation."""
        if self.first is None or self.others is None:
            return False
        return bool((first - self.first).abs().mean() / self.first.abs().mean() <= self.threshold)


@dataclass
class FirstBlock:
    """The memories of First Block Cache of a slot, by the half of guidance and the number of the net."""

    cache: step_cache.FirstBlock
    of: dict[tuple[int, int], Blocks] = field(default_factory=dict)

    def half(self, half: int, net: int) -> Blocks:
        """The memory of one half, 0 for the conditional one, and one net."""
        return self.of.setdefault((half, net), Blocks(self.cache.threshold))

    @property
    def saved(self) -> Fraction:
        """The evaluations that were left out, in shares of their blocks."""
        return sum((m.saved for m in self.of.values()), Fraction(0))


def _mean(x: torch.Tensor) -> float:
    """The mean of absolute values."""
    return float(x.abs().mean())
