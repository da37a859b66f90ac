"""Values that another process wrote as JSON, taken only where they are what a frozen dataclass says."""

from dataclasses import is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

BOUND = 2**53  # of numbers: beyond it a JSON number is not exact, and a time is no date


def typed(kind: Any, value: Any) -> Any:
    """A value of JSON as a type says: a dataclass with exactly these keys, dict[str, ...], tuple[..., ...], or None.

    Raises ValueError where the value is of another type, or a number out of bounds.
    """
    given, inner = type(value), get_args(kind)
    if is_dataclass(kind) and given is dict and value.keys() == (hints := get_type_hints(kind)).keys():
        return kind(**{k: typed(hint, value[k]) for k, hint in hints.items()})  # type: ignore[operator]
    if get_origin(kind) is dict and given is dict:
        return {k: typed(inner[1], v) for k, v in value.items()}
    if get_origin(kind) is tuple and given is list:
        return tuple(typed(inner[0], v) for v in value)
    if get_origin(kind) is UnionType:
        return None if value is None else typed(inner[0], value)
    if (kind is str and given is str) or (kind in (int, float) and given in (int, kind) and abs(value) < BOUND):
        return value
    raise ValueError(f"a {given} is not a {kind}, or it is out of bounds")
