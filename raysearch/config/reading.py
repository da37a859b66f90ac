"""A config file and its `key=value` overrides as one plain mapping, which the schema then checks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raysearch.config.media import is_file
from raysearch.config.mistakes import below, members
from raysearch.errors import ConfigError, check, plain


def read(path: Path, overrides: Sequence[str], schema: type, *, resolve: bool = True) -> dict[str, Any]:
    """A file with `key=value` overrides as a plain mapping; `schema` says which keys are texts. Raises ConfigError.

    Without `resolve` a ${...} is a text, as in the config.yaml of a run, where what it stood for is written out.
    """
    check(is_file(path), "the config file", str(path), "an existing YAML file")
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # yaml's own errors have no common type
        raise ConfigError(f"the config file: {str(path)!r} is no YAML: {plain(error)}") from error
    check(isinstance(loaded, DictConfig), "the config file", str(path), "a YAML mapping")
    given: dict[str, Any] = {}
    for o in overrides:
        check("=" in o and not o.startswith("="), "an override", o, "of the form key=value")
        key, _, text = o.partition("=")
        value = _value(key, text, schema)
        for name in reversed(key.split(".")):
            value = {name: value}
        given = _merged(given, value)
    try:
        merged = _merged(OmegaConf.to_container(loaded), given, schema)
        found: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(merged), resolve=resolve)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = str(error.full_key or "the config file")
        raise ConfigError(f"{key}: {plain(error).partition(' full_key:')[0]}") from error
    return found


def _value(key: str, text: str, schema: type) -> Any:
    """What an override's text means in YAML; where the schema wants a text, what looks like a number is one, too."""
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except Exception as error:
        quotes = "; a text with brackets, braces, colons or quotes is in quotes itself"
        if text.count("[") > text.count("]") or text.count("{") > text.count("}"):
            quotes = "; a bracket is not closed (a shell divides at spaces: put the whole of key=value in quotes)"
        where = re.sub(r' in "<unicode string>"', "", plain(error))
        raise ConfigError(f"{key}: {text!r} is no YAML: {where}{quotes}") from error
    if key == "prompts" and isinstance(value, list):
        unclear = len(value) > 1 and any(isinstance(v, str) and " " in v for v in value) and not set("'\"") & set(text)
        allowed = "a list with each prompt in quotes, as commas divide it: prompts=\"['a, b', 'c']\""
        check(not unclear, key, text, allowed)  # one prompt with commas would be several
    hint: Any = schema
    for name in key.split("."):
        hint = below(hint, name)
    return text if isinstance(value, bool | int | float) and str in members(hint) else value


def _merged(old: Any, new: Any, hint: Any = None, key: str = "") -> Any:
    """`new` over `old`, and mappings merged; where the keys of a block depend on its `name`, not those of another name.

    Raises ConfigError where `old` is a text, which has no keys.
    """
    check(not (isinstance(new, dict) and isinstance(old, str)), key, old, "a mapping")
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if below(hint, "name") is Any and {"name"} <= old.keys() & new.keys() and old["name"] != new["name"]:
        return new
    return old | {k: _merged(old.get(k), v, below(hint, k), f"{key}.{k}".lstrip(".")) for k, v in new.items()}
