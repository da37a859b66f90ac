"""Where the driver keeps what later runs can use again."""

import os
from pathlib import Path

from raysearch.config.fleet import EncoderPoolConfig
from raysearch.errors import check

OWN = "RAYSEARCH_CACHE"  # the variable that names the user's folder


def embeddings_folder(pool: EncoderPoolConfig) -> Path | None:
    """The folder that the block's `cache` asks for, made if need be; None without one.

    With true it is below the user's cache, if that can be written. Raises ConfigError for another folder that cannot be
    written, and where encoders that are to be released need one.
    """
    given = pool.cache
    if given is None or given is False:
        return None
    key, value = ("fleet.encoders.cache", str(given)) if given is not True else (OWN, os.environ.get(OWN, ""))
    try:
        folder = users("embeddings") if given is True else Path(value).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # the latter of a home that nobody knows
        usable = False
    check(usable or not value, key, value, "a folder that can be written")
    allowed = "false: the user's cache cannot be written, and fleet.encoders.cache names no folder"
    check(usable or not pool.release, "fleet.encoders.release", True, allowed)
    return folder if usable else None


def users(name: str) -> Path:
    """A folder of the user's, for all runs. Raises RuntimeError for a home that nobody knows."""
    if own := os.environ.get(OWN, ""):
        return Path(own).expanduser() / name
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "raysearch" / name
