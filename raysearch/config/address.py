"""Addresses of servers that a config names, which are shown and written down: they hold no secret."""

from urllib.parse import urlsplit

from raysearch.errors import ConfigError


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
