"""The fleets that a plan tries side by side, and what it is told on the command line about time and money."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import isfinite
from typing import Any

from raysearch.config.config import Config
from raysearch.config.fleet import FleetConfig, check_fleet
from raysearch.errors import ConfigError, check

POOLS = ("denoisers", "scorers", "encoders")
KEYS = (*POOLS, "slots", "store_gb")
MOST = 100  # fleets of one plan
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
TIME = re.compile(r"(?:(\d+(?:\.\d+)?)(d|h|min|m|s))")


def tried(config: Config, tries: Sequence[str]) -> list[tuple[str, Config]]:
    """Each fleet with its label: the config's own without `tries`, else all ways to choose one value of each.

    A text of `tries` is KEY=VALUE,VALUE... Raises ConfigError.
    """
    asked: dict[str, list[float]] = {}
    for text in tries:
        key, equals, values = text.partition("=")
        allowed = f"of the form KEY=N,N.. with one of {', '.join(KEYS)}, such as scorers=1,2"
        check(key in KEYS and bool(equals), "--try", text, allowed)
        check(key not in asked, "--try", text, f"given once for {key}, with all values: {key}=1,2,4")
        asked[key] = [_number(text, key, v) for v in values.split(",")]
    ways = [dict(zip(asked, way, strict=True)) for way in product(*asked.values())]
    check(len(ways) <= MOST, "--try", " ".join(tries), f"at most {MOST} fleets; these are {len(ways)}")
    found = [replace(config, fleet=changed(config.fleet, way)) for way in ways]
    for c in found:
        check_fleet(c.fleet)
    widths = [max(len(str(getattr(c.fleet, k).most)) for c in found) for k in ("denoisers", "scorers")]
    return [(label(c.fleet, way, widths), c) for c, way in zip(found, ways, strict=True)]


def _number(text: str, key: str, value: str) -> float:
    allowed = "numbers above 0, such as 0.5,1" if key == "store_gb" else "whole numbers from 1 to 1000, such as 1,2,4"
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    whole = key == "store_gb" or (number == int(number) and number <= 1000) if isfinite(number) else False
    check(whole and number > 0, "--try", text, allowed)
    return number


def changed(fleet: FleetConfig, way: dict[str, float]) -> FleetConfig:
    """The fleet with other numbers; a number of replicas is then fixed, also where it was elastic."""
    for key, value in way.items():
        if key in POOLS:
            fleet = replace(fleet, **{key: replace(getattr(fleet, key), replicas=int(value))})
        elif key == "slots":
            fleet = replace(fleet, denoisers=replace(fleet.denoisers, slots=int(value)))
        else:
            fleet = replace(fleet, store_gb=value)
    return fleet


def label(fleet: FleetConfig, way: dict[str, float], widths: Sequence[int] = (1, 1)) -> str:
    """Denoisers + scorers, and what else was tried."""
    d, s = (f"{getattr(fleet, k).most:{w}}" for k, w in zip(("denoisers", "scorers"), widths, strict=True))
    more = [f"{k} {v:g}" for k, v in way.items() if k not in ("denoisers", "scorers")]
    return ", ".join([f"{d} + {s}", *more])


def one_more(config: Config, kind: str) -> Config:
    """The config with one more replica of a kind."""
    pool: Any = getattr(config.fleet, f"{kind}s")
    return replace(config, fleet=changed(config.fleet, {f"{kind}s": pool.most + 1}))


def seconds(key: str, text: str) -> float:
    """The seconds of a time such as 45m or 1h30m. Raises ConfigError, which names `key`."""
    found = TIME.findall(text)
    whole = "".join(n + unit for n, unit in found) == text
    total = sum(float(n) * UNITS[unit] for n, unit in found)
    if not (whole and total > 0 and isfinite(total)):
        raise ConfigError.of(key, text, "a time such as 45m, 1h or 1h30m")
    return total
