"""A sweep: curves of arms over any keys of an arm's config, run as one session, so that arms share candidates.

A sweep's config is an ordinary one with a block `sweep` in place of `arms`:

    sweep:
      across: {sampler.num_steps: [20, 40]}          # every curve is drawn at each
      curves:
        - {policy: {name: best_of_n}, along: {policy.n: [1, 2, 4, 8]}}
        - policy: {name: rgrp, schedule: [8, 14, 18]}
          along: {policy.n: [2, 4], policy.temperature: [1.0, 0.5]}
          across: {policy.beta: [0.1, 0.5]}

A curve is an arm's block (`name`, `policy`, `sampler`, `budget`, `rewards`, `allocation`; keys left out are the
config's) with axes. `along` lists the points of one curve, smallest budget first: its keys change together, so their
lists are equally long.
`across` makes one curve for each combination of its values. The arms are named by policy and values, such as
`rgrp-steps20-beta0.1-n2-temperature1.0`.

Two keys of a sweep have defaults of their own: `resume: auto`, and `seeds_apart: true`, since a few noises that all
captions share would make every interval wide. `baseline` names the arm over which gains are measured.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.config import config as configuration
from raysearch.config.config import ARM_KEYS, Config
from raysearch.config.mistakes import unknown_key
from raysearch.config.reading import read
from raysearch.errors import ConfigError, check
from raysearch.files import Folder
from raysearch.parquet import write_table
from raysearch.recipe.digests import digest
from raysearch.sweep import curves, report

BLOCKS = tuple(k for k in ARM_KEYS if k != "obstacles")  # mappings, whose keys can be axes; obstacles are a list
MOST_ARMS = 1000
LONGEST_NAME = 64
SHORT = {
    "num_steps": "steps",
    "replica_seconds": "seconds",
    "total_nfe": "total",
}  # in names, of keys that stay clear when shortened


@dataclass(frozen=True)
class Point:
    """An arm's place in its sweep: the label of its curve, and its values on the axes."""

    curve: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A checked config that holds the sweep's arms, and the point of each arm by its name."""

    config: Config
    points: dict[str, Point]

    @property
    def axes(self) -> list[str]:
        """The keys of all axes, in the order of their first points."""
        return list(dict.fromkeys(key for p in self.points.values() for key in p.values))


def load(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The checked sweep of a YAML file with `key=value` overrides. Raises ConfigError."""
    values = read(path, overrides, Config)
    check("sweep" in values, "sweep", None, "a mapping with curves: without it this is a plain config")
    return build(values)


def build(values: dict[str, Any]) -> Sweep:
    """The checked sweep of a config given as a mapping. Raises ConfigError."""
    base = {"resume": "auto", "seeds_apart": True} | {k: v for k, v in values.items() if k != "sweep"}
    baseline = base.pop("baseline", None)  # it is an arm, and there are none yet
    check(base.get("arms") is None, "arms", base.get("arms"), "left out: a sweep makes its own")
    check(base.get("collect") is None, "collect", base.get("collect"), "left out of a sweep")
    config = replace(configuration.build(base), policy=configuration.PLAIN)  # the arms' blocks have its own
    blocks: list[dict[str, Any]] = []
    points: dict[str, Point] = {}
    owners: dict[str, str] = {}  # a curve's label -> its key in the config
    same: dict[str, str] = {}  # an arm's content -> its name
    for where, block, point in _expanded(base, values["sweep"]):
        name = block["name"]
        try:
            (arm,) = configuration.arms(replace(config, arms=[block]))
        except ConfigError as error:
            mistake = str(error.__cause__ or error).removeprefix("arms[0].")
            raise ConfigError(f"{where} ({name}): {mistake}") from error
        check(
            owners.setdefault(point.curve, where) == where, where, point.curve, "given a `name`: another curve has this"
        )
        content = repr((arm.policy, arm.arguments, arm.sampler, arm.budget, arm.rewards, arm.obstacles, arm.allocation))
        check(content not in same, where, name, f"another arm than {same.get(content)}, which does the same")
        check(name not in points, where, name, "named differently from the arms before it: give its curve a `name`")
        same[content] = name
        points[name] = point
        blocks.append(block)
    built = {"policy": configuration.PLAIN, "arms": blocks, "baseline": baseline}
    return Sweep(configuration.build(base | built), points)


# -- grids -----------------------------------------------------------------------------------------------------------


def _expanded(base: dict[str, Any], sweep: Any) -> Iterator[tuple[str, dict[str, Any], Point]]:
    """For each arm the key of its curve in the config, its block, and its point."""
    check(isinstance(sweep, dict), "sweep", sweep, "a mapping with curves")
    _known("sweep", sweep, ("curves", "across"))
    found = sweep.get("curves")
    check(isinstance(found, list) and len(found) > 0, "sweep.curves", found, "a list of at least one curve")
    assert isinstance(found, list)
    shared = _axes("sweep.across", sweep.get("across"))
    grids = []
    for i, curve in enumerate(found):
        where = f"sweep.curves[{i}]"
        check(isinstance(curve, dict), where, curve, "a mapping like an arm's, with `along` and `across`")
        _known(where, curve, ("name", *ARM_KEYS, "along", "across"))
        along, across = _axes(f"{where}.along", curve.get("along")), _axes(f"{where}.across", curve.get("across"))
        for key in across:
            check(key not in shared, f"{where}.across", key, "left out: it is in sweep.across")
        for key in along:
            check(key not in shared | across, f"{where}.along", key, "left out: it is in across")
        lengths = {key: len(v) for key, v in along.items()}
        check(len(set(lengths.values())) <= 1, f"{where}.along", lengths, "of equally long lists: they move together")
        grids.append((where, curve, shared | across, along))
    arms = sum(
        prod(map(len, across.values())) * max(map(len, along.values()), default=1) for *_, across, along in grids
    )
    check(arms <= MOST_ARMS, "sweep", f"{arms} arms", f"of at most {MOST_ARMS}")
    for where, curve, across, along in grids:
        for values in product(*across.values()):
            fixed = dict(zip(across, values, strict=True))
            for i in range(max(map(len, along.values()), default=1)):
                moving = {key: v[i] for key, v in along.items()}
                yield where, *_arm(where, base, curve, fixed, moving)


def _axes(where: str, block: Any) -> dict[str, list[Any]]:
    """The checked axes of a block: keys of an arm's config, such as policy.n, and the list of values of each."""
    if block is None:
        return {}
    check(isinstance(block, dict), where, block, "a mapping of keys like policy.n to lists")
    for key, values in block.items():
        top, dot, rest = str(key).partition(".")
        if top not in BLOCKS or not dot:
            raise ConfigError(unknown_key(f"{where}.{key}", str(key), [f"{k}.…" for k in BLOCKS]))
        check(all(rest.split(".")), f"{where}.{key}", key, "a key like policy.n")
        check(isinstance(values, list) and len(values) > 0, f"{where}.{key}", values, "a list of at least one value")
    if where.endswith("across"):
        for key, values in block.items():
            check(len(set(map(repr, values))) == len(values), f"{where}.{key}", values, "without repetition")
    return dict(block)


def _arm(
    where: str, base: dict[str, Any], curve: dict[str, Any], fixed: dict[str, Any], moving: dict[str, Any]
) -> tuple[dict[str, Any], Point]:
    """An arm's block, in which every key that its curve or axes change is written out, and its point."""
    block: dict[str, Any] = {}
    if "obstacles" in curve:
        block["obstacles"] = deepcopy(curve["obstacles"])
    for key in BLOCKS:
        own = curve.get(key)
        check(own is None or isinstance(own, dict), f"{where}.{key}", own, "a mapping")
        if own is None and not any(axis.startswith(f"{key}.") for axis in fixed | moving):
            continue
        below = base.get(key) or ({"name": "single"} if key == "policy" else {})
        named = key in ("policy", "allocation")  # another policy or allocator has other arguments
        replaces = named and own is not None and "name" in own
        block[key] = deepcopy((own or {}) if replaces else below | (own or {}))
        for axis, value in (fixed | moving).items():
            if axis.startswith(f"{key}."):
                _put(block[key], axis.split(".")[1:], value, f"{where}: {axis}")
    label = curve.get("name")
    check(label is None or (isinstance(label, str) and bool(label)), f"{where}.name", label, "a text")
    check(label is not None or "policy.name" not in moving, f"{where}.name", label, "given, as policy.name is in along")
    if label is None and "policy.name" not in fixed:
        label = str(block.get("policy", base.get("policy") or {"name": "single"}).get("name", ""))
    across = _name(label, fixed)
    return {"name": _name(across, moving), **block}, Point(across, fixed | moving)


def _put(block: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    for key in path[:-1]:
        if block.get(key) is None:
            block[key] = {}
        block = block[key]
        check(isinstance(block, dict), where, block, "a key within mappings")
    block[path[-1]] = deepcopy(value)


def _known(where: str, block: Mapping[Any, Any], allowed: Sequence[str]) -> None:
    for key in block:
        if key not in allowed:
            raise ConfigError(unknown_key(f"{where}.{key}", str(key), allowed))


# -- names -----------------------------------------------------------------------------------------------------------


def _name(label: str | None, values: dict[str, Any]) -> str:
    """A label and values as a file name. It ends in a digest if characters were replaced or it was cut short."""
    raw = "-".join([*([label] if label else []), *(_part(key, v) for key, v in values.items())])
    name = "".join(ch if (ch.isascii() and ch.isalnum()) or ch in "._+-" else "-" for ch in raw)
    if name == raw and len(name) <= LONGEST_NAME:
        return name
    mark = digest(raw).hex()[:8]
    return f"{name[: LONGEST_NAME - 1 - len(mark)]}-{mark}"


def _part(key: str, value: Any) -> str:
    leaf = key.rpartition(".")[2]
    if leaf == "name":
        return str(value)
    text = _text(value)
    return f"{SHORT.get(leaf, leaf)}{'' if text[:1].isdigit() else '-'}{text}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_text, value))
    if isinstance(value, dict):
        return str(value["name"]) if set(value) == {"name"} else digest(repr(value)).hex()[:8]
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- results ---------------------------------------------------------------------------------------------------------


def write_report(sweep: Sweep, run_dir: Path) -> None:
    """Write sweep.parquet, curves.parquet, fits.parquet, the pictures and summary.md into a run directory."""
    folder = Folder(run_dir)
    rows = table(sweep, pq.read_table(run_dir / "searches.parquet"))
    write_table(folder, "sweep.parquet", rows)
    arms = configuration.arms(sweep.config)
    over = configuration.baseline(sweep.config, arms)
    baseline = over.name
    found = curves.curves(rows, baseline, configuration.unlike(arms, over))
    laws = curves.fits(found)
    write_table(folder, "curves.parquet", curves.curve_table(found))
    write_table(folder, "fits.parquet", curves.fit_table(laws))
    for name, image in report.plots(found, baseline).items():
        folder.write(name, image)
    folder.write("summary.md", report.summary(rows, found, laws, baseline).encode())


def table(sweep: Sweep, searches: pa.Table) -> pa.Table:
    """sweep.parquet: the rows of searches.parquet with their curve, their NFE alone, and a column per axis."""
    points = [sweep.points[arm] for arm in searches["arm"].to_pylist()]
    rows = searches.append_column("curve", pa.array([p.curve for p in points], pa.string()))
    rows = rows.append_column("nfe_alone", searches["nfe"])
    for key in sweep.axes:
        every = [p.values[key] for p in sweep.points.values() if p.values.get(key) is not None]
        numbers = all(type(v) in (int, float) and abs(v) < 2**53 for v in every)
        kind = pa.float64() if numbers else pa.string()
        if numbers and all(isinstance(v, int) for v in every):
            kind = pa.int64()
        cells = [p.values.get(key) for p in points]
        if not numbers:
            cells = [v if v is None or isinstance(v, str) else json.dumps(v) for v in cells]
        rows = rows.append_column(f"axis_{key}", pa.array(cells, kind))
    return rows
