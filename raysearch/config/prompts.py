"""The prompts of a run, from its config, a file or a benchmark, each with what is said for it alone.

An entry is a text, a list of texts (the captions of a long video's chunks), or a mapping with these keys. In a file
they are columns, and every other column is a tag, which searches.parquet has under its name after `tag_`.

    prompt             the text, or the list; in a file the column may have another name, `prompts_column`
    image              a first frame, by its path from the file's folder
    last_image         a last frame, beside a first one
    negative_prompt    in place of sampler.negative_prompt
    seed               in place of `seeds`; with `n` the first of them
    n                  how many seeds: the first of `seeds`, and the numbers after the largest if these are too few
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count, islice
from pathlib import Path
from typing import Any

from raysearch.config import suites
from raysearch.config.config import Config, ModelConfig
from raysearch.config.media import is_file, recording
from raysearch.config.mistakes import nearest
from raysearch.config.rows import HUB, KNOWN, Row, path_of, rows
from raysearch.errors import ConfigError, check
from raysearch.recipe.candidate import Prompt
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.origins import Recording

FRAMES = ("image", "last_image")
MOST = 100_000  # seeds of one prompt
SEEDS = 2**63  # numbers that can be seeds


@dataclass(frozen=True)
class Entry:
    """A prompt of a run, and what is said for it alone; None is what the config says."""

    prompt: Prompt
    negative_prompt: str | None = None
    seed: int | None = None
    n: int | None = None
    place: str = "prompts"  # where it is written
    moved: int = 0  # how far its seeds are moved on, where a suite has the same prompt before

    @property
    def tags(self) -> Mapping[str, str | None]:
        """The columns that the search's row repeats."""
        return self.prompt.tags

    @cached_property
    def identity(self) -> Digest:
        """The digest of all that its searches depend on; of a prompt alone it is the prompt's."""
        own = self.negative_prompt, self.seed, self.n, *([self.moved] if self.moved else [])
        return self.prompt.identity if own == (None, None, None) else digest(self.prompt.identity, *own)

    def seeds(self, given: Sequence[int]) -> Sequence[int]:
        """The seeds of its searches, where `given` are the config's."""
        if self.seed is not None:
            return range(self.seed, self.seed + (self.n or 1))
        found = given if self.n is None else tuple(islice(_from(given), self.n))
        return tuple(s + self.moved for s in found) if self.moved else found


def load(config: Config) -> list[Entry]:
    """The prompts of a config. Raises ConfigError."""
    found = read(config.prompts, config.prompts_file, config.prompts_column, config.model)
    apart = config.noises_apart
    for e in found:
        allowed = "left out of a collection" if config.collect else "left out, unless seeds_apart=false"
        check(not apart or e.seed is None, key(e, "seed"), e.seed, allowed)
    last = max(max(e.seeds(config.seeds)) for e in found)
    if apart:
        last += (len(found) - 1) * (last + 1)
    check(last < SEEDS, "seeds", last, f"below 2^63, also for the last of {len(found)} prompts")
    _check_distinct(found, config.seeds)
    return found


def read(
    prompts: list[Any] | dict[str, Any] | None,
    prompts_file: str | None,
    prompts_column: str | None = None,
    model: ModelConfig = ModelConfig(path=""),
) -> list[Entry]:
    """`prompts`, or those of a suite or a file; first frames get the shape of `model`'s videos. Raises ConfigError."""
    given_twice = None not in (prompts, prompts_file)
    check(not given_twice, "prompts", prompts, "left out (prompts=null), as prompts_file is given")
    check((prompts, prompts_file) != (None, None), "prompts", prompts, "given, unless prompts_file is")
    column, what = prompts_column or "prompt", "prompts"
    folder: Path | None = Path()
    given: Iterable[Row]
    if isinstance(prompts, dict):
        check(prompts_column is None, "prompts_column", prompts_column, "left out with a suite")
        given = suites.rows(prompts)
    else:
        given = ((f"prompts[{i}]", entry) for i, entry in enumerate(prompts or ()))
    if prompts_file is not None:
        what, given = "prompts_file", rows(prompts_file)
        folder = None if prompts_file.startswith(HUB) else path_of(prompts_file).parent
    found = []
    for place, values in given:
        if isinstance(values, str | list):
            check(prompts_column is None, "prompts_column", prompts_column, f"left out: {place} is no mapping")
            values = {column: values}
        check(isinstance(values, dict), place, values, f"a text, or a mapping with {column!r}")
        found.append(_entry(place, {str(k): _plain(v) for k, v in values.items()}, column, folder, model))
    check(len(found) > 0, what, prompts if prompts_file is None else prompts_file, "with at least one prompt in it")
    return _moved_on(found) if isinstance(prompts, dict) else found


def key(e: Entry, column: str) -> str:
    """The place of an entry's column, as a line about it begins."""
    return f"{e.place}.{column}" if e.place.endswith("]") else f"{e.place}: {column}"


def check_captions(found: Iterable[Entry], chunks: int) -> None:
    """Raises ConfigError where a long video's captions are neither one nor one for each of its chunks."""
    for e in found:
        given = 1 + len(e.prompt.later)
        fits = given == 1 or given >= chunks
        allowed = f"one caption, or at least {chunks}: one for each chunk (long.chunks)"
        check(fits, e.place, f"{given} captions from {e.prompt.text!r}", allowed)


def check_images(found: Iterable[Entry], images: str, *, last: bool) -> None:
    """Raises ConfigError where a first frame is given, or missing, as it may not be: see Plan.images.

    So it does where a last frame is given, unless with `last` there may be one beside a first frame.
    """
    for e in found:
        given = e.prompt.image and e.prompt.image.path
        check(images != "refused" or given is None, key(e, "image"), given, "left out with this model")
        fits = images != "required" or given is not None
        check(fits, e.place, e.prompt.title, "given with an image: this model makes videos of a first frame")
        ends = e.prompt.last and e.prompt.last.path
        allowed = "left out: pipelines whose call takes a last_image have it, with sampler.name=own"
        check(last or ends is None, key(e, "last_image"), ends, allowed)
        check(ends is None or given is not None, key(e, "last_image"), ends, "left out without an image")


def _moved_on(found: Sequence[Entry]) -> list[Entry]:
    """The prompts of a suite, where one that comes again has its seeds moved on, so that each is a search of its own.

    The distance is the most seeds of a prompt, so that a run may later be extended by more seeds.
    """
    before = Counter[Digest]()
    moved = []
    for e in found:
        moved.append(replace(e, moved=MOST * before[e.prompt.identity]))
        before[e.prompt.identity] += 1
    return moved


def _check_distinct(found: Sequence[Entry], seeds: Sequence[int]) -> None:
    """Raises ConfigError where two entries would be the same search."""
    alike: dict[tuple[Digest, str | None], list[Entry]] = {}
    for e in found:
        alike.setdefault((e.prompt.identity, e.negative_prompt), []).append(e)
    for entries in alike.values():
        taken: dict[int, Entry] = {}
        for e in entries if len(entries) > 1 else ():
            first = next((taken[s] for s in e.seeds(seeds) if s in taken), e)
            check(first is e, e.place, e.prompt.title, f"another prompt than that of {first.place}, or of another seed")
            taken |= dict.fromkeys(e.seeds(seeds), e)


@lru_cache  # the rows of a file have the same columns
def _slip(name: str, column: str) -> str:
    """A hint at the known column that a name is a slip for; empty for a known one, and for a tag."""
    known = (column, *KNOWN)
    return "" if name in known else nearest(name.lower(), known, cutoff=0.85)


def _from(given: Sequence[int]) -> Iterator[int]:
    yield from given
    yield from count(max(given) + 1)


def _plain(value: Any) -> Any:
    """None for an empty cell, which is "" in a CSV file and NaN in a column of numbers; other values as they are."""
    return None if value != value or (isinstance(value, str) and not value.strip()) else value


def _entry(place: str, values: dict[str, Any], column: str, folder: Path | None, model: ModelConfig) -> Entry:
    at = Entry(Prompt(""), place=place)
    named = f"a text, or columns of which one is {column!r} (prompts_column names another column)"
    check(column in values, place, list(values), named)
    for name in values:
        slip = _slip(name, column)
        check(not slip, key(at, name), name, f"a column of another name{slip}")
    given = values[column]
    texts = given if isinstance(given, list) and given else [given]
    for text in texts:
        check(_text(text) and text.strip(), key(at, column), text, "a text that is not empty, or a list of them")
    text, *later = (t.strip() for t in texts)
    negative = values.get("negative_prompt")
    check(negative is None or _text(negative), key(at, "negative_prompt"), negative, "a text")
    seed = _whole(key(at, "seed"), values.get("seed"), "0..2^63-1", SEEDS - 1)
    n = _whole(key(at, "n"), values.get("n"), f"1..{MOST}", MOST)
    check(n != 0, key(at, "n"), n, f"a whole number in 1..{MOST}")
    tags = {f"tag_{k}": _tag(key(at, k), v) for k, v in values.items() if k not in (column, *FRAMES, "seed", "n")}
    first, last = (_frame(values.get(name), folder, key(at, name), model) for name in FRAMES)
    prompt = Prompt(text, first, tuple(later), last, tags)
    return Entry(prompt, negative, seed, n, place)


def _frame(image: Any, folder: Path | None, where: str, model: ModelConfig) -> Recording | None:
    if image is None:
        return None
    if folder is None:
        raise ConfigError.of(where, image, "left out of a file of the model hub")
    check(isinstance(image, str) and is_file(folder / image), where, image, "an existing image file")
    return recording(where, image, folder / image, model, still=True)


def _text(value: Any) -> bool:
    """Whether a value is a text that files can hold: it is without half a pair of surrogates."""
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()


def _whole(where: str, value: Any, bounds: str, most: int) -> int | None:
    """A whole number up to `most`; a table may hold 3 as "3", or beside empty cells as 3.0."""
    if value is None:
        return None
    digits = re.fullmatch(r"(\d{1,19})(\.0*)?", str(value).strip(), re.ASCII)
    check(digits is not None and int(digits[1]) <= most, where, value, f"a whole number in {bounds}")
    assert digits is not None
    return int(digits[1])


def _tag(where: str, value: Any) -> str | None:
    if isinstance(value, bool | int | float | list | dict):
        value = json.dumps(value, default=str, ensure_ascii=False)
    text = None if value is None else str(value)
    check(text is None or _text(text), where, value, "a text that files can hold")
    return text
