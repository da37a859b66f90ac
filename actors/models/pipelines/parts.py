"""The parts of a pipeline on one worker: those of its role with their weights, the others as ghosts.

An encoder has all parts but the denoising nets, a denoiser only these, and a decoder the autoencoders and the vocoder.
A ghost has the config, the dtype and the buffers of a part, and parameters without values: a pipeline can ask it for
sizes, but whoever computes with it gets an error of torch.
"""

import importlib
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights

from actors.models import folder as folders
from actors.models.folder import Part
from actors.models.pipelines.call import class_of
from actors.models.roles import Role, is_of
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
    if is_of(role, part.path.name):
        return source.net(part.path.name)
    with init_empty_weights(include_buffers=False):
        if issubclass(kind, transformers.PreTrainedModel):
            config = pretrained(kind.config_class, part.path)
            config._attn_implementation = "eager"  # others look into masks
            ghost = kind(config)
        else:
            ghost = kind.from_config(kind.load_config(part.path))
    with torch.no_grad():
        return ghost.to(DTYPES[source.dtype_of(part.path.name)]).eval()
