"""The weights of a model's parts: loading them, and whether names, shapes and types are those of their classes."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from actors.models import folder as folders
from actors.models import header, knobs
from actors.models.folder import Part, Weights
from actors.models.source import Source
from raysearch.errors import ConfigError, check, told

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pretrained(kind: Any, path: Path, **options: Any) -> Any:
    """An object of a class of diffusers or transformers from its folder; no code in the folder is run."""
    return kind.from_pretrained(path, trust_remote_code=False, local_files_only=True, **options)


def loaded(source: Source, name: str) -> Any:
    """The net of a part, of the class that the model's index names, in evaluation mode on the source's device.

    Raises ConfigError for a file or an adapter of `source.parts` that does not fit.
    """
    part, asked = folders.parts(source.folder)[name], source.part(name)
    dtype = DTYPES[source.dtype_of(name)]
    packing = knobs.quantisation(asked, part, dtype)
    options = {} if packing is None else {"quantization_config": packing}
    if (file := asked.files.get("file")) is not None:
        net = _of_file(class_of(part), part, file, torch_dtype=dtype, **options)
    else:
        found = part.weights(source.variant)
        options |= {"dtype": dtype, "variant": found.variant, "use_safetensors": found.safe}
        net = pretrained(class_of(part), part.path, **options)
    pipeline = str(folders.index(source.folder).get("_class_name"))
    return knobs.fitted(net, asked, pipeline=pipeline, dtype=dtype, device=source.device)


def _of_file(kind: Any, part: Part, file: Path, **options: Any) -> Any:
    """A net with the config of a part, and the weights of a single file. Raises ConfigError if they do not fit."""
    at = {"config": str(part.path.parent), "subfolder": part.path.name, "local_files_only": True}
    try:
        net = kind.from_single_file(str(file), **at, **options)
        for name, weight in net.named_parameters():
            plain = weight
            if getattr(weight, "quant_type", None) is not None:
                from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor  # needs gguf

                plain = dequantize_gguf_tensor(weight)
            if plain.is_floating_point() and not bool(plain.isfinite().all()):
                raise ValueError(f"it has NaN or inf in {name}")
        return net
    except Exception as error:  # of diffusers and of the file's format
        raise ConfigError(f"parts.{part.path.name}.file: {str(file)!r} is no {part.kind}: {told(error)}") from error


def class_of(part: Part) -> Any:
    """The class of a part. Raises ConfigError unless its library has such a class."""
    found = getattr(importlib.import_module(part.module), part.kind, None)
    net = isinstance(found, type) and issubclass(found, (diffusers.ModelMixin, transformers.PreTrainedModel))
    allowed = f"one whose {part.path.name} is of a model's class of {part.library}, not {part.kind}"
    check(net, part.key, str(part.path.parent), allowed)
    return found


def check_fit(source: Source, key: str) -> None:
    """Raises ConfigError unless each part's weights are all of those, and only those, that its class has.

    Weights of files that are not the folder's are compared when they are loaded.
    """
    for part in folders.parts(source.folder, key, source.bare).values():
        if part.weighs and not part.quantised and not part.bare:
            _check_part(part, part.weights(source.variant))


def _check_part(part: Part, weights: Weights) -> None:
    folder, name, kind = str(part.path.parent), part.path.name, class_of(part)
    held = {k: t for f in weights.files if weights.safe for k, t in header.tensors(f).items()}
    quiet()
    place: Any = "meta" if part.library == "transformers" else {"": "meta"}
    try:
        with at_most(10 * len(held) + 1000 if weights.safe else 100_000):
            net, info = pretrained(
                kind,
                part.path,
                variant=weights.variant,
                use_safetensors=weights.safe,
                device_map=place,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # libraries raise errors of many types for a wrong config
        raise ConfigError(f"{part.key}: {str(part.path)!r} is no {part.kind}: {told(error)}") from error
    for missing in sorted(info["missing_keys"]):
        check(False, part.key, folder, f"one whose {name} has all weights of a {part.kind}: {missing} is missing")
    for tensor, found, wanted in sorted(info["mismatched_keys"]):
        fits = f"one whose {name} fits its config: {tensor} must be {tuple(wanted)}, there is {tuple(found)}"
        check(False, part.key, folder, fits)
    buffers = tuple(k for k, _ in net.named_buffers())
    # A file that was saved from a larger class, such as an encoder with its decoder, may hold more.
    if part.config.get("architectures", [part.kind]) == [part.kind]:
        more = sorted(k for k in info["unexpected_keys"] if not k.endswith(buffers))
        check(not more, part.key, folder, f"one whose {name} fits its config: {part.kind} has no {''.join(more[:1])}")
    for tensor, t in held.items():
        fits = f"one whose {name} has weights {', '.join(header.FLOATS)}: {tensor} is {t.dtype}"
        check(t.dtype in header.FLOATS or tensor.endswith(buffers), part.key, folder, fits)
    for file in () if weights.safe else weights.files:  # the digest finds NaN in safetensors files while it reads them
        for tensor, value in torch.load(file, weights_only=True, map_location="cpu", mmap=True).items():
            number = value.is_floating_point() and bool(value.isfinite().all())
            fits = f"a file of finite floating-point numbers: {tensor} has others"
            check(number or tensor.endswith(buffers), part.key, str(file), fits)


def quiet() -> None:
    """Have the libraries neither warn nor draw bars: what is wrong with a folder is said in one line."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """A context in which no net with more weights than `count` is made: a config can ask for a million layers."""
    made = 0

    def one(module: nn.Module, name: str, weight: object) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise ValueError(f"its config describes more than {count} weights")

    hook = register_module_parameter_registration_hook(one)
    try:
        yield
    finally:
        hook.remove()
