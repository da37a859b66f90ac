"""The arguments with which a pipeline is called for a recipe's sampler and a prompt."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import diffusers
from PIL.Image import Image

from raysearch.recipe.candidate import Sampler

NONE: Mapping[str, Image] = {}
FRAMES = ("num_frames", "frames")  # how pipelines call the number of frames


def accepted(kind: type) -> set[str]:
    """The names of the arguments that a pipeline's call takes."""
    return set(inspect.signature(kind.__call__).parameters)


def arguments(
    kind: type, sampler: Sampler, caption: str, pictures: Mapping[str, Image] = NONE, *, decoded: bool
) -> dict[str, Any]:
    """The arguments of a pipeline's call. What `sampler.call` says goes before what other keys of the config say.

    `pictures` are given frames, by argument. With `decoded` the pipeline makes frames, else a latent.
    """
    takes = accepted(kind)
    given: dict[str, Any] = {
        "prompt": caption,
        "negative_prompt": sampler.negative_prompt,
        "height": sampler.height,
        "width": sampler.width,
        "num_inference_steps": sampler.num_steps,
        "guidance_scale": sampler.guidance_scale,
        "guidance_scale_2": sampler.guidance_scale_2,
        "max_sequence_length": sampler.max_sequence_length,
        **dict.fromkeys(FRAMES, sampler.num_frames),
    }
    given = {k: v for k, v in given.items() if k in takes and v is not None} | dict(pictures)
    output = {"output_type": "np" if decoded else "latent", "return_dict": False}
    return given | json.loads(sampler.call or "{}") | output


def class_of(name: str) -> Any:
    """The pipeline class of this name in diffusers; None if there is none."""
    found = getattr(diffusers, name, None)
    return found if isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline) else None
