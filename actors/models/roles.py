"""Which parts of a model each kind of worker loads, and how large their weights are; read without torch."""

from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from actors.models import folder as folders
from actors.models import header
from actors.models.folder import Part
from actors.models.source import Source
from raysearch.config.parts import DENOISING

Role: TypeAlias = Literal["whole", "encoder", "denoiser", "decoder", "none"]

WORKERS: dict[str, Role] = {"encoder": "encoder", "denoiser": "denoiser", "scorer": "decoder"}  # by the pool's kind
DECODING = ("vae", "audio_vae", "vocoder")
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
PACKED = {"int8": 1.0, "float8": 1.0, "int4": 0.5, "nf4": 0.5, "fp4": 0.5}


def is_of(role: Role, name: str) -> bool:
    """True if workers of this role need the weights of the part."""
    denoises, decodes = name.startswith(DENOISING), name in DECODING
    rest = not denoises and not decodes
    return {"whole": True, "encoder": rest, "denoiser": denoises, "decoder": decodes, "none": False}[role]


@dataclass(frozen=True)
class Footprint:
    """Parameters, and the bytes that they take in a worker's memory."""

    parameters: int
    bytes: float

    @property
    def gigabytes(self) -> float:
        """The bytes in units of 10^9."""
        return self.bytes / 1e9


def footprint(source: Source, role: Role, *, offloaded: bool = True) -> Footprint:
    """The footprint of what a worker of a role loads; without `offloaded` of what stays on its device.

    Raises ConfigError for files that are missing or broken.
    """
    found = folders.parts(source.folder, bare=source.bare)
    names = [name for name, part in found.items() if part.weighs and is_of(role, name)]
    each = [_of_part(source, found[n]) for n in names if offloaded or source.part(n).offload is None]
    return Footprint(sum(s.parameters for s in each), sum(s.bytes for s in each))


def worded(found: Footprint) -> str:
    """A footprint in words."""
    counted = f" ({_short(found.parameters)}parameters)" if found.parameters else ""
    size = f"{found.gigabytes:.3g} GB" if found.bytes >= 1e8 else f"{found.bytes / 1e6:.3g} MB"
    return f"{size} of weights{counted}"


def _short(count: int) -> str:
    return f"{count / 1e9:.3g} billion " if count >= 1e8 else f"{count / 1e6:.3g} million "


def _of_part(source: Source, part: Part) -> Footprint:
    name = part.path.name
    asked = source.part(name)
    if part.bare:
        length = asked.files["file"].stat().st_size
        return Footprint(0, float(length))
    weights = part.weights(source.variant)
    if not weights.safe:
        return Footprint(0, float(sum(f.stat().st_size for f in weights.files)))
    count = sum(prod(t.shape) for f in weights.files for t in header.tensors(f).values())
    if part.quantised:
        return Footprint(count, float(sum(f.stat().st_size for f in weights.files)))
    each = PACKED[asked.quantize.kind] if asked.quantize else 1.0 if asked.storage else BYTES[source.dtype_of(name)]
    return Footprint(count, count * each)
