"""What a mistake in a config is called: one line with the key, the value and what is allowed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from raysearch.errors import ConfigError

UNKNOWN = "unexpected_keyword_argument"
ALLOWED = {  # pydantic's name of a mistake -> what is allowed
    "int_type": "of type int",
    "float_type": "of type float",
    "string_type": "of type str",
    "bool_type": "of type bool",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "too_short": "a list with {min_length} or more entries",
    "value_error": "{error}",
}


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint at the allowed name that is closest to a misspelt one; empty if none is close."""
    close = get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_key(key: str, leaf: str, allowed: Sequence[str]) -> str:
    """The message about a key whose last part, `leaf`, is not among those allowed."""
    return f"{key}: unknown key{nearest(leaf, allowed)}; allowed here: {', '.join(allowed) or 'none'}"


def one_line(key: str, value: Any, hint: Any, mistakes: Sequence[Any]) -> ConfigError:
    """The first mistake; unknown keys come before others, since a key that is misspelt is also missing."""
    first = min(mistakes, key=lambda m: m["type"] != UNKNOWN)
    names: list[str] = []
    for part in first["loc"][1:]:
        block = next((t for t in (hint, *get_args(hint)) if is_dataclass(t)), None)
        names = [f.name for f in fields(block)] if block else []
        named = part in names or first["type"] == UNKNOWN or (isinstance(value, Mapping) and part in value)
        if isinstance(part, int):
            key = f"{key}[{part}]"
        elif named:  # else the part is a member of a union
            key = f"{key}.{part}".lstrip(".")
        value = value.get(part) if isinstance(value, Mapping) else None
        hint = get_type_hints(block).get(part) if block else None
    key, said = key or "the config", first["msg"].removeprefix("Input should be ")
    if first["type"] == UNKNOWN:
        return ConfigError(unknown_key(key, str(first["loc"][-1]), names))
    if first["type"] == "missing":
        return ConfigError(
            f"{key} is missing" + (": the list is too short" if isinstance(first["loc"][-1], int) else "")
        )
    if first["type"] == "literal_error":
        said = f"one of {said.replace(' or ', ', ')}".replace("'", "")
    return ConfigError.of(key, first["input"], ALLOWED.get(first["type"], said).format(**first.get("ctx", {})))
