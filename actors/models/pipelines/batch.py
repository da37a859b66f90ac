"""Forwards that wait at the same time, joined into one batch.

Nothing says which arguments of a net have a row for each video and which all rows share. The net's first argument has
rows; of the others those have rows whose first dimension is as long. A number without dimensions, such as a UNet's
timestep, is repeated for each row. All else must be equal for forwards to be joined, and the contract of
`actors.models.pipelines.contract` measures that the outputs are those of each forward alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from actors.models.pipelines.run import Forward, Tree

FIRST = ("hidden_states", "sample", "x")  # names of a net's first argument


def first(forward: Forward) -> Any:
    """The net's first argument, which has a row for each video or half of a guided one: a tensor, or a list of them."""
    return forward.args[0] if forward.args else next(forward.kwargs[k] for k in FIRST if k in forward.kwargs)


def rows(forward: Forward) -> int:
    """The number of videos, or of halves of guided ones, that a forward evaluates."""
    return len(first(forward))


def groups(forwards: Sequence[Forward]) -> list[list[int]]:
    """The indices of forwards that can be joined, in their order."""
    if len(forwards) == 1:
        return [[0]]
    found: list[tuple[Any, list[Any], list[int]]] = []
    for i, f in enumerate(forwards):
        kind, shared = _kind(f)
        for other, values, members in found:
            if kind == other and all(map(_equal, shared, values)):
                members.append(i)
                break
        else:
            found.append((kind, shared, [i]))
    return [members for _, _, members in found]


def joined(forwards: Sequence[Forward]) -> Forward:
    """One forward with the rows of all of them, which are of one group."""
    if len(forwards) == 1:
        return forwards[0]
    each = [_leaves(f) for f in forwards]
    spec, counts = each[0][1], [rows(f) for f in forwards]
    leaves = [_joined(values, counts) for values in zip(*(leaves for leaves, _ in each), strict=True)]
    args, kwargs = tree_unflatten(leaves, spec)
    return Forward(forwards[0].part, args, kwargs)


def split(output: Tree, counts: Sequence[int]) -> list[Tree]:
    """The outputs of the forwards that were joined, which had so many rows each."""
    if len(counts) == 1:
        return [output]
    leaves, spec = tree_flatten(output, is_leaf=lambda v: isinstance(v, list))
    parts = [v.split(list(counts)) if isinstance(v, torch.Tensor) else _cut(v, counts) for v in leaves]
    return [tree_unflatten([p[i] for p in parts], spec) for i in range(len(counts))]


def _cut(value: Any, counts: Sequence[int]) -> list[Any]:
    if not isinstance(value, list):
        return [value] * len(counts)
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [value[s : s + n] for s, n in zip(starts, counts, strict=True)]


def _leaves(forward: Forward) -> tuple[list[Any], Any]:
    n = rows(forward)
    return tree_flatten((forward.args, forward.kwargs), is_leaf=lambda v: isinstance(v, list) and len(v) == n)


def _by_row(value: Any, n: int) -> bool:
    if isinstance(value, list):
        return len(value) == n
    return isinstance(value, torch.Tensor) and (value.ndim == 0 or value.shape[0] == n)


def _joined(values: Sequence[Any], counts: Sequence[int]) -> Any:
    if not _by_row(values[0], counts[0]):
        return values[0]
    if isinstance(values[0], list):
        return [v for value in values for v in value]
    return torch.cat([v.expand(n) if v.ndim == 0 else v for v, n in zip(values, counts, strict=True)])


def _kind(forward: Forward) -> tuple[Any, list[Any]]:
    """What must be the same for forwards to be joined: the form of their rows, and the values that rows share."""
    n, (leaves, spec) = rows(forward), _leaves(forward)
    forms: list[Any] = []
    shared: list[Any] = []
    for v in leaves:
        if not _by_row(v, n):
            forms.append(type(v))
            shared.append(v)
        elif isinstance(v, list):
            forms.append("a list with an item for each row")
        else:
            forms.append((v.shape[1:], v.dtype, v.ndim))
    return (forward.part, str(spec), forms), shared


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
    return type(a) is type(b) and bool(a == b)
