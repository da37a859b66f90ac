"""What the config's block `parts` asks of a net, done to it while and after it is loaded."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import accelerate.hooks
import diffusers
import torch
import transformers
from diffusers.hooks import apply_group_offloading

from actors.models.folder import Part
from raysearch.config.parts import DENOISING, PartConfig
from raysearch.errors import ConfigError, told

AUTOENCODERS = {"tiling": "enable_tiling", "slicing": "enable_slicing"}  # and the methods that do it


def quantisation(p: PartConfig, part: Part, dtype: torch.dtype) -> Any:
    """The `quantization_config` with which a part is loaded; None if its weights are as they are in the file."""
    if p.packed == "file":
        return diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    if p.quantize is None:
        return None
    library: Any = transformers if part.module == "transformers" else diffusers
    backend, kind = p.quantize.backend, p.quantize.kind
    if backend == "bitsandbytes":
        if kind == "int8":
            return library.BitsAndBytesConfig(load_in_8bit=True)
        return library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)
    from torchao import quantization as packing  # type: ignore[import-not-found,import-untyped,unused-ignore]

    kinds = {"int8": packing.Int8WeightOnlyConfig, "int4": packing.Int4WeightOnlyConfig}
    return library.TorchAoConfig(kinds.get(kind, packing.Float8WeightOnlyConfig)())


def fitted(net: Any, p: PartConfig, *, pipeline: str, dtype: torch.dtype, device: str) -> Any:
    """The net as its part is asked to be, on its device; `pipeline` is the name of the class that it is a part of."""
    if p.lora:
        adapt(net, p, pipeline)
    if p.storage is not None:
        net.enable_layerwise_casting(storage_dtype=getattr(torch, p.storage), compute_dtype=dtype)
    if p.offload is not None and device != "cpu":
        groups = {"num_blocks_per_group": 1} if p.offload == "block" else {}
        apply_group_offloading(net, torch.device(device), offload_type=f"{p.offload}_level", use_stream=True, **groups)
    elif p.gpu and device != "cpu":
        net = net.to(f"{device}:{p.gpu}")
        moves = accelerate.hooks.AlignDevicesHook(execution_device=f"{device}:{p.gpu}", io_same_device=True)
        accelerate.hooks.add_hook_to_module(net, moves)
    elif p.quantize is None or p.quantize.backend != "bitsandbytes":  # which loads to the GPU, and stays there
        net = net.to(device)
    if p.attention is not None:
        net.set_attention_backend(p.attention)
    for key, method in AUTOENCODERS.items():
        if getattr(p, key):
            getattr(net, method)()
    if p.compile:
        net.compile_repeated_blocks()
    return net.eval()


def adapt(net: Any, p: PartConfig, pipeline: str) -> None:
    """Add the part's adapters to a net's weights; packed weights keep them beside. Raises ConfigError."""
    paths = [path for key, path in p.files.items() if key != "file"]
    for i, path in enumerate(paths):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft's, of a second adapter
                found = _adapter(getattr(diffusers, pipeline), path)
                state, prefix = found["pretrained_model_name_or_path_or_dict"], found["prefix"]
                given = sum("alpha" not in key and key.startswith(prefix or "") for key in state)
                net.load_lora_adapter(**found, adapter_name=f"lora{i}")
            taken = sum(f".lora{i}." in name for name, _ in net.named_parameters())
            if not taken or taken != given:
                raise ValueError(f"of its {given} weights for this net {taken} fit")
        except Exception as error:  # of diffusers, peft and safetensors
            why = f"the adapter {str(path)!r} does not fit {type(net).__name__}: {told(error)}"
            raise ConfigError(f"parts: {why}") from error
    net.set_adapters([f"lora{i}" for i in range(len(paths))], [a.weight for a in p.lora])
    if p.packed is None:
        net.fuse_lora()
        net.unload_lora()


def _adapter(pipeline: Any, path: Path) -> dict[str, Any]:
    """The arguments of `load_lora_adapter` for a file, whose form the pipeline's class knows to read."""
    takes = inspect.signature(pipeline.lora_state_dict).parameters
    alphas = {"return_alphas": True} if "return_alphas" in takes else {}
    state, *more = pipeline.lora_state_dict(
        str(path.parent), weight_name=path.name, local_files_only=True, return_lora_metadata=True, **alphas
    )
    prefix = next((name for name in DENOISING if any(key.startswith(f"{name}.") for key in state)), None)
    found = {"pretrained_model_name_or_path_or_dict": state, "prefix": prefix, "metadata": more[-1]}
    return found | ({"network_alphas": more[0]} if len(more) == 2 and not more[-1] else {})
