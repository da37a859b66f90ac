"""What encoders return, as arrays by name, for a file; and back.

`tree` is the structure, JSON in bytes: arrays are told by their place, and the other arrays are named `0`, `1` and so
on. Nothing is read from a file but numbers, texts and plain containers.
"""

import json
from typing import Any, TypeAlias

import numpy as np

from actors.models.pipelines.state import Conditions, Packed
from actors.workers.state import State
from raysearch.engine.protocol import Text, Whole

Node: TypeAlias = Any  # of JSON

PLAIN = (str, int, float, bool, type(None))


def plain(made: Any) -> dict[str, Any]:
    """A finished state or a condition as arrays by name, or a video's files by extension.

    A condition with a picture, or with objects that arrays cannot hold, is empty.
    """
    if isinstance(made, State):
        return made.plain()
    if isinstance(made, dict):
        return dict(made)
    found: list[np.ndarray] = []
    try:
        tree = _node(made.encoded if isinstance(made, Conditions) and not made.pictures else made, found)
    except TypeError:
        return {}
    text = json.dumps(tree, ensure_ascii=False).encode()
    return {"tree": np.frombuffer(text, np.uint8), **{str(i): a for i, a in enumerate(found)}}


def condition(what: Text | Whole, arrays: dict[str, np.ndarray]) -> Any:
    """The condition of `what` whose `plain` these arrays were."""
    found = _value(json.loads(arrays["tree"].tobytes()), arrays)
    return Conditions(what.sampler, what.text, found) if isinstance(what, Whole) else found


def _node(value: Any, found: list[np.ndarray]) -> Node:
    """The node of a value, whose arrays are added to `found`. Raises TypeError for what no node can tell."""
    kind = type(value)
    if kind is np.ndarray and not value.dtype.hasobject:
        found.append(value)
        return {"array": len(found) - 1}
    if kind is Packed:
        return {"packed": [_node(value.array, found), value.dtype]}
    if kind in (list, tuple):
        return {kind.__name__: [_node(v, found) for v in value]}
    if kind is dict and all(type(k) is str for k in value):
        return {"dict": {k: _node(v, found) for k, v in value.items()}}
    if kind in PLAIN:
        return value
    raise TypeError(f"no node for {kind.__name__}")


def _value(node: Node, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, held),) = node.items()
    match kind:
        case "array":
            return arrays[str(held)]
        case "packed":
            return Packed(_value(held[0], arrays), held[1])
        case "dict":
            return {k: _value(v, arrays) for k, v in held.items()}
    made = [_value(v, arrays) for v in held]
    return tuple(made) if kind == "tuple" else made
