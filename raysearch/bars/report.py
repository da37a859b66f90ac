"""What `raysearch bars` prints: a block `policy` as YAML, with what it is expected to do as comments."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from raysearch.bars.choice import chosen
from raysearch.bars.rollouts import read
from raysearch.errors import ConfigError, check

UNITS = {"seconds": "replica-seconds", "nfe": "NFE"}


def report(
    run_dir: Path, *, cost: float, arm: str | None, against: int, batch: int, unit: str, file: Path | None
) -> str:
    """The printed text; `file` then holds the same as JSON. Raises ConfigError."""
    check(0 < cost < float("inf"), "--cost", cost, "a number above 0, such as 0.5")
    check(file is None or file.parent.is_dir(), "--json", str(file), "a file in a folder that is there")
    name, of = read(run_dir, arm, unit)
    for key, value, least in (("--against", against, 2), ("--batch", batch, 1)):
        check(least <= value <= of.noises, key, value, f"in {least}..{of.noises}, the noises of a search of {name}")
    found = {"arm": name, "unit": UNITS[unit]} | chosen(of, cost=cost, against=against, batch=batch)
    if file is not None:
        try:
            file.write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            raise ConfigError.of("--json", str(file), f"a file that can be written ({error.strerror})") from error
    return text(found)


def text(found: dict[str, Any]) -> str:
    """What `chosen` found, with the arm's name and the unit of costs, as YAML."""
    e, fitted, unit = found["expected"], found["cross_fitted"], found["unit"]
    rival = f"best-of-{found['against']}'s"

    def spread(key: str) -> str:
        return f"{e[key]['p50']:.3g} [{e[key]['p10']:.3g}, {e[key]['p90']:.3g}]"

    def interval(key: str, form: str) -> str:
        value, low, high = (format(x, form) for x in fitted[key])
        return f"{value} [{low}, {high}]"

    success = "" if found["policy"]["enough"] is None else f"; success {e['success']:.2f}"
    lines = [
        f"# Arm {found['arm']}: {found['searches']} searches of {found['captions']} captions, {found['noises']} noises "
        "each.",
        f"# Rules that are chosen on some captions and measured on others, in {found['folds']} folds:",
        f"#   gain over one noise {interval('gain', '.3g')}, {interval('gain_share', '.2f')} of {rival}, at "
        f"{interval('cost_share', '.2f')} of its cost",
        "# The rule below, on the captions that it was chosen on:",
        f"#   gain over one noise {e['gain']:.3g}, {e['gain_share']:.2f} of {rival}, at {e['cost_share']:.2f} of its "
        f"cost, which is {e['cost']:.3g} {unit}{success}",
        f"#   one after the other: {spread('rounds')} rounds, {spread('latency')} {unit} (median, p10 to p90)",
    ]
    return "\n".join(lines) + "\n" + OmegaConf.to_yaml(OmegaConf.create({"policy": found["policy"]}))
