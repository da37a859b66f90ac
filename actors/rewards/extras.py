"""Libraries that only some rewards need, which come with an extra of the package."""

import importlib
from types import ModuleType

from raysearch.errors import ConfigError


def library(module: str, *, extra: str) -> ModuleType:
    """The module of an optional library. Raises ConfigError, with how to install the library, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"name: this reward needs {module} ({error}): pip install -e '.[{extra}]'") from error
