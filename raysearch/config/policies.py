"""Policies and allocators by name, and their arguments. The one place where the engine imports them."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NewType, get_type_hints

from raysearch.config.binding import bind
from raysearch.config.foreign import check_signature, imported, refused
from raysearch.config.mistakes import nearest
from raysearch.config.step_cache import CacheBlock, spelled, step_cache
from raysearch.errors import ConfigError

PolicyBlock = NewType("PolicyBlock", dict[str, Any])  # the name and the arguments of a policy, as a config has them
# Of a policy's argument that a later version added. While it is off, searches find what they found without it.
Switch = Annotated[bool, "added later"]
Cache = Annotated[CacheBlock | None, "added later"]
FORMS = {"policy": "async def search(ctx, *, ...)", "allocator": "def allocate(standing, *, ...)"}


def policy_names() -> list[str]:
    """The names of the policies that ship, sorted."""
    return _names("policies", "search")


def allocator_names() -> list[str]:
    """The names of the allocators that ship, sorted."""
    return _names("policies.allocators", "allocate")


def find_policy(name: Any, key: str = "policy") -> Callable[..., Any]:
    """The coroutine of a shipped policy's name, or of `module:function`. Raises ConfigError."""
    return _found(name, key, "policies", "search", policy_names(), "policy")


def find_allocator(name: Any, key: str = "allocation") -> Callable[..., Any]:
    """The function of a shipped allocator's name, or of `module:function`. Raises ConfigError."""
    return _found(name, key, "policies.allocators", "allocate", allocator_names(), "allocator")


def _names(package: str, function: str) -> list[str]:
    """The names of a package's modules that have this function, sorted."""
    names = [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    return sorted(n for n in names if hasattr(importlib.import_module(f"{package}.{n}"), function))


def _found(name: Any, key: str, package: str, function: str, known: list[str], what: str) -> Callable[..., Any]:
    if isinstance(name, str) and ":" in name:
        return _checked(imported(name, f"{key}.name", function), f"{key}.name", name, what)
    if name not in known:
        hint = nearest(name, known) if isinstance(name, str) else ""
        raise ConfigError(f"{key}.name: no {what} {name!r}{hint}; there are {', '.join(known)}, or module:function")
    return getattr(importlib.import_module(f"{package}.{name}"), function)  # type: ignore[no-any-return]


def _checked(function: Any, key: str, name: str, what: str) -> Callable[..., Any]:
    """A policy or allocator of the user's. Raises ConfigError unless it has the right form."""
    form, wanted = FORMS[what], "a coroutine" if what == "policy" else "a plain def"
    is_now = "a plain def" if inspect.isfunction(function) else f"of type {type(function).__name__}"
    if inspect.iscoroutinefunction(function):
        is_now = "a coroutine"
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        is_now = "a generator, since it has a yield"
    if is_now != wanted:
        raise refused(key, name, function, f"{wanted}, {form}; it is {is_now}")
    check_signature(function, key, name, taken=1, form=form)
    if "name" in inspect.signature(function).parameters:
        raise refused(key, name, function, f"without a parameter `name`: that key names the {what} itself")
    return function  # type: ignore[no-any-return]


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
        elif hints.get(k) == (CacheBlock | None) and inner is not None:
            bound[k] = spelled(step_cache(inner, f"{key}.{k}"))
    return search, bound


def seeding(search: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that seed a policy's generator: all but those "added later" that are off, in inner policies too."""
    hints, found = get_type_hints(search, include_extras=True), dict(arguments)
    for k, v in arguments.items():
        if hints.get(k) is PolicyBlock:
            found[k] = seeding(find_policy(v["name"]), v)
        elif hints.get(k) in (Switch, Cache) and not v:
            del found[k]
    return found


def load_allocator(block: dict[str, Any], key: str = "allocation") -> tuple[Callable[..., Any], dict[str, Any]]:
    """An allocator's function, and all its arguments, checked. Raises ConfigError."""
    allocate = find_allocator(block.get("name"), key)
    return allocate, bind(allocate, {k: v for k, v in block.items() if k != "name"}, key)
