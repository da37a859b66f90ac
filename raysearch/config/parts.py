"""The block `parts`: how single parts of a model are loaded and run, each under the name of its folder.

One part has no folder: `preview_vae`, a small decoder for looks at candidates that are on their way.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from raysearch.config.media import is_file
from raysearch.config.mistakes import nearest
from raysearch.config.numbers import Dtype
from raysearch.config.rows import path_of
from raysearch.errors import check

KINDS = {  # of numbers, which a library has for weights
    "bitsandbytes": ("int8", "nf4", "fp4"),
    "torchao": ("int8", "int4", "float8"),
}
DENOISING = ("transformer", "unet")  # how the names of denoising nets begin
PREVIEW = "preview_vae"


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter: a safetensors file, and how strongly it counts."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class QuantizeConfig:
    """Weights that a library packs while they are loaded."""

    backend: Literal["bitsandbytes", "torchao"]
    kind: str


@dataclass(frozen=True)
class PartConfig:
    """What is special about one part. None and false leave it as it is."""

    dtype: Dtype | None = None  # None: model.dtype
    file: str | None = None  # with the weights, in place of the folder's
    lora: list[LoraConfig] = field(default_factory=list)
    quantize: QuantizeConfig | None = None
    storage: Literal["float8_e4m3fn", "float8_e5m2"] | None = None  # of weights, which are cast to dtype when used
    offload: Literal["block", "leaf"] | None = None  # weights wait in the CPU's memory, by block or by layer
    gpu: Annotated[int, Ge(0)] = 0  # which of the worker's GPUs holds the part
    attention: str | None = None  # diffusers' name of an attention backend
    compile: bool = False  # torch compiles the repeated blocks
    tiling: bool = False  # an autoencoder works tile by tile, which changes pixels a little
    slicing: bool = False  # and video by video

    @property
    def given(self) -> dict[str, Any]:
        """The keys that differ from what they are by default, with plain values."""
        usual = asdict(PartConfig())
        return {k: v for k, v in asdict(self).items() if v != usual[k]}

    @property
    def numerics(self) -> dict[str, Any]:
        """What may change a result, but for the contents of files."""
        found = {k: v for k, v in self.given.items() if k != "file"}
        return found | ({"lora": [a.weight for a in self.lora]} if self.lora else {})

    @property
    def files(self) -> dict[str, Path]:
        """The files that are read besides the folder's, by their keys."""
        named = {"file": self.file, **{f"lora[{i}].path": a.path for i, a in enumerate(self.lora)}}
        return {key: path_of(name) for key, name in named.items() if name is not None}

    @property
    def packed(self) -> str | None:
        """The key that makes the weights numbers of a kind of their own, if one does."""
        gguf = self.file is not None and self.file.endswith(".gguf")
        return "quantize" if self.quantize else "file" if gguf else None


def own(parts: Mapping[str, PartConfig]) -> dict[str, PartConfig]:
    """The parts of the model itself, all but the decoder for looks: on these its candidates depend."""
    return {name: p for name, p in parts.items() if name != PREVIEW}


def check_preview(p: PartConfig) -> None:
    """Raises ConfigError unless the decoder for looks has a file, and a dtype at most."""
    block, fits = f"parts.{PREVIEW}", "an existing file that ends in .safetensors or .pth"
    path = p.files.get("file")
    check(path is not None and is_file(path) and path.suffix in (".safetensors", ".pth"), f"{block}.file", p.file, fits)
    for key in p.given.keys() - {"file", "dtype"}:
        check(False, f"{block}.{key}", p.given[key], "left out: a decoder for looks has a file and a dtype")


def check_parts(parts: Mapping[str, PartConfig]) -> None:
    """Raises ConfigError where a file is missing, and where the keys of a part do not go together."""
    if PREVIEW in parts:
        check_preview(parts[PREVIEW])
    for name, p in own(parts).items():
        block, denoises = f"parts.{name}", name.startswith(DENOISING)
        for key, path in p.files.items():
            allowed = f"left out: {name} is no {' or '.join(DENOISING)}{nearest(name, [PREVIEW])}"
            check(denoises, f"{block}.{key}", str(path), allowed)
            ends = (".gguf", ".safetensors") if key == "file" else (".safetensors",)
            fits = is_file(path) and path.suffix in ends
            check(fits, f"{block}.{key}", str(path), f"an existing file that ends in {' or '.join(ends)}")
        if p.quantize is not None:
            kinds = KINDS[p.quantize.backend]
            allowed = f"one of {', '.join(kinds)} with {p.quantize.backend}"
            check(p.quantize.kind in kinds, f"{block}.quantize.kind", p.quantize.kind, allowed)
            check(p.file is None, f"{block}.file", p.file, "left out with quantize")
        for key in ("storage", "offload") if p.packed else ():
            value = getattr(p, key)
            check(value is None, f"{block}.{key}", value, f"left out with {p.packed}, whose weights are packed")
        check(p.gpu == 0 or p.offload is None, f"{block}.gpu", p.gpu, "0 with offload")
