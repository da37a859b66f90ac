"""The encoder's and the scorer's side of a pipeline."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from actors.models.pipelines.call import NONE, arguments
from actors.models.pipelines.parts import pipeline
from actors.models.pipelines.run import Run
from actors.models.pipelines.shell import shell
from actors.models.pipelines.state import Conditions, PipelineState, pack, unpack
from actors.models.source import Source
from raysearch.recipe.candidate import Sampler


class Conditioner:
    """The encoders of a pipeline."""

    def __init__(self, source: Source) -> None:
        self._pipeline = pipeline(source, "encoder")
        self._device = source.device

    @torch.no_grad()
    def __call__(self, sampler: Sampler, caption: str, pictures: Mapping[str, Image] = NONE) -> Conditions:
        """What a run of the pipeline is conditioned on; `pictures` are given frames, by the names of arguments."""
        call = arguments(type(self._pipeline), sampler, caption, pictures, decoded=False)
        generator = torch.Generator().manual_seed(0)
        run = Run(
            partial(shell, self._pipeline, sampler.guidance_scale),
            call,
            until=0,
            generator=generator,
            device=self._device,
        )
        return Conditions(sampler, caption, pack(run.recorded), dict(pictures))


class Decoder:
    """The autoencoder of a pipeline."""

    def __init__(self, source: Source) -> None:
        self._pipeline = pipeline(source, "decoder")
        self._device = source.device

    @torch.no_grad()
    def frames(self, state: PipelineState, conditions: Conditions) -> np.ndarray:
        """The frames, uint8 (T, H, W, 3), of a finished state, or of the x0 prediction of another."""
        point, sampler = state.point(self._device), conditions.sampler
        if point.step < sampler.num_steps:
            point = point.ended(sampler.num_steps)
        call = arguments(type(self._pipeline), sampler, conditions.caption, conditions.pictures, decoded=True)
        run = Run(
            partial(shell, self._pipeline, sampler.guidance_scale),
            call,
            until=sampler.num_steps,
            generator=torch.Generator(),
            encoded=unpack(conditions.encoded, self._device),
            base=point,
            device=self._device,
        )
        return eight_bits(run.output[0])


def eight_bits(made: Any) -> np.ndarray:
    """Frames, uint8 (T, H, W, 3), of what a pipeline returns as numpy: videos (1, T, H, W, 3), images (1, H, W, 3)."""
    video = np.asarray(made)
    video = video[0] if video.ndim == 5 else video
    if not np.isfinite(video).all():
        raise FloatingPointError("the decoded frames are not finite")
    return (video * 255).round().clip(0, 255).astype(np.uint8)
