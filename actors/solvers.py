"""diffusers' schedulers as functions of (state, velocity, latent): capture, restore, step, and the forward kernel.

One scheduler object serves any number of interleaved candidates. What changes between its steps is captured into a
plain dict and put back; the multistep history thus belongs to the candidate, not to the object.
"""

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

State: TypeAlias = dict[str, Any]

# Everything that the supported schedulers change in step(), UniPC, DPM++ and Euler together.
CHANGING = ("_step_index", "model_outputs", "timestep_list", "last_sample", "lower_order_nums", "this_order")


def scheduler(config: dict[str, Any], name: str, flow_shift: float | None) -> Any:
    """A diffusers scheduler by our name for it; `config` is that of the model's own scheduler."""
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    shift = float(flow_shift if flow_shift is not None else config.get("flow_shift", config.get("shift", 1.0)))
    train = config.get("num_train_timesteps", 1000)
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=train, shift=shift)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    if name == "unipc":
        own = config if config.get("use_flow_sigmas") and "solver_type" in config and "solver_p" in config else {}
        return UniPCMultistepScheduler.from_config({**own, "num_train_timesteps": train, **flow})
    if name == "dpm++":
        return DPMSolverMultistepScheduler(num_train_timesteps=train, algorithm_type="dpmsolver++", **flow)
    raise ValueError(f"unknown sampler {name!r}")


def scheduler_config(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    return config


class Solver:
    """One grid of one scheduler. Steps are indices into the grid, never timestep values."""

    def __init__(self, scheduler: Any, num_steps: int, device: str = "cpu") -> None:
        scheduler.set_timesteps(num_steps, device=device)
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
        """Fresh state at a step: no history, as a scheduler that begins there."""
        return {k: list(v) if isinstance(v, list) else v for k, v in self._blank.items()} | {"_step_index": step}

    def step(self, state: State, velocity: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, State]:
        """One solver step from `state`, which is left as it was."""
        for k, v in state.items():
            setattr(self._scheduler, k, list(v) if isinstance(v, list) else v)
        timestep = self.timesteps[state["_step_index"]]
        latent = self._scheduler.step(velocity, timestep, latent, return_dict=False)[0]
        return latent, self._capture()

    def renoise(self, latent: torch.Tensor, step: int, to_step: int, noise: torch.Tensor) -> torch.Tensor:
        """The forward kernel from the level of `step` up to that of `to_step`, for flow schedules."""
        s, s_to = self.sigmas[step].double(), self.sigmas[to_step].double()
        ratio = (1 - s_to) / (1 - s) if s < 1 else torch.ones((), dtype=torch.float64)
        spread = (s_to.square() - (ratio * s).square()).clamp(min=0).sqrt()
        return (ratio * latent.double() + spread * noise.double()).float()

    def _capture(self) -> State:
        found = {k: getattr(self._scheduler, k) for k in CHANGING if hasattr(self._scheduler, k)}
        return {k: list(v) if isinstance(v, list) else v for k, v in found.items()}


def pack(state: State) -> State:
    """Tensors to contiguous numpy, for the object store."""
    return {k: [_packed(i) for i in v] if isinstance(v, list) else _packed(v) for k, v in state.items()}


def unpack(state: State, device: str) -> State:
    return {
        k: [_unpacked(i, device) for i in v] if isinstance(v, list) else _unpacked(v, device) for k, v in state.items()
    }


def _packed(value: Any) -> Any:
    return np.ascontiguousarray(value.detach().cpu().numpy()) if isinstance(value, torch.Tensor) else value


def _unpacked(value: Any, device: str) -> Any:
    # Arrays from the object store are read-only; torch warns of that, so it gets a copy.
    return torch.tensor(value, device=device) if isinstance(value, np.ndarray) else value
