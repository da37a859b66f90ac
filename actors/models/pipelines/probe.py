"""What is known of a pipeline's trajectories without any weights: steps, noise levels, evaluations, shapes.

The pipeline's own loop is run once with parts that have shapes but no values. Text encoders and autoencoders compute on
torch's meta device, and what they return is replaced by zeros; denoising nets are answered with zeros, and schedulers
step from them. So the grid of noise levels is the one that the pipeline makes, whatever it depends on.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from actors.models.pipelines import batch
from actors.models.pipelines.parts import pipeline
from actors.models.pipelines.run import Forward, Run, Tree
from actors.models.pipelines.shell import shell
from actors.models.pipelines.standin import StandIn
from actors.models.source import Source
from raysearch.config.parts import DENOISING

TOLERANCE = 1e-3  # of a noise level
FOREVER = 1 << 30  # a step that no pipeline reaches


@dataclass(frozen=True)
class Trajectory:
    """A pipeline's grid, from noise to clean: `alphas` and `sigmas` with an entry more than steps.

    A noisy latent at step i is alphas[i] x0 + sigmas[i] noise. `nfe` are the evaluations of each step, where both
    halves of guidance count. `latent_shape` is that of the first latent that a scheduler steps.
    """

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    nfe: tuple[int, ...]
    stochastic: bool
    latent_shape: tuple[int, ...]

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        return len(self.nfe)

    @property
    def nfe_per_step(self) -> int:
        """The evaluations of a step, rounded up where steps differ."""
        return -(-sum(self.nfe) // len(self.nfe))

    @property
    def path(self) -> str:
        """How alpha follows from sigma: "flow" (1 - sigma), "vp" (sqrt(1 - sigma^2)) or "ve" (1)."""
        levels = list(zip(self.alphas, self.sigmas, strict=True))
        if all(abs(a - 1) < TOLERANCE for a, _ in levels):
            return "ve"
        return "flow" if all(abs(a + s - 1) < TOLERANCE for a, s in levels) else "vp"


class Hollow(StandIn):
    """A part on the meta device: a call computes shapes, and returns zeros of these shapes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros of the shapes that the part would return."""
        return shaped(self._part)(*args, **kwargs)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros of the shapes that the part would encode to."""
        return shaped(self._part.encode)(*args, **kwargs)


def shaped(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """A function, or a part, that computes on the meta device and returns zeros."""

    def call(*args: Any, **kwargs: Any) -> Tree:
        signature = inspect.signature(getattr(function, "forward", function))
        given = signature.bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        mask = signature.parameters.get("attention_mask")
        if mask is None or mask.default is not inspect.Parameter.empty:
            given.pop("attention_mask", None)  # its values decide how attention computes, and not what shape it has
        found = function(**tree_map(lambda v: v.to("meta") if isinstance(v, torch.Tensor) else v, given))
        if hasattr(found, "latent_dist"):  # no output that pytree knows
            for name in ("parameters", "mean", "logvar", "std", "var"):
                setattr(found.latent_dist, name, _zeros(getattr(found.latent_dist, name)))
            return found
        return tree_map(_zeros, found)

    return call


def _zeros(value: Any) -> Any:
    hollow = isinstance(value, torch.Tensor) and value.device.type == "meta"
    return torch.zeros(value.shape, dtype=value.dtype) if hollow else value


class Probe(Run):
    """A run to the end of the pipeline `pipe`, which is `hollow`, that evaluates nothing and counts."""

    def __init__(self, pipe: Any, call: dict[str, Any], guidance_scale: float) -> None:
        self._pipe = pipe
        self._nfe: list[int] = []
        self._levels: list[tuple[float, float]] = []
        self._shape: tuple[int, ...] = ()
        self._drawn = False
        generator = torch.Generator().manual_seed(0)
        super().__init__(partial(shell, pipe, guidance_scale), call, until=FOREVER, generator=generator)

    @property
    def trajectory(self) -> Trajectory:
        """The grid that the pipeline has gone along."""
        alphas, sigmas = zip(*self._levels, strict=True)
        return Trajectory((*alphas, 1.0), (*sigmas, 0.0), tuple(self._nfe), self._drawn, self._shape)

    def forward(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        """Zeros of the shape that the net would answer with, or of that of its first argument."""
        self._begin()
        if len(self._nfe) == self.step:
            self._nfe.append(0)
        waiting = Forward(part, args, kwargs)
        self._nfe[-1] += batch.rows(waiting)
        try:
            return shaped(getattr(self._pipe, part))(*args, **kwargs)
        except Exception:  # some nets cannot compute shapes alone
            return (tree_map(torch.zeros_like, batch.first(waiting)),)

    def stepping(self, scheduler: Any, own: Callable[..., Tree], bound: inspect.BoundArguments) -> Tree:
        """What the scheduler makes of an output of zeros."""
        self._calls, self._stepped = self._calls + 1, True
        given = bound.arguments
        if self._calls == 1:
            self._levels.append(level(scheduler, self.step, given["timestep"]))
            self._shape = self._shape or tuple(given["sample"].shape)
        before = self.generator.get_state()
        given["model_output"] = torch.zeros_like(given["sample"])  # of the right shape, even where the net's is not
        result = own(*bound.args[1:], **bound.kwargs)
        self._drawn |= not torch.equal(before, self.generator.get_state())
        return result


def level(scheduler: Any, step: int, timestep: Any) -> tuple[float, float]:
    """alpha and sigma at a step: what the scheduler makes of a clean one and of a noise of one."""
    if getattr(scheduler.config, "invert_sigmas", False):
        alpha = float(scheduler.sigmas[step])
        return alpha, 1 - alpha
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    twin, t = copy.copy(scheduler), torch.as_tensor(timestep).reshape(-1)[:1]
    if hasattr(twin, "set_begin_index"):
        twin.set_begin_index(step)
        twin._step_index = step
    if hasattr(twin, "scale_noise"):
        return float(twin.scale_noise(one, t, zero)), float(twin.scale_noise(zero, t, one))
    return float(twin.add_noise(one, zero, t)), float(twin.add_noise(zero, one, t))


def hollow(folder: Path) -> Any:
    """The pipeline of a folder, all of whose parts are on the meta device."""
    pipe = pipeline(Source(folder), "none")
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and not name.startswith(DENOISING):
            setattr(pipe, name, Hollow(part))
    return pipe


def trajectory(folder: Path, call: dict[str, Any], guidance_scale: float) -> Trajectory:
    """The grid of a call of the pipeline in a folder."""
    return Probe(hollow(folder), call, guidance_scale).trajectory
