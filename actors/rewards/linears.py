"""Heads that are a chain of linear layers without activations, as LAION's aesthetic predictor began them."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raysearch.errors import check

LAYER = re.compile(r"(?:(?:.*\.)?(\d{1,3})\.)?(weight|bias)")  # a layer's number, if it has one, and the kind
# The numbers of linear layers in published heads: LAION's first one, its improved one, and V2.5. Dropouts count, too.
PUBLISHED = ([0], [0, 2, 4, 6, 7], [0, 2, 4, 6, 8])


def chain(widths: Sequence[Any]) -> nn.Sequential:
    """Linear layers between `widths` features, the last of which is 1. Raises ValueError for other widths."""
    if not (len(widths) > 1 and all(type(w) is int and w > 0 for w in widths) and widths[-1] == 1):
        raise ValueError(f"widths must be positive whole numbers that end with 1, and not {list(widths)}")
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def chained(state: Mapping[str, torch.Tensor], source: Path) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The widths of a chain, and its tensors by the names of `chain`, from a state dict of upstream's.

    A state dict does not say what is between its layers: dropouts, or activations that would be lost. So the numbers
    of layers must be those of a published head without activations; a single layer may have none. Raises ConfigError.
    """
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        found = LAYER.fullmatch(name)
        check(found is not None, "SOURCE", str(source), f"a file of linear layers alone: it has {name}")
        assert found is not None
        layers.setdefault(int(found[1] or 0), {})[found[2]] = value
    ordered = [layers[number] for number in sorted(layers)]
    known = f"a head whose layers have the numbers {' or '.join(map(str, PUBLISHED))}, and not {sorted(layers)}"
    check(sorted(layers) in PUBLISHED, "SOURCE", str(source), known)
    whole = all({k: v.ndim for k, v in layer.items()} == {"weight": 2, "bias": 1} for layer in ordered)
    check(whole, "SOURCE", str(source), "a file of linear layers, each with a weight and a bias")
    widths = [ordered[0]["weight"].shape[1], *(len(layer["weight"]) for layer in ordered)]
    fits = all(
        layer["weight"].shape == (b, a) and layer["bias"].shape == (b,)
        for layer, (a, b) in zip(ordered, pairwise(widths), strict=True)
    )
    allowed = f"a file of linear layers of which each takes what the one before gives, and the last gives 1: {widths}"
    check(fits and widths[-1] == 1 and min(widths) > 0, "SOURCE", str(source), allowed)
    return widths, {f"{i}.{k}": v for i, layer in enumerate(ordered) for k, v in layer.items()}
