"""A function's keyword-only signature as the schema of a config block, so that nothing is declared twice."""

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

from raysearch.errors import ConfigError, check


def unknown_key(key: str, leaf: str, allowed: Sequence[str]) -> str:
    close = get_close_matches(leaf, allowed, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{key}: unknown key{hint}; allowed here: {', '.join(allowed) or 'none'}"


def keyword_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def source(function: Callable[..., Any]) -> bytes:
    """The text of the module that a function or class is in, which its results depend on; empty if there is none."""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    return Path(file).read_bytes() if file and Path(file).is_file() else b""


def bind(function: Callable[..., Any], given: dict[str, Any], what: str, key: str) -> dict[str, Any]:
    """`given` checked against a function's keyword-only signature, defaults filled in. Raises ConfigError."""
    parameters = keyword_parameters(function)
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for k in given:
        if k not in parameters:
            raise ConfigError(unknown_key(f"{key}.{k}", str(k), list(parameters)))
    bound = {}
    for k, p in parameters.items():
        if k in given:
            bound[k] = coerce(f"{key}.{k}", given[k], hints.get(k, Any))
        elif p.default is p.empty:
            raise ConfigError(f"{key}.{k} is missing: {what} needs it")
        else:
            bound[k] = p.default
    return bound


def coerce(key: str, value: Any, hint: Any) -> Any:
    """`value` as the annotated type, without guessing: an int is a float, a list is a tuple, and no more."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if isinstance(hint, typing.NewType):
        return coerce(key, value, hint.__supertype__)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return coerce(key, value, next(p for p in parts if p is not type(None)))
    if origin is typing.Literal:
        check(value in parts, key, value, f"one of {', '.join(map(str, parts))}")
        return value
    if origin is not None and issubclass(origin, Sequence):
        check(isinstance(value, list | tuple), key, value, "a list")
        return tuple(coerce(f"{key}[{i}]", v, parts[0] if parts else Any) for i, v in enumerate(value))
    if origin is dict or hint is dict:
        check(isinstance(value, dict), key, value, "a mapping")
        return dict(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, float):
        check(isfinite(value), key, value, "a finite number")
    check(
        isinstance(value, hint) and (hint is bool or not isinstance(value, bool)),
        key,
        value,
        f"of type {hint.__name__}",
    )
    return value
