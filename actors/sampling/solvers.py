"""Solvers: diffusers' schedulers as functions of (state, velocity, latent, noise), the forward kernel, and SDE steps.

One scheduler object serves any number of interleaved candidates. The fields that a scheduler changes in a step are
captured into a plain dict and put back before the next, so the multistep history belongs to the candidate, not to the
object. Stochastic steps get their noise from the caller, who draws it from the recipe.

In all formulas s is the noise level sigma, alpha = 1 - s on a flow's path and sqrt(1 - s^2) on a variance-preserving
one, v the velocity with x0 = x - s v. Latents, velocities and noises are float32 (1, C, T, H, W).
"""

import json
from collections.abc import Callable, Sequence
from math import atan2, cos, pi, sin
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from raysearch.recipe.candidate import Sampler

State: TypeAlias = dict[str, Any]  # a solver's memory between steps: the step's index and the multistep history

# All fields that UniPC, DPM++ and Euler schedulers change in step().
CHANGING = ("_step_index", "model_outputs", "timestep_list", "last_sample", "lower_order_nums", "this_order")


def scheduler(config: dict[str, Any], name: str, flow_shift: float | None) -> Any:
    """The diffusers scheduler of a sampler's `name`; `config` is that of the model's own scheduler.

    `flow_shift` None takes the shift of that config. Raises ValueError for an unknown name.
    """
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    shifts = (flow_shift, config.get("flow_shift"), config.get("shift"), 1.0)
    shift = float(next(s for s in shifts if s is not None))
    train = config.get("num_train_timesteps", 1000)
    if name in ("euler", *EULER_MARUYAMA):
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=train, shift=shift)
    flow = {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "use_dynamic_shifting": False,
    }
    if name == "unipc":
        own = config if config.get("use_flow_sigmas") and "solver_type" in config and "solver_p" in config else {}
        return UniPCMultistepScheduler.from_config({**own, "num_train_timesteps": train, **flow})
    if name in ("dpm++", "sde-dpm++"):
        kind = "dpmsolver++" if name == "dpm++" else "sde-dpmsolver++"
        return DPMSolverMultistepScheduler(num_train_timesteps=train, algorithm_type=kind, **flow)
    raise ValueError(f"unknown sampler {name!r}")


def solver(config: dict[str, Any], sampler: Sampler, device: str = "cpu") -> "Solver":
    """The solver of a recipe's sampler for a model with this scheduler config; a queue has that of an ordinary clip."""
    sampler = sampler.whole
    if sampler.path == "vp":
        return Ddim(config, sampler.sigmas, device)
    if sampler.name == "lookahead":
        return Solver(FlowMatchEulerDiscreteScheduler(), sampler.num_steps, device, sampler.sigmas)
    if sampler.name == "inversion":
        return Inversion(sampler.sigmas, device)
    steps = scheduler(config, sampler.name, sampler.flow_shift)
    if sampler.name in EULER_MARUYAMA:
        assert sampler.eta is not None
        diffusion = EULER_MARUYAMA[sampler.name](sampler.eta)
        return EulerMaruyama(steps, sampler.num_steps, device, diffusion, vp=sampler.interpolant == "vp")
    return Solver(steps, sampler.num_steps, device)


def ddim(config: dict[str, Any]) -> DDIMScheduler:
    """diffusers' DDIM scheduler, with the noise schedule of a model's config or, if it has none, Stable Diffusion's."""
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    own = {k: v for k, v in config.items() if k in (*schedule, "num_train_timesteps", "trained_betas")}
    return DDIMScheduler.from_config(schedule | own | {"timestep_spacing": "trailing", "clip_sample": False})


def grid(config: dict[str, Any], name: str, flow_shift: float | None, num_steps: int) -> tuple[float, ...]:
    """The noise levels of a sampler's grid, num_steps + 1 of them, from noise down to 0."""
    if name != "ddim":
        return tuple(float(s) for s in Solver(scheduler(config, name, flow_shift), num_steps).sigmas)
    steps = ddim(config)
    steps.set_timesteps(num_steps)
    return *(float((1 - steps.alphas_cumprod[t].double()).sqrt()) for t in steps.timesteps), 0.0


def scheduler_config(folder: Path) -> dict[str, Any]:
    """The config of the scheduler in a model's folder; empty for a model without a scheduler."""
    path = folder / "scheduler" / "scheduler_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return config


class Solver:
    """One scheduler on one grid of `num_steps` steps, with the given `sigmas` (num_steps + 1) or its own.

    A step is an index into the grid, never a timestep's value. Raises ValueError for a scheduler that needs another
    number of evaluations.
    """

    def __init__(
        self, scheduler: Any, num_steps: int, device: str = "cpu", sigmas: Sequence[float] | None = None
    ) -> None:
        given = {} if sigmas is None else {"sigmas": list(sigmas[:-1])}  # the last one is 0
        scheduler.set_timesteps(num_steps, device=device, **given)
        self._scheduler = scheduler
        self._blank = self._capture()
        self.num_steps = num_steps
        self.timesteps: torch.Tensor = scheduler.timesteps
        self.sigmas: torch.Tensor = scheduler.sigmas
        if len(self.timesteps) != num_steps:
            raise ValueError(
                f"{type(scheduler).__name__} takes {len(self.timesteps)} evaluations for {num_steps} steps"
            )

    def start(self, step: int) -> State:
        """The state at a step without history, as if the solver began there."""
        return {k: list(v) if isinstance(v, list) else v for k, v in self._blank.items()} | {"_step_index": step}

    def step(
        self, state: State, velocity: torch.Tensor, latent: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """One solver step: the next latent and the next state; `state` is not changed.

        A stochastic solver needs `noise`, standard normal.
        """
        for k, v in state.items():
            setattr(self._scheduler, k, list(v) if isinstance(v, list) else v)
        timestep = self.timesteps[state["_step_index"]]
        drawn = {} if noise is None else {"variance_noise": noise}
        latent = self._scheduler.step(velocity, timestep, latent, return_dict=False, **drawn)[0]
        return latent.float(), self._capture()  # some schedulers round it to the velocity's dtype, as in a pipeline

    def alpha(self, sigma: torch.Tensor) -> torch.Tensor:
        """alpha of a noise level: the factor of x0 in a noisy latent."""
        return 1 - sigma

    def velocity(self, output: torch.Tensor, latent: torch.Tensor, step: int) -> torch.Tensor:
        """Convert model output to v such that x0 = x - sigma v; same shape as `latent`."""
        return output

    def renoise(self, latent: torch.Tensor, step: int, to_step: int, noise: torch.Tensor) -> torch.Tensor:
        """The forward kernel from the level s of `step` up to the level s' of `to_step`, of the shape of `latent`.

        x' = (a'/a) x + sqrt(s'^2 - (a'/a)^2 s^2) eps, where a is alpha and eps the standard normal `noise`.
        """
        s, s_to = self.sigmas[step].double(), self.sigmas[to_step].double()
        ratio = self.alpha(s_to) / self.alpha(s) if s < 1 else torch.ones((), dtype=torch.float64)
        return noised(latent, ratio, s, s_to, noise)

    def _capture(self) -> State:
        found = {k: getattr(self._scheduler, k) for k in CHANGING if hasattr(self._scheduler, k)}
        return {k: list(v) if isinstance(v, list) else v for k, v in found.items()}


class Inversion(Solver):
    """Euler steps of the ODE up a grid from clean to noise (DDIM inversion); `sigmas` are its levels, rising."""

    def __init__(self, sigmas: Sequence[float], device: str = "cpu") -> None:
        self.num_steps, self.sigmas = len(sigmas) - 1, torch.tensor(sigmas, device=device)
        self.timesteps = 1000 * self.sigmas[:-1]
        self._blank: State = {}

    def step(
        self, state: State, velocity: torch.Tensor, latent: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """The latent one level up the grid, and the next state."""
        i = state["_step_index"]
        s, s_next = self.sigmas[i : i + 2].double()
        return (latent.double() + (s_next - s) * velocity.double()).float(), {"_step_index": i + 1}


class Ddim(Solver):
    """Deterministic DDIM (2010.02502) along levels of a variance-preserving path, up or down.

    The timestep of a level is the one of the model's training whose level is nearest.
    """

    def __init__(self, config: dict[str, Any], sigmas: Sequence[float], device: str = "cpu") -> None:
        trained = (1 - ddim(config).alphas_cumprod.double()).sqrt()
        # A clean latent counts as one at the lowest trained level: at level 0 its noise is undefined.
        self._levels = torch.tensor(sigmas, dtype=torch.float64).clamp(min=float(trained[0]))
        self.num_steps, self.sigmas = len(sigmas) - 1, torch.tensor(sigmas, device=device)
        nearest = (trained[None] - self._levels[:-1, None]).abs().argmin(1)
        self.timesteps = nearest.to(device)
        self._blank: State = {}

    def alpha(self, sigma: torch.Tensor) -> torch.Tensor:
        """alpha of a noise level, sqrt(1 - sigma^2)."""
        return (1 - sigma.square()).sqrt()

    def velocity(self, output: torch.Tensor, latent: torch.Tensor, step: int) -> torch.Tensor:
        """Convert the predicted noise `output` to v such that x0 = x - sigma v; same shape as `latent`."""
        s = self._levels[step]
        x0 = (latent.double() - s * output.double()) / self.alpha(s)
        return ((latent.double() - x0) / s).float()

    def step(
        self, state: State, velocity: torch.Tensor, latent: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """alpha' x0 + s' eps at the next level s', with the predicted x0 and noise; and the next state."""
        i = state["_step_index"]
        s, s_next = self._levels[i], self.sigmas[i + 1].double()
        x0 = latent.double() - s * velocity.double()
        noisy = (latent.double() - self.alpha(s) * x0) / s
        return (self.alpha(s_next) * x0 + s_next * noisy).float(), {"_step_index": i + 1}


class EulerMaruyama(Solver):
    """Euler-Maruyama steps of the reverse SDE dx = (v - g^2/2 score) dt + g dw, which has the ODE's marginals.

    `diffusion` is g, and score = -(x + (1 - s) v) / s. With `vp`, steps follow the variance-preserving path
    cos(phi) x0 + sin(phi) eps with phi = pi r / 2 (Kim et al. 2503.19385): the linear path scaled by c = cos(phi) +
    sin(phi), with a time r such that tan(phi) = s / (1 - s). Latents between steps are on the linear path in either
    case. The last step is the ODE's, without noise.
    """

    def __init__(
        self, scheduler: Any, num_steps: int, device: str, diffusion: Callable[[float, float], float], *, vp: bool
    ) -> None:
        super().__init__(scheduler, num_steps, device)
        self._levels = [float(s) for s in self.sigmas.double()]
        self._diffusion, self._vp = diffusion, vp

    def step(
        self, state: State, velocity: torch.Tensor, latent: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """The next latent and state; every step but the last needs `noise`, standard normal."""
        i = state["_step_index"]
        s, s_next = self._levels[i : i + 2]
        x, v = latent.double(), velocity.double()
        if i == self.num_steps - 1:
            x = x + (s_next - s) * v
        else:
            assert noise is not None
            r, c, dc, ds = self._path(s)
            r_next, c_next, _, _ = self._path(s_next)
            g, h = self._diffusion(r, self._levels[1] if i == 0 else r), r - r_next
            score = -(x + (1 - s) * v) / (s * c)
            drift = dc * x + ds * c * v - 0.5 * g**2 * score
            x = (c * x - h * drift + g * h**0.5 * noise.double()) / c_next
        return x.float(), {**state, "_step_index": i + 1}

    def _path(self, s: float) -> tuple[float, float, float, float]:
        """At level s of the linear path: the time r, the scale c, dc/dr and ds/dr."""
        if not self._vp:
            return s, 1.0, 0.0, 1.0
        phi = atan2(s, 1 - s)
        c = cos(phi) + sin(phi)
        return 2 * phi / pi, c, pi / 2 * (cos(phi) - sin(phi)), pi / 2 / c**2


# The diffusion g(t, off) for a strength eta; `off` is the time t, but below 1, where flow-sde is singular.
EULER_MARUYAMA: dict[str, Callable[[float], Callable[[float, float], float]]] = {
    "flow-sde": lambda eta: lambda t, off: eta * (off / (1 - off)) ** 0.5,  # Flow-GRPO 2505.05470
    "score-sde": lambda eta: lambda t, off: eta * t**2,  # Kim et al. 2503.19385
}


def noised(
    latent: torch.Tensor, ratio: torch.Tensor, s: torch.Tensor, s_to: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """ratio x + sqrt(s'^2 - (ratio s)^2) eps: the forward kernel from level s to s', where `ratio` is a'/a; float32."""
    spread = (s_to.square() - (ratio * s).square()).clamp(min=0).sqrt()
    return (ratio * latent.double() + spread * noise.double()).float()


def neighbour(latent: torch.Tensor, cosine: float, noise: torch.Tensor) -> torch.Tensor:
    """A latent with the norm of `latent` and this cosine to it, turned towards `noise` (2501.09732); same shape."""
    x, w = latent.double(), noise.double()
    w = w - (w * x).sum() / x.square().sum() * x
    return (cosine * x + (1 - cosine**2) ** 0.5 * x.norm() / w.norm() * w).float()


def frequency_mix(latent: torch.Tensor, noise: torch.Tensor, cutoff: float, dims: int) -> torch.Tensor:
    """Low frequencies of `latent` with high ones of `noise` (FreeInit 2312.07537; ScalingNoise 2503.16400, Eq. 8).

    Both are (..., T, H, W), as is the result, float32. The low-pass filter is exp(-d^2 / (2 cutoff^2)), where d is the
    distance from frequency 0 and 1 the highest frequency of each axis: H and W (`dims` 2), or T as well (3).
    """
    if not cutoff:
        return noise
    axes = tuple(range(-dims, 0))
    d2 = torch.zeros((), dtype=torch.float64, device=noise.device)
    for axis in axes:
        f = 2 * torch.fft.fftfreq(noise.shape[axis], dtype=torch.float64, device=noise.device)
        d2 = d2 + f.square().view(-1, *(-axis - 1) * [1])
    low = torch.exp(-d2 / (2 * cutoff**2))
    mixed = torch.fft.fftn(latent.double(), dim=axes) * low + torch.fft.fftn(noise.double(), dim=axes) * (1 - low)
    return torch.fft.ifftn(mixed, dim=axes).real.float()


def pack(state: State) -> State:
    """A state with contiguous numpy arrays in place of tensors, for the object store."""
    return {k: [_packed(i) for i in v] if isinstance(v, list) else _packed(v) for k, v in state.items()}


def unpack(state: State, device: str) -> State:
    """A packed state with tensors on a device in place of arrays."""
    return {
        k: [_unpacked(i, device) for i in v] if isinstance(v, list) else _unpacked(v, device) for k, v in state.items()
    }


def _packed(value: Any) -> Any:
    return np.ascontiguousarray(value.detach().cpu().numpy()) if isinstance(value, torch.Tensor) else value


def _unpacked(value: Any, device: str) -> Any:
    # Arrays from the object store are read-only; torch warns of that, so it gets a copy.
    return torch.tensor(value, device=device) if isinstance(value, np.ndarray) else value
