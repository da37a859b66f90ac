"""What must hold for a pipeline to be searched, measured on the pipeline itself.

Whole: a run in one leg is bit for bit the pipeline's own call. Legs: so is a run that stops at every step, is packed,
and goes on in another worker. Frames: those that a decoder makes are the pipeline's. x0: an oracle's prediction, from
known x0 and noise, is that x0. Batch: runs that join at different steps are those of each alone, nearly. NFE: legs cost
what a whole run costs, and a look at an x0 prediction is paid once.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from actors.models.pipelines.call import NONE, arguments
from actors.models.pipelines.estimate import x0_estimate
from actors.models.pipelines.parts import pipeline
from actors.models.pipelines.probe import Probe, Trajectory, hollow
from actors.models.pipelines.run import Tree
from actors.models.pipelines.runs import RunLeg, Runs, alpha
from actors.models.pipelines.state import Conditions, PipelineState
from actors.models.pipelines.workers import Conditioner, Decoder, eight_bits
from actors.models.source import Source
from raysearch.engine.protocol import Denoise, Start
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.origins import Noise

SEED = 1
CAPTIONS = ("a red square moving left", "two blue dogs", "a very long caption about nothing")


@dataclass(frozen=True)
class Found:
    """What a pipeline was found to do. `x0` and `batch` are largest differences, in standard deviations."""

    whole: bool
    legs: bool
    frames: bool
    x0: float
    batch: float
    nfe: bool

    @property
    def holds(self) -> bool:
        """True if the pipeline can be searched."""
        return all(astuple(self)[i] for i in (0, 1, 2, 5)) and max(self.x0, self.batch) <= 1e-4


@torch.no_grad()
def measured(source: Source, sampler: Sampler, pictures: Mapping[str, Image] = NONE) -> Found:
    """The contract, measured with a sampler of at least four steps; `pictures` are given frames, by argument."""
    conditioner, runs, decoder = Conditioner(source), Runs(source), Decoder(source)
    conditions = [conditioner(sampler, c, pictures) for c in CAPTIONS]
    n, middle = sampler.num_steps, sampler.num_steps // 2
    whole = _ended(runs, _admitted(runs, conditions[0], n))
    legs: list[PipelineState] = []
    spent = 0
    for stop in range(n + 1):  # a look at every second stop
        base = legs[-1] if legs else None
        leg = _ended(runs, _admitted(runs, conditions[0], stop, base, look=stop % 2 == 0))
        spent += leg.nfe
        legs.append(leg.to_state())
    state = legs[-1]
    frames = decoder.frames(state, conditions[0])
    decoder.frames(legs[middle - middle % 2], conditions[0])  # an x0 prediction can be decoded, too
    (ahead,) = _done(runs, [_admitted(runs, conditions[1], middle, seed=SEED + 1)])
    bases = (None, ahead, None)
    seeded = [(i, c, b) for i, (c, b) in enumerate(zip(conditions, bases, strict=True))]
    together = _done(runs, [_admitted(runs, c, n, b, seed=SEED + i) for i, c, b in seeded])
    alone = [_done(runs, [_admitted(runs, c, n, seed=SEED + i)])[0].latent for i, c, _ in seeded]
    del conditioner, runs, decoder
    own = pipeline(source, "whole")
    if hasattr(own, "guider"):
        own.guider.guidance_scale = sampler.guidance_scale
    call = arguments(type(own), sampler, CAPTIONS[0], pictures, decoded=True)
    expected = eight_bits(own(**call, generator=torch.Generator().manual_seed(SEED))[0])
    latent = own(**{**call, "output_type": "latent"}, generator=torch.Generator().manual_seed(SEED))[0]
    return Found(
        whole=torch.equal(whole.run.output[0], latent),
        legs=np.array_equal(whole.to_state().latent, state.latent),
        frames=np.array_equal(frames, expected),
        x0=oracle_error(source.folder, sampler, call),
        batch=max(float(np.abs(t.latent - a).max() / a.std()) for t, a in zip(together, alone, strict=True)),
        nfe=spent == whole.nfe,
    )


def _admitted(
    runs: Runs, of: Conditions, until: int, base: PipelineState | None = None, *, look: bool = False, seed: int = SEED
) -> RunLeg:
    """A leg from the state `base`, or from the noise of `seed`, that waits for its first forward."""
    start, step = (Start(Noise(seed, 0), seed), 0) if base is None else (None, base.step)
    request = Denoise(of.sampler, b"", step, until, look and until < of.sampler.num_steps, start)
    return runs.admit(request, {"text": of} if base is None else {"text": of, "base": base})


def _ended(runs: Runs, leg: RunLeg) -> RunLeg:
    """The same leg, at its end."""
    _done(runs, [leg])
    return leg


@torch.no_grad()
def _done(runs: Runs, legs: Sequence[RunLeg]) -> list[PipelineState]:
    while not all(leg.finished for leg in legs):
        runs.advance([leg for leg in legs if not leg.finished])
    return [leg.to_state() for leg in legs]


class Oracle(Probe):
    """A probe whose net knows x0 and the noise; `errors` are those of the x0 predictions."""

    def __init__(self, pipe: Any, call: dict[str, Any], guidance_scale: float, found: Trajectory) -> None:
        self.found, self.errors = found, list[float]()
        super().__init__(pipe, call, guidance_scale)

    def stepping(self, scheduler: Any, own: Callable[..., Tree], bound: inspect.BoundArguments) -> Tree:
        """Predict x0 from what the net would say of a sample made of known x0 and noise."""
        given, i = dict(bound.arguments), self.step
        if self._calls == 0 and i < self.found.num_steps:
            generator = torch.Generator().manual_seed(i)
            x0, noise = (torch.randn(given["sample"].shape, generator=generator) for _ in range(2))
            a, s = self.found.alphas[i], self.found.sigmas[i]
            kind = str(getattr(scheduler.config, "prediction_type", "velocity"))
            told = {"epsilon": noise, "v_prediction": a * noise - s * x0}.get(kind, noise - x0)
            if getattr(scheduler.config, "invert_sigmas", False):
                told = -told
            seen = inspect.signature(type(scheduler).step).bind(*bound.args, **bound.kwargs)
            seen.arguments.update(sample=a * x0 + s * noise, model_output=told)
            self.errors.append(float((x0_estimate(scheduler, seen) - x0).abs().max()))
        return super().stepping(scheduler, own, bound)


def oracle_error(folder: Path, sampler: Sampler, call: dict[str, Any]) -> float:
    """The largest error of the x0 predictions of an oracle, over the steps of a grid."""
    pipe = hollow(folder)
    alphas = tuple(alpha(sampler.path, s) for s in sampler.sigmas)
    found = Trajectory(alphas, sampler.sigmas, (1,) * sampler.num_steps, sampler.stochastic, ())
    return max(Oracle(pipe, {**call, "output_type": "latent"}, sampler.guidance_scale, found).errors)
