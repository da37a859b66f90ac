"""What `raysearch check` prints of a pipeline: whether it can be searched, what was found, a config to start from."""

from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf

from actors.models.admission import admit
from actors.models.pipelines import Geometry
from actors.models.pipelines.contract import Found, measured
from actors.models.roles import WORKERS, footprint, worded
from actors.models.source import located, opened
from raysearch.errors import check
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import canonical_json

FEW = 9  # frames of a small video
SAYS = {
    "whole": "a run in one leg is bit for bit the pipeline's own call",
    "legs": "so is a run that stops at every step and goes on",
    "frames": "the decoded frames are the pipeline's",
    "x0": "largest error of an x0 prediction whose x0 is known",
    "batch": "largest difference of runs in one batch from each alone",
    "nfe": "legs cost what a whole run costs",
}


def report(
    path: str,
    *,
    device: str,
    dtype: str,
    size: dict[str, int],
    num_frames: int | None,
    num_steps: int,
    call: dict[str, Any],
) -> tuple[str, bool]:
    """The text, and whether the pipeline can be searched. Raises ConfigError.

    What `settled.check_request` checks was checked before. `size` has `height` and `width`; `num_frames` None takes a
    few; `call` are more arguments of the pipeline's call.
    """
    check(device == "cpu" or torch.cuda.is_available(), "--device", device, "cpu: torch sees no GPU here")
    source = replace(opened(located(path, "MODEL", dtype=dtype, own=True), "MODEL"), device=device)
    geometry = Geometry.of(source.folder)
    size = {**size, "num_frames": (1 if geometry.still else FEW) if num_frames is None else num_frames}
    geometry.check(**size)
    given: dict[str, Any] = {"call": canonical_json(call), **size}
    scale = geometry.guidance_scale
    asked = Sampler(b"", "own", num_steps, (1.0,) * num_steps + (0.0,), scale, **given)
    found, sampler = geometry.trajectory(asked), geometry.planned(asked)
    holds = measured(source, sampler, geometry.blank(sampler))
    if holds.holds:
        admit(source.folder, "MODEL")
    kind = "stochastic" if found.stochastic else "deterministic"
    lines = [
        f"# {geometry.name}, {size['num_frames']} x {size['height']} x {size['width']}, {num_steps} steps, {dtype} on "
        f"{device}",
        *table(holds),
        f"# {found.nfe_per_step} NFE a step; the scheduler is {kind}; noise levels {found.sigmas[0]:.3g} to "
        f"{found.sigmas[-2]:.3g} ({found.path}); a latent has shape {found.latent_shape}",
        *(f"# {kind}: {worded(footprint(source, role))}" for kind, role in WORKERS.items()),
        "# it can be searched. A config to start from: set your size and steps, and write the reward"
        if holds.holds
        else "# it can not be searched",
    ]
    gpus = {"num_gpus": 1 if device == "cuda" else 0}
    start: dict[str, Any] = {
        "model": {"path": path, "dtype": dtype, **size},
        "sampler": {"name": "own", "num_steps": num_steps, "guidance_scale": scale, "call": call},
        "policy": {"name": "best_of_n", "n": 4},
        "rewards": {"search": {"name": "my_module:MyReward"}},
        "prompts": ["a cat"] if geometry.images == "refused" else None,
        "prompts_file": None if geometry.images == "refused" else "prompts.jsonl",
        "fleet": {kind: dict(gpus) for kind in ("denoisers", "scorers", "encoders")},
    }
    config = OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in start.items() if v is not None}))
    return "\n".join(lines) + "\n" + (config if holds.holds else ""), holds.holds


def table(found: Found) -> list[str]:
    """A line for each thing that must hold."""
    values = {k: getattr(found, k) for k in SAYS}
    shown = {k: ("yes" if v else "NO") if isinstance(v, bool) else f"{v:.1e}" for k, v in values.items()}
    return [f"#   {shown[k]:>8}  {text}" for k, text in SAYS.items()]
