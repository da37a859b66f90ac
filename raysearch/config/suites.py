"""The prompts of public benchmarks, read from the benchmarks' own files.

A suite is a block in place of the list of prompts: `prompts: {suite: vbench, path: VBench_full_info.json}`. What a file
says of a prompt becomes tags, by which the suite's own names of videos can be made.

    suite            path                       tags
    vbench           VBench_full_info.json      dimension: a list, as a prompt may serve several dimensions
    vbench2          VBench2_full_info.json     dimension: one name
    t2v-compbench    the folder `prompts`       category: the file's name without its number; number: from 1 in its file
    evalcrafter      prompt700.txt              number: from 0
    phygenbench      prompts.json               number: from 0; and the file's other keys

Sources: Vchitect/VBench (arXiv 2311.17982, 2503.21755), KaiyueSun98/T2V-CompBench (2407.14505), evalcrafter/EvalCrafter
(2310.11440), OpenGVLab/PhyGenBench (2410.05363).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from raysearch.config.binding import structured
from raysearch.config.mistakes import nearest
from raysearch.config.rows import HUB, KNOWN, Row, content, entries, lines, path_of
from raysearch.errors import check

Name = Literal["vbench", "vbench2", "t2v-compbench", "evalcrafter", "phygenbench"]
DIMENSIONS = {
    "vbench": (
        *("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness"),
        *("dynamic_degree", "aesthetic_quality", "imaging_quality", "object_class", "multiple_objects"),
        *("human_action", "color", "spatial_relationship", "scene", "appearance_style", "temporal_style"),
        "overall_consistency",
    ),
    "vbench2": (
        *("Human_Anatomy", "Human_Clothes", "Human_Identity", "Human_Interaction", "Composition", "Diversity"),
        *("Mechanics", "Material", "Thermotics", "Multi-View_Consistency", "Dynamic_Attribute"),
        *("Dynamic_Spatial_Relationship", "Motion_Order_Understanding", "Motion_Rationality", "Camera_Motion"),
        *("Complex_Plot", "Complex_Landscape", "Instance_Preservation"),
    ),
    "t2v-compbench": (
        *("consistent_attr", "dynamic_attr", "spatial_relationship", "motion_binding", "action_binding"),
        *("interaction", "numeracy"),
    ),
}
SAMPLES: dict[str, int] = {"vbench": 5, "vbench2": 3, "t2v-compbench": 1, "evalcrafter": 1, "phygenbench": 1}
MORE = {"vbench": {"temporal_flickering": 25}, "vbench2": {"Diversity": 20}}  # samples, by dimension
# Where a prompt names its videos: index counts them from 0.
NAMES = {"vbench": "{prompt}-{index}.mp4", "vbench2": "{prompt:.180}-{index}.mp4"}
LONGEST = 255  # bytes of a file's name


@dataclass(frozen=True)
class SuiteConfig:
    """A benchmark in place of a list of prompts."""

    suite: Name
    path: str  # of its file of prompts, or for t2v-compbench of the folder of its files
    dimensions: list[str] | None = None  # only the prompts of these; None: all
    samples: bool = False  # as many seeds for each prompt as the suite's protocol has, in place of all of `seeds`


def rows(given: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a suite, with the columns prompt, n and its tags. Raises ConfigError."""
    name = given.get("suite")
    if isinstance(name, str):
        known = get_args(Name)
        check(name in known, "prompts.suite", name, f"one of {', '.join(known)}{nearest(name, known)}")
    suite = structured(SuiteConfig, given, "prompts")
    allowed = DIMENSIONS.get(suite.suite, ())
    for wanted in suite.dimensions or ():
        check(bool(allowed), "prompts.dimensions", suite.dimensions, f"left out with {suite.suite}")
        hint = nearest(wanted, allowed)
        check(wanted in allowed, "prompts.dimensions", wanted, f"of {suite.suite}: {', '.join(allowed)}{hint}")
    for place, dimensions, values in READERS[suite.suite](suite):
        served = _served(suite, dimensions)
        if served or not allowed:
            usual, more = SAMPLES[suite.suite], MORE.get(suite.suite, {})
            n = max((more.get(d, usual) for d in served), default=usual)
            _check_name(suite.suite, place, values["prompt"], n)
            yield place, {**values, **({"n": n} if suite.samples else {})}


def is_name(text: str) -> bool:
    """Whether a file can have this name."""
    good = text not in ("", ".", "..") and not set("/\0") & set(text)
    return good and len(text.encode(errors="replace")) <= LONGEST


def _check_name(suite: str, place: str, prompt: str, samples: int) -> None:
    """Raises ConfigError where the suite names videos by their prompts, and no file can be named by this one."""
    if suite in NAMES:
        last = {"prompt": prompt.strip(), "index": samples - 1}
        room = LONGEST - len(NAMES[suite].format(**last | {"prompt": ""}))
        allowed = f"a text without slashes of at most {room} bytes, by which {suite} names videos"
        check(is_name(NAMES[suite].format(**last)), f"{place}: prompt_en", prompt, allowed)


def _served(suite: SuiteConfig, dimensions: list[str]) -> list[str]:
    return [d for d in dimensions if suite.dimensions is None or d in suite.dimensions]


Found = Iterator[tuple[str, list[str], dict[str, Any]]]  # a row's place, its dimensions, and its columns


def _vbench(suite: SuiteConfig) -> Found:
    """A prompt that comes again serves the dimensions of all its entries, as its videos have one name for all.

    Its tag has those that are asked for, by which an export knows how many videos there are.
    """
    merged: dict[str, tuple[str, list[str]]] = {}
    for place, values in _objects(suite, "prompt_en"):
        _, known = merged.setdefault(values["prompt_en"].strip(), (place, []))
        known += [d for d in _dimensions(suite, place, values) if d not in known]
    for prompt, (place, dimensions) in merged.items():
        yield place, dimensions, {"prompt": prompt, "dimension": _served(suite, dimensions)}


def _vbench2(suite: SuiteConfig) -> Found:
    for place, values in _objects(suite, "prompt_en"):
        dimensions = _dimensions(suite, place, values)
        check(len(dimensions) == 1, f"{place}: dimension", dimensions, "one dimension of vbench2")
        yield place, dimensions, {"prompt": values["prompt_en"], "dimension": dimensions[0]}


def _t2v_compbench(suite: SuiteConfig) -> Found:
    folder = path_of(suite.path)
    files = {re.sub(r"^\d+_", "", file.stem): file for file in sorted(folder.glob("*.txt"))}
    found = {name: file for name, file in files.items() if name in DIMENSIONS[suite.suite] and file.is_file()}
    check(
        len(found) > 0, "prompts.path", suite.path, "a folder with the files of t2v-compbench, 1_consistent_attr.txt .."
    )
    for category, file in found.items():
        for i, (place, prompt) in enumerate(lines(str(file), file.read_bytes()), 1):
            yield place, [category], {"prompt": prompt, "category": category, "number": i}


def _evalcrafter(suite: SuiteConfig) -> Found:
    for i, (place, prompt) in enumerate(lines(*_file(suite))):
        # The files of other suites are JSON, of which every line would be a prompt.
        check(i > 0 or prompt[0] not in "[{", place, prompt, "a prompt, as the lines of prompt700.txt are")
        yield place, [], {"prompt": prompt, "number": i}


def _phygenbench(suite: SuiteConfig) -> Found:
    for i, (place, values) in enumerate(_objects(suite, "caption")):
        others = {k: v for k, v in values.items() if k not in ("caption", *KNOWN)}  # these would be no tags
        yield place, [], {**others, "prompt": values["caption"], "number": i}


READERS = {
    "vbench": _vbench,
    "vbench2": _vbench2,
    "t2v-compbench": _t2v_compbench,
    "evalcrafter": _evalcrafter,
    "phygenbench": _phygenbench,
}


def _file(suite: SuiteConfig) -> tuple[str, bytes]:
    """The name of a suite's file in lines about it, and its content."""
    name = suite.path if suite.path.startswith(HUB) else str(path_of(suite.path))
    return name, content(suite.path, "prompts.path")


def _objects(suite: SuiteConfig, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a suite's JSON file, each of which has a prompt under `key`."""
    for place, values in entries(*_file(suite)):
        prompt = values.get(key) if isinstance(values, dict) else None
        fits = isinstance(prompt, str) and prompt.strip() != ""
        shown = list(values) if isinstance(values, dict) else values
        check(fits, place, shown, f"an object with a text {key!r}, as the entries of {suite.suite} are")
        yield place, values


def _dimensions(suite: SuiteConfig, place: str, values: dict[str, Any]) -> list[str]:
    found = values.get("dimension")
    allowed = DIMENSIONS[suite.suite]
    fits = isinstance(found, list) and len(found) > 0 and all(isinstance(d, str) and d in allowed for d in found)
    check(fits, f"{place}: dimension", found, f"a list of dimensions of {suite.suite}: {', '.join(allowed)}")
    return list(found or ())
