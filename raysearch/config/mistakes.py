"""What a mistake in a config is called: one line with the key, the value and what is allowed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from raysearch.errors import ConfigError

KINDS: dict[Any, str] = {
    **{str: "of type str", int: "of type int", float: "of type float", bool: "of type bool, true or false"},
    **{dict: "a mapping", list: "a list", tuple: "a list", Sequence: "a list"},
}
UNKNOWN = "unexpected_keyword_argument"
ALLOWED = {  # pydantic's name of a mistake -> what is allowed
    "int_type": "of type int",
    "float_type": "of type float",
    "string_type": "of type str",
    "bool_type": "of type bool, true or false",
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


def nearest(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint at the allowed name that is closest to a misspelt one; empty if none is as close as `cutoff`, up to 1."""
    close = get_close_matches(name, list(allowed), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_key(key: str, leaf: str, allowed: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """The message about a key whose last part, `leaf`, is not among those allowed; `elsewhere` are keys that end so."""
    hint = f" (did you mean {' or '.join(map(repr, elsewhere))}?)" if elsewhere else nearest(leaf, allowed)
    return f"{key}: unknown key{hint}; allowed here: {', '.join(allowed) or 'none'}"


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type by itself. Annotations and new names of a type are looked through."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(m for part in get_args(hint) for m in members(part))
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else getattr(hint, "__supertype__", None)
    return (hint,) if inner is None else members(inner)


def below(hint: Any, name: str) -> Any:
    """The type of a key of an annotated mapping or block; None if that has no such key."""
    for member in members(hint):
        if is_dataclass(member):
            return get_type_hints(member).get(name)
        if get_origin(member) is dict:
            return get_args(member)[1]
        if member is Any:
            return Any
    return None


def optional(hint: Any, name: str) -> bool:
    """True if a block has a default for a key, or a mapping has values of a known type: then it can be without it."""
    for member in members(hint):
        if is_dataclass(member):
            return any(f.name == name and (f.default, f.default_factory) != (MISSING, MISSING) for f in fields(member))
        if get_origin(member) is dict:
            return get_args(member)[1] is not Any
    return False


def keys(schema: Any, key: str = "") -> Iterator[str]:
    """The keys of a schema and of its blocks, each as it is written in full."""
    for block in filter(is_dataclass, members(schema)):
        for name, hint in get_type_hints(block).items():
            yield f"{key}{name}"
            yield from keys(hint, f"{key}{name}.")


def one_line(key: str, value: Any, hint: Any, mistakes: Sequence[Any]) -> ConfigError:
    """The first mistake; unknown keys come before others, since a key that is misspelt is also missing."""
    first = min(mistakes, key=lambda m: m["type"] != UNKNOWN)
    names: list[str] = []
    whole = None if key else hint
    for part in first["loc"][1:]:
        block = next(filter(is_dataclass, members(hint)), None)
        names = [f.name for f in fields(block)] if block else []
        named = part in names or first["type"] == UNKNOWN or (isinstance(value, Mapping) and part in value)
        if isinstance(part, int):
            key = f"{key}[{part}]"
        elif named:  # else the part is a member of a union
            key = f"{key}.{part}".lstrip(".")
        value = value.get(part) if isinstance(value, Mapping) else None
        hint = get_type_hints(block, include_extras=True).get(part) if block else _entry(hint)
    key, said = key or "the config", first["msg"].removeprefix("Input should be ")
    if first["type"] == UNKNOWN:
        leaf = str(first["loc"][-1])
        return ConfigError(unknown_key(key, leaf, names, [k for k in keys(whole) if k.endswith(f".{leaf}")]))
    if first["type"] == "missing":
        short, wanted = isinstance(first["loc"][-1], int), _wanted(hint)
        why = "the list is too short" if short else f"it must be {wanted}" if wanted else ""
        return ConfigError(f"{key} is missing: {why}".removesuffix(": "))
    if first["type"] == "literal_error":
        said = f"one of {said.replace(' or ', ', ')}".replace("'", "")
    said = ALLOWED.get(first["type"], said).format(**first.get("ctx", {}))
    given = first["input"]
    if said == "a list" and isinstance(given, str | int | float):
        said += f", such as [{given!r}]"
    if said == "a mapping" and isinstance(given, str) and below(hint, "name") is Any:
        said += f", such as {{name: {given}}}"
    return ConfigError.of(key, given, said)


def _entry(hint: Any) -> Any:
    """The type of the entries of a list or a mapping; None of another type."""
    plain = next((m for m in members(hint) if get_origin(m) in (list, dict)), None)
    return get_args(plain)[-1] if plain else None


def _wanted(hint: Any) -> str:
    """What a value of a type must be; empty for a type of which that is not known."""
    for such in getattr(hint, "__metadata__", ()):
        if hasattr(such, "allowed"):
            return str(such.allowed)
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    kind = get_origin(plain) or plain
    return KINDS.get(kind, "a mapping" if is_dataclass(kind) else "")
