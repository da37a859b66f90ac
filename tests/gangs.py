"""What a follower's process runs: importable by a spawned interpreter, and cheap to import."""

from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

from actors.models.source import Source
from actors.workers.gang import Gang, Place
from raysearch.config.fleet import PoolConfig


def follow(source: Source, pool: PoolConfig, place: Place) -> int:
    """Follow until told to stop; returns how many parameters this rank held."""
    gang = Gang(source, pool=pool, place=place)
    held = parameters(gang.model.model)
    gang.follow()
    return held


def announced(here: Event, function: Callable[..., Any], *arguments: Any) -> Any:
    """Say that this process is up, then call."""
    here.set()
    return function(*arguments)


def parameters(model: Any) -> int:
    return sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())
