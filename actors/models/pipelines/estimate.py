"""The x0 prediction that a diffusers scheduler makes of a model's output."""

import copy
import inspect
from typing import Any

import torch


def x0_estimate(scheduler: Any, bound: inspect.BoundArguments) -> torch.Tensor:
    """x0 as predicted from the arguments of a call of `scheduler.step`, of the shape of the sample."""
    given = bound.arguments
    output, sample, timestep = given["model_output"], given["sample"], given["timestep"]
    if hasattr(scheduler, "convert_model_output"):
        twin = copy.copy(scheduler)
        if twin.step_index is None:
            twin._init_step_index(timestep)
        return twin.convert_model_output(output, sample=sample)
    if type(scheduler).__name__.endswith("FlowMatchEulerDiscreteScheduler"):
        i = scheduler.step_index if scheduler.step_index is not None else scheduler.index_for_timestep(timestep)
        sigma, last = scheduler.sigmas[i], scheduler.sigmas[-1]
        return sample.float() + (last - sigma) * output.float()
    twin = copy.deepcopy(scheduler)
    twin.__class__ = type(scheduler).__mro__[1] if hasattr(scheduler, "raysearch_run") else type(scheduler)
    taken = {k: v for k, v in given.items() if k not in ("self", "return_dict")}
    if "generator" in taken:
        taken["generator"] = torch.Generator().manual_seed(0)  # its noise is no part of x0
    found = twin.step(**taken, return_dict=True)
    return found[1] if isinstance(found, tuple) else found.pred_original_sample
