"""The prompts of a run, from its config or a file."""

import json
from pathlib import Path
from typing import Any

from raysearch.config.config import Config, ModelConfig
from raysearch.config.media import is_file, recording
from raysearch.config.mistakes import unknown_key
from raysearch.errors import ConfigError, check
from raysearch.recipe.candidate import Prompt


def load(config: Config) -> list[Prompt]:
    """The prompts of a config. Raises ConfigError."""
    return read(config.prompts, config.prompts_file, config.model)


def read(prompts: list[Any] | None, prompts_file: str | None, model: ModelConfig) -> list[Prompt]:
    """`prompts`, or those of a file: one a line (.jsonl: an object with `prompt`, and `image` for a first frame).

    A `prompt` that is a list has a caption for each chunk of a long video. First frames are brought to the shape of the
    videos of `model`.
    """
    check((prompts is None) != (prompts_file is None), "prompts", prompts, "given, or prompts_file is, and not both")
    if prompts is not None:
        entries, folder, where = list(prompts), Path(), "prompts"
    else:
        path = Path(str(prompts_file))
        check(is_file(path), "prompts_file", str(path), "an existing file")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
        except UnicodeDecodeError as error:
            raise ConfigError(f"prompts_file: {str(path)!r} is not UTF-8: {error}") from error
        entries, folder, where = [line for line in lines if line], path.parent, str(path)
        if path.suffix == ".jsonl":
            entries = [_json(line, f"{where} entry {i + 1}") for i, line in enumerate(entries)]
    check(len(entries) > 0, where, entries, "at least one prompt")
    found = [_prompt(e, folder, f"{where}[{i}]", model) for i, e in enumerate(entries)]
    first: dict[bytes, int] = {}
    for i, p in enumerate(found):
        at = first.setdefault(p.identity, i)
        check(at == i, f"{where}[{i}]", p.title, f"another prompt than that of {where}[{at}]")
    return found


def check_captions(found: list[Prompt], chunks: int) -> None:
    """Raises ConfigError where a long video's captions are neither one nor one for each of its chunks."""
    for i, p in enumerate(found):
        given = 1 + len(p.later)
        fits = given == 1 or given >= chunks
        allowed = f"one caption, or at least {chunks}: one for each chunk (long.chunks)"
        check(fits, f"prompts[{i}]", f"{given} captions from {p.text!r}", allowed)


def check_images(found: list[Prompt], images: str) -> None:
    """Raises ConfigError where a first frame is given, or missing, as it may not be: see Plan.images."""
    for i, p in enumerate(found):
        given = p.image and p.image.path
        check(images != "refused" or given is None, f"prompts[{i}].image", given, "left out with this model")
        fits = images != "required" or given is not None
        check(fits, f"prompts[{i}]", p.title, "given with an image: this model makes videos of a first frame")


def _json(line: str, key: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{key} is no JSON: {error}") from error


def _prompt(entry: Any, folder: Path, key: str, model: ModelConfig) -> Prompt:
    if isinstance(entry, str | list):
        entry = {"prompt": entry}
    check(isinstance(entry, dict), key, entry, "a text, or a mapping with prompt and image")
    for k in entry:
        if k not in ("prompt", "image"):
            raise ConfigError(unknown_key(f"{key}.{k}", k, ("prompt", "image")))
    given, image = entry.get("prompt"), entry.get("image")
    texts = given if isinstance(given, list) and given else [given]
    for text in texts:
        written = isinstance(text, str) and bool(text.encode(errors="ignore").strip())
        clean = written and text == text.encode(errors="ignore").decode()
        check(clean, f"{key}.prompt", text, "a text that is not empty, or a list of them, one a chunk")
    text, *later = (t.strip() for t in texts)
    if image is None:
        return Prompt(text, later=tuple(later))
    check(isinstance(image, str) and is_file(folder / image), f"{key}.image", image, "an existing image file")
    return Prompt(text, recording(f"{key}.image", image, folder / image, model, still=True), tuple(later))
