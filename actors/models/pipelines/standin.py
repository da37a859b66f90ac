"""A stand-in for a part of a pipeline: it is asked in the part's place, and can answer calls in its own way."""

from typing import Any


class StandIn:
    """Passes for `part`: its class and its attributes are the part's, but for what a subclass answers itself."""

    def __init__(self, part: Any) -> None:
        self._part = part

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_part"], name)
