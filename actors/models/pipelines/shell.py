"""A copy of a pipeline object for one run: it shares the parts, but its calls go through the run."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from actors.models.pipelines.run import Run
from actors.models.pipelines.standin import StandIn
from raysearch.config.parts import DENOISING


class Bar:
    """A progress bar that shows nothing."""

    def __init__(self, iterable: Any = ()) -> None:
        self._iterable = iterable

    def __iter__(self) -> Any:
        return iter(self._iterable)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Net(StandIn):
    """A denoising net whose calls go to a run."""

    def __init__(self, net: Any, name: str, run: Run) -> None:
        super().__init__(net)
        self._name, self._run = name, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The run's answer."""
        return self._run.forward(self._name, args, kwargs)


class Recorded(StandIn):
    """A part whose calls before the first forward are answered as an encoder answered them."""

    def __init__(self, part: Any, name: str, run: Run) -> None:
        super().__init__(part)
        self._name, self._run = name, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The run's answer."""
        return self._run.encode(self._name, functools.partial(self._part, *args, **kwargs))

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """The run's answer."""
        return self._run.encode(f"{self._name}.encode", functools.partial(self._part.encode, *args, **kwargs))


@functools.cache
def recording(kind: Any) -> type:
    """A subclass of a scheduler's class whose steps go through the scheduler's attribute `raysearch_run`."""
    signature = inspect.signature(kind.step)

    @functools.wraps(kind.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        return self.raysearch_run.stepping(self, functools.partial(kind.step, self), bound)

    return type(kind.__name__, (kind,), {"step": step, "__module__": kind.__module__})


@functools.cache
def driven(kind: Any) -> type:
    """A subclass of a pipeline's class whose calls go through the pipeline's attribute `raysearch_run`."""

    def through(name: str, method: str) -> Callable[..., Any]:
        own = getattr(kind, name)

        @functools.wraps(own)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            run = self.raysearch_run
            inner = functools.partial(own, self, *args, **kwargs)
            return run.prepared(inner) if method == "prepared" else run.encode(name, inner)

        return call

    changed = {
        "encode_prompt": through("encode_prompt", "encode"),
        "prepare_latents": through("prepare_latents", "prepared"),
        "progress_bar": lambda self, iterable=None, total=None: Bar(iterable),
        "maybe_free_model_hooks": lambda self: None,
        "_execution_device": property(lambda self: self.raysearch_run.device),
        "__module__": kind.__module__,
    }
    if hasattr(kind, "prepare_audio_latents"):
        changed["prepare_audio_latents"] = through("prepare_audio_latents", "prepared")
    return type(kind.__name__, (kind,), changed)


def shell(pipeline: Any, guidance_scale: float, run: Run) -> Any:
    """A pipeline object for one run, with the parts of `pipeline`; a guider, if it has one, has this scale."""
    kind: Any = type(pipeline)
    parts = {}
    for name, part in pipeline.components.items():
        if name.startswith(DENOISING) and isinstance(part, torch.nn.Module):
            part = Net(part, name, run)
        elif isinstance(part, torch.nn.Module):
            part = Recorded(part, name, run)
        elif hasattr(part, "set_timesteps"):
            part = copy.deepcopy(part)
            part.__class__ = recording(part.__class__)
            part.raysearch_run = run
        elif part is not None and not isinstance(part, torch.nn.Module) and hasattr(part, "prepare_models"):
            part = copy.deepcopy(part)  # a guider counts steps
            part.guidance_scale = guidance_scale
        parts[name] = part
    options = {
        k: pipeline.config[k]
        for k in inspect.signature(kind.__init__).parameters
        if k in pipeline.config and k not in parts and not k.startswith("_")
    }
    made = driven(kind)(**parts, **options)
    made.raysearch_run = run
    return made
