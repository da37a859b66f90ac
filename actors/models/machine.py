"""What the config's block `parts` asks of this machine, of the model and of the fleet, checked before a model loads."""

import importlib.util
from typing import Any

import diffusers
from diffusers.models.attention_dispatch import AttentionBackendName

from actors.models import folder as folders
from actors.models.knobs import AUTOENCODERS
from actors.models.roles import DECODING
from actors.models.source import Source
from actors.models.weights import class_of
from raysearch.config.fleet import FleetConfig
from raysearch.config.mistakes import nearest
from raysearch.config.parts import DENOISING, PREVIEW, PartConfig
from raysearch.errors import check

ATTENTION = {"flash": "flash_attn", "_flash_3": "flash_attn_interface", "sage": "sageattention", "xformers": "xformers"}
NETS = ("attention", "compile", "storage", "file", "lora")  # what only nets of diffusers have


def check_machine(source: Source, fleet: FleetConfig) -> None:
    """Raises ConfigError for a part that the model has not, and for what this machine or the fleet cannot do."""
    piped = source.runs_pipeline
    weigh = {name: part for name, part in folders.parts(source.folder).items() if part.weighs}
    for name, p in source.parts.items():
        block, given = f"parts.{name}", p.given
        hint = nearest(name, [*weigh, PREVIEW])
        check(name in weigh, "parts", name, f"one of {', '.join(weigh)}, the parts of this model with weights{hint}")
        kind = class_of(weigh[name])
        alone = not piped or name in DECODING or p.dtype in (None, source.dtype)
        allowed = f"left out, or {source.dtype}: only autoencoders of a pipeline that runs as it is have their own"
        check(alone, f"{block}.dtype", p.dtype, allowed)
        for key in (k for k in NETS if k in given and not issubclass(kind, diffusers.ModelMixin)):
            check(False, f"{block}.{key}", given[key], f"left out: {kind.__name__} is no net of diffusers")
        for key, method in AUTOENCODERS.items():
            check(key not in given or hasattr(kind, method), f"{block}.{key}", True, f"false: {kind.__name__} has none")
        if p.compile:
            regional = bool(getattr(kind, "_repeated_blocks", None))
            check(regional, f"{block}.compile", True, f"false: {kind.__name__} names no blocks that repeat")
        for key, value, package in needed(p):
            there = importlib.util.find_spec(package) is not None
            missing = f"left out: {package} is not installed (pip install {package.replace('_', '-')})"
            check(there, f"{block}.{key}", value, missing)
        check_devices(name, p, fleet)


def check_devices(name: str, p: PartConfig, fleet: FleetConfig) -> None:
    """Raises ConfigError for what the pools cannot do that load a part of this name."""
    block, d = f"parts.{name}", fleet.denoisers
    denoises = name.startswith(DENOISING)
    kind = "denoisers" if denoises else "scorers" if name in DECODING else "encoders"
    most, where = getattr(fleet, kind).num_gpus, f"fleet.{kind}.num_gpus"
    check(p.offload is None or most > 0, f"{block}.offload", p.offload, f"left out with {where}=0: it is on the CPU")
    on_gpu = p.quantize is None or p.quantize.backend != "bitsandbytes" or most > 0
    check(on_gpu, f"{block}.quantize.backend", "bitsandbytes", f"torchao with {where}=0: bitsandbytes needs a GPU")
    check(p.gpu < max(most, 1), f"{block}.gpu", p.gpu, f"below {where}, which is {most:g}")
    for key in ("quantize", "storage", "offload", "compile", "gpu") if denoises and d.shards > 1 else ():
        value = getattr(p, key)
        check(not value, f"{block}.{key}", value, f"left out with fleet.denoisers.shards={d.shards}")
    if p.attention is not None:
        names = [b.value for b in AttentionBackendName]
        check(p.attention in names, f"{block}.attention", p.attention, f"one of {', '.join(names)}")


def needed(p: PartConfig) -> list[tuple[str, Any, str]]:
    """The keys of a part that need a package beside raysearch's own, each with its value and the package."""
    found: list[tuple[str, Any, str]] = []
    if p.quantize is not None:
        found.append(("quantize.backend", p.quantize.backend, p.quantize.backend))
    if p.packed == "file":
        found.append(("file", p.file, "gguf"))
    if p.lora:
        found.append(("lora", [a.path for a in p.lora], "peft"))
    if p.attention is not None:
        hub = ["kernels"] if p.attention.endswith("_hub") else []
        packages = hub or [v for k, v in ATTENTION.items() if p.attention.startswith(k)][-1:]
        found += [("attention", p.attention, package) for package in packages]
    return found
