"""What stays of a pipeline's run between legs, in numpy's arrays, so that Ray shares it between processes."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map

from actors.models.pipelines.run import Encoded, Point, Tree
from raysearch.recipe.candidate import Sampler


@dataclass(frozen=True)
class Packed:
    """A tensor as an array; `dtype` names types that numpy lacks, whose bits the array holds as integers."""

    array: np.ndarray
    dtype: str | None = None


def pack(tree: Tree) -> Tree:
    """A tree with `Packed` arrays in place of tensors."""
    return tree_map(_packed, tree)


def unpack(tree: Tree, device: str) -> Tree:
    """A tree with tensors on a device in place of `Packed` arrays."""
    return tree_map(lambda v: _unpacked(v, device) if isinstance(v, Packed) else v, tree)


def _packed(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return Packed(value.view(torch.int16).numpy(), "bfloat16")
    return Packed(value.numpy())


def _unpacked(value: Packed, device: str) -> torch.Tensor:
    found = torch.tensor(value.array)  # a copy: arrays from the object store are read-only
    return (found.view(getattr(torch, value.dtype)) if value.dtype else found).to(device)


@dataclass(frozen=True)
class Conditions:
    """What a run is conditioned on: sampler and caption, an encoder's answers, packed, and maybe PIL images."""

    sampler: Sampler
    caption: str
    encoded: Encoded
    pictures: dict[str, Any] = field(default_factory=dict)  # by the names of the arguments that take them


@dataclass(frozen=True)
class PipelineState:
    """A packed `Point`; the fields are the point's."""

    step: int
    start: Any
    results: Any
    states: Any
    generator: Any
    shapes: Any
    outputs: Any = None
    estimates: Any = None

    clean_frames = 0  # given frames are the pipeline's own affair

    @classmethod
    def of(cls, point: Point) -> "PipelineState":
        """The state of a point. Raises FloatingPointError if a latent or a prediction is not finite."""
        for tensor in tree_flatten((point.start, point.results, point.estimates))[0]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
                raise FloatingPointError(f"the latent is not finite after step {point.step}")
        return cls(**{f.name: pack(getattr(point, f.name)) for f in fields(cls)})

    def point(self, device: str) -> Point:
        """The point on a device."""
        return Point(**{f.name: unpack(getattr(self, f.name), device) for f in fields(self)})

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        leaves = tree_flatten([getattr(self, f.name) for f in fields(self)])[0]
        return sum(v.array.nbytes for v in leaves if isinstance(v, Packed))

    @property
    def latent(self) -> np.ndarray:
        """The first latent, as the pipeline's scheduler has it."""
        return self.noisy().numpy()

    def noisy(self) -> torch.Tensor:
        """The first latent, float32, as the pipeline's scheduler has it."""
        return _first(self.results if self.step else self.start)

    def x0(self, sigma: float) -> torch.Tensor:
        """The x0 prediction of the first latent, float32; of a finished state the latent itself."""
        return self.noisy() if self.estimates is None else _first(self.estimates)


def _first(tree: Any) -> torch.Tensor:
    return next(_unpacked(v, "cpu") for v in tree_flatten(tree)[0] if isinstance(v, Packed)).float()
