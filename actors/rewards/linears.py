"""Heads that are a chain of linear layers without activations, as LAION's aesthetic predictor began them."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raysearch.errors import check

LAYER = re.compile(r"(?:.*?(\d+)\.)?(weight|bias)")  # a layer's number, if there is one, and what the tensor is


def chain(widths: Sequence[Any]) -> nn.Sequential:
    """Linear layers between `widths` features, the last of which is 1. Raises ValueError for other widths."""
    if not (len(widths) > 1 and all(type(w) is int and w > 0 for w in widths) and widths[-1] == 1):
        raise ValueError(f"widths must be positive whole numbers that end with 1, and not {list(widths)}")
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def chained(state: Mapping[str, torch.Tensor], source: Path) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The widths of a chain, and its tensors by the names of `chain`, from a state dict of upstream's.

    There the numbers of layers count dropouts, too, and a single layer may have none. Raises ConfigError, also where
    numbers leave room for an activation beside a dropout.
    """
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        found = LAYER.fullmatch(name)
        check(found is not None, "SOURCE", str(source), f"a file of linear layers alone: it has {name}")
        assert found is not None
        layers.setdefault(int(found[1] or 0), {})[found[2]] = value
    ordered = [layers[number] for number in sorted(layers)]
    near = all(b - a <= 2 for a, b in pairwise(sorted(layers)))
    check(near, "SOURCE", str(source), f"a head without activations: its layers have the numbers {sorted(layers)}")
    whole = all({k: v.ndim for k, v in layer.items()} == {"weight": 2, "bias": 1} for layer in ordered)
    check(whole and bool(ordered), "SOURCE", str(source), "a file of linear layers, each with a weight and a bias")
    widths = [ordered[0]["weight"].shape[1], *(len(layer["weight"]) for layer in ordered)]
    fits = all(
        layer["weight"].shape == (b, a) and layer["bias"].shape == (b,)
        for layer, (a, b) in zip(ordered, pairwise(widths), strict=True)
    )
    allowed = f"a file of linear layers of which each takes what the one before gives, and the last gives 1: {widths}"
    check(fits and widths[-1] == 1, "SOURCE", str(source), allowed)
    return widths, {f"{i}.{k}": v for i, layer in enumerate(ordered) for k, v in layer.items()}
