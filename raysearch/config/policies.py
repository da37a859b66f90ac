"""Policies by name, and their arguments. The one place where the engine imports a policy."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NewType, get_type_hints

from raysearch.config.binding import bind
from raysearch.config.foreign import check_signature, imported, refused
from raysearch.config.mistakes import nearest
from raysearch.errors import ConfigError

PolicyBlock = NewType("PolicyBlock", dict[str, Any])  # the name and the arguments of a policy, as a config has them


def policy_names() -> list[str]:
    """The names of the policies that ship, sorted."""
    package = importlib.import_module("policies")
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    return sorted(n for n in names if hasattr(importlib.import_module(f"policies.{n}"), "search"))


def find_policy(name: Any, key: str = "policy") -> Callable[..., Any]:
    """The coroutine of a shipped policy's name, or of `module:function`. Raises ConfigError."""
    if isinstance(name, str) and ":" in name:
        return _checked(imported(name, f"{key}.name", "search"), f"{key}.name", name)
    known = policy_names()
    if name not in known:
        hint = nearest(name, known) if isinstance(name, str) else ""
        raise ConfigError(f"{key}.name: no policy {name!r}{hint}; there are {', '.join(known)}, or module:function")
    return importlib.import_module(f"policies.{name}").search  # type: ignore[no-any-return]


def _checked(search: Any, key: str, name: str) -> Callable[..., Any]:
    """A user's policy. Raises ConfigError unless it is a coroutine of the right form."""
    form = "async def search(ctx, *, ...)"
    if not inspect.iscoroutinefunction(search):
        what = "a plain def" if inspect.isfunction(search) else f"of type {type(search).__name__}"
        if inspect.isasyncgenfunction(search):
            what = "a generator, since it has a yield"
        raise refused(key, name, search, f"a coroutine, {form}; it is {what}")
    check_signature(search, key, name, taken=1, form=form)
    if "name" in inspect.signature(search).parameters:
        raise refused(key, name, search, "without a parameter `name`: that key names the policy itself")
    return search  # type: ignore[no-any-return]


def load_policy(block: dict[str, Any], key: str = "policy") -> tuple[Callable[..., Any], dict[str, Any]]:
    """A policy's coroutine, and all its arguments, checked; those of the policies in its arguments too.

    Raises ConfigError.
    """
    name = block.get("name")
    search = find_policy(name, key)
    bound = bind(search, {k: v for k, v in block.items() if k != "name"}, key)
    hints = get_type_hints(search)
    for k, inner in bound.items():
        if hints.get(k) is PolicyBlock:
            bound[k] = {"name": inner.get("name"), **load_policy(inner, f"{key}.{k}")[1]}
    return search, bound
