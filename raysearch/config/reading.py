"""A config file, over its base if it has one, and `key=value` overrides as one plain mapping, which the schema checks.

A file with `base: other.yaml`, a path from its own folder, has the keys of that file, but for those that it gives
itself: mappings are merged, and lists and other values replaced, as by an override. `null` takes away a key of the base
that has a default; an argument of a policy or a reward has no schema here, and `null` is its value. A base has no base.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raysearch.config.media import is_file
from raysearch.config.mistakes import below, members, optional
from raysearch.errors import ConfigError, check, plain

BASE = "base"


def read(path: Path, overrides: Sequence[str], schema: type, *, resolve: bool = True) -> dict[str, Any]:
    """A file with `key=value` overrides as a plain mapping; `schema` says which keys are texts. Raises ConfigError.

    Without `resolve` a ${...} is a text, as in the config.yaml of a run, where what it stood for is written out.
    """
    loaded = _loaded("the config file", path, "an existing YAML file")
    if resolve and BASE in loaded:
        loaded = _over_base(path, loaded, schema)
    given: dict[str, Any] = {}
    for o in overrides:
        check("=" in o and not o.startswith("="), "an override", o, "of the form key=value")
        key, _, text = o.partition("=")
        value = _value(key, text, schema)
        for name in reversed(key.split(".")):
            value = {name: value}
        given = _merged(given, value)
    check(BASE not in given, BASE, given.get(BASE), "given in the config file, and not as an override")
    try:
        merged = _merged(loaded, given, schema)
        found: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(merged), resolve=resolve)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = str(error.full_key or "the config file")
        raise ConfigError(f"{key}: {plain(error).partition(' full_key:')[0]}") from error
    return found


def _loaded(key: str, path: Path, allowed: str) -> dict[str, Any]:
    """The mapping in a YAML file, in which a ${...} is a text. Raises ConfigError, which names `key` and the file."""
    check(is_file(path), key, str(path), allowed)
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # yaml's own errors have no common type
        raise ConfigError(f"{key}: {str(path)!r} is no YAML: {plain(error)}") from error
    check(isinstance(loaded, DictConfig), key, str(path), "a YAML mapping")
    found: dict[str, Any] = OmegaConf.to_container(loaded)  # type: ignore[assignment]
    return found


def _over_base(path: Path, own: dict[str, Any], schema: type) -> dict[str, Any]:
    """The keys of a file over those of the file that its key `base` names. Raises ConfigError."""
    name = own.pop(BASE)
    check(isinstance(name, str) and bool(name), BASE, name, f"the path of a YAML file, from the folder of {path}")
    file = path.parent / name
    base = _loaded(BASE, file, f"an existing YAML file, whose path is from the folder of {path}")
    check(BASE not in base, BASE, str(file), f"a file without a base of its own: that one has {base.get(BASE)!r}")
    return _left(_merged(base, own, schema), own, schema)  # type: ignore[no-any-return]


def _left(merged: Any, own: Any, hint: Any) -> Any:
    """What is merged, without the keys that `own` takes away."""
    if not (isinstance(merged, dict) and isinstance(own, dict)):
        return merged
    gone = {k for k, v in own.items() if v is None and optional(hint, k)}
    return {k: _left(v, own.get(k), below(hint, k)) for k, v in merged.items() if k not in gone}


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
