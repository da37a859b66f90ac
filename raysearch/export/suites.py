"""Where benchmark suites look for their videos, and which video of a run goes where.

The layouts are those that the suites' own programs read: VBench and VBench-2.0 (github.com/Vchitect/VBench),
T2V-CompBench (github.com/KaiyueSun98/T2V-CompBench), EvalCrafter (github.com/evalcrafter/EvalCrafter) and PhyGenBench
(github.com/OpenGVLab/PhyGenBench). What a suite says of a prompt, such as its dimension, is a tag of the prompt.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from raysearch.config.suites import LONGEST, MORE, NAMES, SAMPLES, is_name
from raysearch.errors import ConfigError, check, plain
from raysearch.session.tables import FINISHED

OWN = ("arm", "prompt", "seed", "index", "search_id")  # of a pattern: what every run has
NUMBERS = ("seed", "index", "number")
SPEC = re.compile(r"(\.[1-9]\d{0,2}|0?[1-9]d?)?", re.ASCII)  # of a field: .60 cuts a text, 04 fills a number up
DIMENSION = "dimension"

Row = Mapping[str, Any]  # of searches.parquet


@dataclass(frozen=True)
class Layout:
    """Where videos go, as a pattern of their paths, and how many `samples` of each prompt are wanted.

    None is as many as there are. `more` are the samples of prompts of some dimensions. `first` is added to a prompt's
    number. A suite's pattern is below a folder for each arm.
    """

    pattern: str
    samples: int | None = None
    more: Mapping[str, int] = field(default_factory=dict)
    first: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in braces."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.pattern) if name is not None)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of a prompt that decide where its videos go, and how many there are."""
        asked = dict.fromkeys((*self.fields, *((DIMENSION,) if self.more else ())))
        return tuple(name for name in asked if name not in OWN)


SUITES = {
    "vbench": Layout("{arm}/" + NAMES["vbench"], SAMPLES["vbench"], MORE["vbench"]),
    "vbench2": Layout("{arm}/{dimension}/" + NAMES["vbench2"], SAMPLES["vbench2"], MORE["vbench2"]),
    "t2v-compbench": Layout("{arm}/{category}/{number:04}.mp4", SAMPLES["t2v-compbench"]),
    "evalcrafter": Layout("{arm}/{number:04}.mp4", SAMPLES["evalcrafter"]),
    "phygenbench": Layout("{arm}/output_video_{number}.mp4", SAMPLES["phygenbench"], first=1),
}


def of_pattern(pattern: str) -> Layout:
    """The layout of a user's pattern, such as "{arm}/{prompt:.60}-{seed}.mp4". Raises ConfigError."""
    names = f"fields such as {{prompt:.60}} or {{index:04}}, of {', '.join(OWN)} and the prompts' tags"
    try:
        parsed = list(Formatter().parse(pattern))
    except ValueError as error:
        raise ConfigError.of("--pattern", pattern, f"a path with {names} ({error})") from error
    for _, name, spec, conversion in parsed:
        fits = name is None or (re.fullmatch(r"\w+", name) and conversion is None and SPEC.fullmatch(spec or ""))
        check(bool(fits), "--pattern", pattern, f"a path with {names}")
    return Layout(pattern)


def placed(rows: Sequence[Row], layout: Layout, *, partial: bool = False) -> dict[str, Row]:
    """The search whose video goes to each path of a layout; samples of a prompt are in the order of their seeds.

    `rows` are all searches of a run. Raises ConfigError for the first prompt of which an arm has too few videos, unless
    an export may be `partial`, and for paths that cannot be.
    """
    for tag in layout.tags:
        allowed = f"those of a run whose prompts have the tag {tag}, as prompts: {{suite: ..., path: ...}} gives them"
        check(all(f"tag_{tag}" in r for r in rows), "RUN_DIR", "its prompts", allowed)
    found: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(dict)  # of each prompt, by arm
    arms = dict.fromkeys(r["arm"] for r in rows)
    for r in sorted(rows, key=lambda r: (r["seed"], r["search_id"])):
        of_prompt = found[r["prompt"], *(r[f"tag_{tag}"] for tag in layout.tags)]
        of_prompt.setdefault(r["arm"], []).append(r)
    places: dict[str, Row] = {}
    for (prompt, *_), of_prompt in sorted(found.items(), key=lambda item: min(_order(r) for r in item[1].values())):
        for arm in arms:
            of_arm = of_prompt.get(arm, [])
            there = [r for r in of_arm if r["video"] and r["status"] in FINISHED]
            tags = {tag: next(iter(of_prompt.values()))[0][f"tag_{tag}"] for tag in layout.tags}
            for values, wanted in _variants(layout, tags, prompt):
                if layout.samples is None:
                    wanted = len(of_arm)
                if len(there) < wanted and not partial:
                    short = f"arm {arm} has {len(there)} of {wanted} videos of {plain(prompt, 100)!r}"
                    raise ConfigError(f"RUN_DIR: {short}; --partial exports what is there")
                for i, r in enumerate(there[:wanted]):
                    path = _path(layout, r, {**{k: r.get(k, i) for k in OWN}, **values})
                    other = places.setdefault(path, r)
                    if other is not r:
                        both = (f"{x['search_id']} ({plain(x['prompt'], 100)!r})" for x in (other, r))
                        raise ConfigError(f"the path {plain(path, 300)!r} is that of two videos: {' and '.join(both)}")
    return places


def _order(rows: Sequence[Row]) -> str:
    """The place of a prompt in its run."""
    return min(str(r["search_id"]) for r in rows)


def _variants(layout: Layout, tags: Mapping[str, Any], prompt: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The values of a prompt's tags, once for each folder that its videos are in, and how many are wanted there."""
    values = dict(tags)
    if "number" in values:
        given = str(values["number"])
        whole = re.fullmatch(r"\d{1,9}", given, re.ASCII)
        check(bool(whole), f"the tag number of {plain(prompt, 100)!r}", values["number"], "a whole number")
        values["number"] = int(given) + layout.first
    dimensions = _names(values.get(DIMENSION))
    wanted = [layout.more.get(d, layout.samples or 0) for d in dimensions]
    if DIMENSION in layout.fields:
        yield from (({**values, DIMENSION: d}, n) for d, n in zip(dimensions, wanted, strict=True))
    else:
        yield values, max(wanted, default=layout.samples or 0)


def _names(tag: Any) -> list[str]:
    """The names that a tag holds: one as it stands, or a JSON list of them."""
    if tag is None or not tag.startswith("["):
        return [] if tag is None else [tag]
    try:
        return [str(name) for name in json.loads(tag)]
    except (ValueError, RecursionError):
        return [tag]


def _path(layout: Layout, row: Row, values: Mapping[str, Any]) -> str:
    """A pattern filled in. Raises ConfigError where that is no path that stays below a folder."""
    path, of = "", f"of {row['search_id']}"
    for literal, name, spec, _ in Formatter().parse(layout.pattern):
        path += literal
        if name is None:
            continue
        value = values[name]
        try:
            text = format(value if name in NUMBERS else str(value), spec or "")
        except ValueError as error:
            raise ConfigError.of("--pattern", layout.pattern, f"one that fits the {name} {value!r} {of}") from error
        fits = value is not None and not set("/\0") & set(text)
        shown = None if value is None else plain(value, 300)
        check(fits, f"the {name} {of}", shown, "a text without slashes, which can name a file")
        path += text
    allowed = f"one below a folder, whose names have 1 to {LONGEST} bytes"
    check(all(map(is_name, path.split("/"))), f"the path {of}", plain(path, 300), allowed)
    kind = Path(row["video"]).suffix
    check(path.endswith(kind), "the pattern of videos", layout.pattern, f"one that ends in {kind}")
    return path
