"""The schema language: annotations say which values are allowed, and a mistake is one line that names them.

A dataclass is the schema of a config block, and a function's keyword-only signature that of its arguments, so nothing
is declared twice. pydantic holds values against either; it is imported where values are checked, since that takes a
fifth of the time in which the rest of raysearch is imported.
"""

import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache, partial
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf

from raysearch.config.foreign import refused
from raysearch.config.mistakes import one_line
from raysearch.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Such:
    """In an `Annotated` type: values of the type for which `holds`; `allowed` ends the line about any other."""

    allowed: str
    holds: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, annotated: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self._checked, handler(annotated))

    def _checked(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(self.allowed)
        return value


def structured(schema: type[T], values: Any, key: str = "") -> T:
    """An instance of a dataclass from a mapping, defaults filled in. Raises ConfigError."""
    return coerce(key, values, schema)  # type: ignore[no-any-return]


def bind(function: Callable[..., Any], given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """All keyword-only arguments of a function or class, of which the config gives some. Raises ConfigError."""
    schema: Any
    try:
        schema = signature(function)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pydantic only warns of an annotation that is no type
            adapter(schema)
    except Exception as error:  # whatever is wrong with an annotation of the user's
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        name = f"{function.__module__}:{getattr(function, '__qualname__', function)}"
        raise refused(f"{key}.name", name, function, f"annotated with types that are known ({why})") from error
    bound = {k: _frozen(v) for k, v in vars(coerce(key, given, schema)).items()}
    for k, v in bound.items():
        try:
            json.dumps(v, default=_plain, allow_nan=False)
        except (TypeError, ValueError) as error:  # of a default, or in a mapping: else what is given is checked already
            allowed = "without NaN and inf" if k in given else "by default what a config can give"
            raise ConfigError.of(f"{key}.{k}", v, allowed) from error
    return bound


def coerce(key: str, value: Any, hint: Any) -> Any:
    """`value` as the annotated type, without guessing: an int is a float, a list is a tuple, and no more.

    Numbers are finite. Raises ConfigError with the key, at or below `key`, of the first mistake.
    """
    from pydantic import ValidationError

    try:
        # In JSON a list may be a tuple, and a text a path.
        text = json.dumps({key: value}, default=_plain, ensure_ascii=False).encode()
        return adapter(hint).validate_json(text)[key]
    except ValidationError as error:
        raise one_line(key, value, hint, error.errors()) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key or 'the config'}: {error}") from None


@cache
def adapter(hint: Any) -> Any:
    """pydantic's checker of dicts with annotated values: inside a dict, dataclasses too are held to strict rules."""
    from pydantic import ConfigDict, TypeAdapter

    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(dict[str, hint], config=strict)


@cache
def signature(function: Callable[..., Any]) -> type[Any]:
    """A dataclass of the keyword-only parameters of a function, or of a class's constructor."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    found = []
    for p in inspect.signature(function).parameters.values():
        default: Any = field() if p.default is p.empty else field(default_factory=partial(getattr, p, "default"))
        if p.kind is p.KEYWORD_ONLY:
            found.append((p.name, hints.get(p.name, Any), default))
    return make_dataclass(function.__name__, found, kw_only=True, frozen=True)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not OmegaConf.is_config(value):
        raise TypeError(f"{value!r} is not allowed; it must be a text, a number, a list or a mapping")
    return OmegaConf.to_container(value, resolve=True)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
