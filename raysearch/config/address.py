"""Addresses of servers and of folders that a config names, which are shown and written down: they hold no secret."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raysearch.errors import ConfigError, check

CONTAINED = ("abfs", "abfss")  # schemes whose URLs may have the container before an @


def is_bare(url: str) -> bool:
    """Whether an address is without a user's name, a password, a query and a fragment, as secrets stand in these."""
    try:
        found = urlsplit(url)
        good = found.port is None or found.port > 0
    except ValueError:  # of a port that is no number, which may be the half of a password
        return False
    return good and not (found.query or found.fragment or "@" in url) and url.isprintable()


def hidden(key: str, allowed: str) -> ConfigError:
    """The error of a value that may be a secret, so the error does not show it."""
    return ConfigError(f"{key}: the value, which is not shown, is not allowed; it must be {allowed}")


def is_url(text: str) -> bool:
    """Whether a text is a URL, such as s3://bucket/run, and no path; also one that lacks a slash, for `folder_url`."""
    return re.match("[A-Za-z][A-Za-z0-9+.-]+:/", text) is not None


def unfiled(text: str) -> str:
    """The path of a file:// URL of this machine; any other text as it is."""
    return unquote(re.sub("^file://(localhost)?(?=/)", "", text)) if text.startswith("file://") else text


def folder_url(key: str, url: str) -> str:
    """The URL of a folder without what does not matter in it. Raises ConfigError, also where it may hold a secret."""
    allowed = "the URL of a folder, such as s3://bucket/run"
    try:
        found = urlsplit(url)
        container, at, _ = found.netloc.rpartition("@")
        bare = not (at and (found.scheme not in CONTAINED or ":" in container)) and not (found.query or found.fragment)
    except ValueError:
        bare = False
    if not (bare and url.isprintable()):
        where = "the library finds credentials in the environment"
        raise hidden(key, f"{allowed}, without a user's name, a password and a query: {where}")
    path = found.path.strip("/")
    whole = bool(found.netloc and path) and not {"", ".", ".."} & set(path.split("/"))
    check(whole, key, url, f"{allowed}, with a bucket and the folder's name in it")
    return f"{found.scheme.lower()}://{found.netloc}/{path}"


def folder_or_url(text: str) -> Path | str:
    """What a command is given as a run's folder: a path, or as a text a URL."""
    given = unfiled(text)
    return given if is_url(given) else Path(given)
