"""The block `parts`, and pipelines of which nobody knows whether they can be searched."""

import json

from mistakes import ROOT, Mistake

TINY = ROOT / "actors" / "assets" / "tiny-wan"
BAD = "is not allowed; it must be"
ADAPTER = {"a.safetensors": b""}


def heavy(arguments: str | list[str], line: str, **more: object) -> Mistake:
    return Mistake(arguments, line, heavy=True, **more)  # type: ignore[arg-type]


TABLE = [
    # -- what the config alone tells
    Mistake(
        "parts.vae.tilling=true",
        "parts.vae.tilling: unknown key (did you mean 'tiling'?); allowed here: dtype, file, ...",
    ),
    Mistake("parts.vae.dtype=float8", f"parts.vae.dtype: 'float8' {BAD} one of float32, bfloat16, float16"),
    Mistake("parts.transformer.gpu=-1", f"parts.transformer.gpu: -1 {BAD} at least 0"),
    Mistake("parts.transformer.storage=int4", f"parts.transformer.storage: 'int4' {BAD} one of float8_e4m3fn, ..."),
    Mistake(
        "parts.transformer.file=w.gguf",
        f"parts.transformer.file: 'w.gguf' {BAD} an existing file that ends in .gguf or .safetensors",
    ),
    Mistake(
        "parts.transformer.file=w.bin",
        f"parts.transformer.file: 'w.bin' {BAD} an existing file that ends in .gguf or .safetensors",
        files={"w.bin": b"1"},
    ),
    Mistake(
        ["parts.transformer.lora=[{path: no.safetensors}]"],
        f"parts.transformer.lora[0].path: 'no.safetensors' {BAD} an existing file that ends in .safetensors",
    ),
    Mistake(
        ["parts.vae.lora=[{path: a.safetensors}]"],
        f"parts.vae.lora[0].path: 'a.safetensors' {BAD} left out: vae is no transformer or unet",
        files=ADAPTER,
    ),
    Mistake(
        ["parts.transformer.quantize={backend: torchao, kind: nf4}"],
        f"parts.transformer.quantize.kind: 'nf4' {BAD} one of int8, int4, float8 with torchao",
    ),
    Mistake(
        ["parts.transformer.quantize={backend: torchao, kind: int8}", "parts.transformer.storage=float8_e5m2"],
        f"parts.transformer.storage: 'float8_e5m2' {BAD} left out with quantize, whose weights are packed",
    ),
    Mistake(
        "parts.transformer.gpu=1 parts.transformer.offload=block",
        f"parts.transformer.gpu: 1 {BAD} 0 with offload",
    ),
    Mistake("parts.preview_vae.dtype=float32", f"parts.preview_vae.file: None {BAD} an existing file that ends in ..."),
    Mistake(
        "parts.preview_vae.file=w.gguf",
        f"parts.preview_vae.file: 'w.gguf' {BAD} an existing file that ends in .safetensors or .pth",
        files={"w.gguf": b"1"},
    ),
    Mistake(
        "parts.preview_vae.file=w.pth parts.preview_vae.compile=true",
        f"parts.preview_vae.compile: True {BAD} left out: a decoder for looks has a file and a dtype",
        files={"w.pth": b"1"},
    ),
    Mistake(
        "parts.preview_vea.file=w.pth",
        f"parts.preview_vea.file: 'w.pth' {BAD} left out: preview_vea is no transformer or unet (did you mean "
        "'preview_vae'?)",
        files={"w.pth": b"1"},
    ),
    # -- what takes the model and this machine
    heavy(
        "parts.preview_vae.file=w.pth",
        "parts.preview_vae.file: 'w.pth' is no decoder of this model's latents: ...",
        files={"w.pth": b"1"},
    ),
    heavy(
        "parts.preview_vae.file=w.pth sampler.name=own",
        f"parts.preview_vae: 'w.pth' {BAD} left out: a pipeline that runs as it is has no decoder for looks",
        files={"w.pth": b"1"},
    ),
    heavy(
        f"parts.preview_vae.file=w.pth model.path={TINY.parent}/mixture",
        f"parts.preview_vae: 'w.pth' {BAD} left out: a model of class GaussianMixture has no decoder for looks",
        files={"w.pth": b"1"},
    ),
    heavy(
        "parts.preview_vea.dtype=float32",
        f"parts: 'preview_vea' {BAD} one of ... with weights (did you mean 'preview_vae'?)",
    ),
    heavy(
        "parts.transformer.dtype=bfloat16 sampler.name=own",
        f"parts.transformer.dtype: 'bfloat16' {BAD} left out, or float32: only autoencoders of a pipeline that ...",
    ),
    heavy(
        "sampler.call.nosuch=1 sampler.name=own", f"sampler.call.nosuch: 1 {BAD} left out: WanPipeline has no nosuch"
    ),
    heavy("parts.unet.compile=true", f"parts: 'unet' {BAD} one of text_encoder, transformer, vae, the parts of ..."),
    heavy("parts.scheduler.dtype=float32", f"parts: 'scheduler' {BAD} one of text_encoder, transformer, vae, ..."),
    heavy(
        "parts.text_encoder.storage=float8_e5m2",
        f"parts.text_encoder.storage: 'float8_e5m2' {BAD} left out: UMT5EncoderModel is no net of diffusers",
    ),
    heavy("parts.transformer.tiling=true", f"parts.transformer.tiling: True {BAD} false: ... has none"),
    heavy("parts.vae.compile=true", f"parts.vae.compile: True {BAD} false: AutoencoderKLWan names no blocks that ..."),
    heavy("parts.transformer.attention=flush", f"parts.transformer.attention: 'flush' {BAD} one of flash, ..."),
    heavy(
        "parts.transformer.attention=sage",
        f"parts.transformer.attention: 'sage' {BAD} left out: sageattention is not ...",
    ),
    heavy(
        ["parts.transformer.quantize={backend: torchao, kind: int8}"],
        f"parts.transformer.quantize.backend: 'torchao' {BAD} left out: torchao is not installed (pip install torchao)",
    ),
    heavy(
        "parts.transformer.offload=block",
        f"parts.transformer.offload: 'block' {BAD} left out with fleet.denoisers.num_gpus=0: it is on the CPU",
    ),
    heavy("parts.transformer.gpu=1", f"parts.transformer.gpu: 1 {BAD} below fleet.denoisers.num_gpus, which is 0"),
    heavy(
        "sampler.guidance_scale_2=3", f"sampler.guidance_scale_2: 3.0 {BAD} left out: this model has one guidance scale"
    ),
    # -- a pipeline that nobody has tested
    Mistake(
        "model.path=m sampler.name=own",
        f"model.path: 'm' {BAD} a pipeline that was tested, and AllegroPipeline was not: ...",
        files={"m/model_index.json": json.dumps({"_class_name": "AllegroPipeline"})},
    ),
]
