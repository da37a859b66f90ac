"""The parts of a pipeline on one worker: those of its role with their weights, the others as ghosts.

A denoiser has the denoising nets, a decoder the autoencoders and the vocoder, and an encoder all others. An encoder's
autoencoder is loaded when the pipeline first encodes with it, since most pipelines without a picture never do. A ghost
has the config, the dtype and the buffers of a part, and parameters without values: a pipeline can ask it for
sizes, but whoever computes with it gets an error of torch.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights

from actors.models import folder as folders
from actors.models.folder import Part
from actors.models.pipelines.call import class_of
from actors.models.pipelines.standin import StandIn
from actors.models.roles import DECODING, Role, is_of
from actors.models.source import Source
from actors.models.weights import DTYPES, pretrained


def pipeline(source: Source, role: Role) -> Any:
    """The pipeline object of a model's folder, with the real parts of a role."""
    index, parts = folders.index(source.folder), folders.parts(source.folder)
    given: dict[str, Any] = {}
    for name, value in index.items():
        if name in parts:
            given[name] = _part(parts[name], role, source)
        elif not name.startswith("_"):
            given[name] = None if isinstance(value, list) else value  # an optional part that is not there
    made = class_of(str(index["_class_name"]))(**given)
    made.set_progress_bar_config(disable=True)
    return made


def _part(part: Part, role: Role, source: Source) -> Any:
    kind: Any = getattr(importlib.import_module(part.module), part.kind)
    if not part.weighs:  # a tokenizer, a scheduler and the like
        of_diffusers = hasattr(kind, "load_config")
        return kind.from_config(kind.load_config(part.path)) if of_diffusers else pretrained(kind, part.path)
    name = part.path.name
    if is_of(role, name):
        return source.net(name)
    ghost = _ghost(part, kind, source)
    late = role == "encoder" and name in DECODING
    return Late(ghost, partial(source.net, name), torch.device(source.device)) if late else ghost


class Late(StandIn):
    """A ghost of an autoencoder whose weights are loaded, to a device, when it is first to encode."""

    def __init__(self, ghost: Any, load: Callable[[], Any], device: torch.device) -> None:
        super().__init__(ghost)
        self.device = device
        self._load: Callable[[], Any] | None = load

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """What the autoencoder encodes to."""
        if self._load is not None:
            self._part, self._load = self._load(), None
        return self._part.encode(*args, **kwargs)


def _ghost(part: Part, kind: Any, source: Source) -> Any:
    with init_empty_weights(include_buffers=False):
        if issubclass(kind, transformers.PreTrainedModel):
            config = pretrained(kind.config_class, part.path)
            config._attn_implementation = "eager"  # others look into masks
            ghost = kind(config)
        else:
            ghost = kind.from_config(kind.load_config(part.path))
    with torch.no_grad():
        return ghost.to(DTYPES[source.dtype_of(part.path.name)]).eval()
