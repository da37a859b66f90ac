"""The rows of a file of prompts, whatever its format; the suffix of its name says which it is, in any case.

    .txt                 a prompt a line
    .csv, .tsv           a line with the names of columns, and a row for each prompt
    .json                a list of texts, or of objects whose keys are columns
    .jsonl, .ndjson      a text or an object a line
    .parquet             columns

A file of the model hub, hf://datasets/org/name/file.csv, is read through huggingface-hub.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.config.media import is_file
from raysearch.errors import ConfigError, check, told

HUB = "hf://"
KNOWN = ("image", "last_image", "negative_prompt", "seed", "n")  # columns beside the prompt itself that are no tags
Row: TypeAlias = tuple[str, Any]  # where it is in the file, and a text, a list of texts, or a mapping of columns


def rows(file: str) -> Iterator[Row]:
    """The rows of a file, of which none is checked yet. Raises ConfigError."""
    read = READERS.get(PurePosixPath(file).suffix.lower())
    if read is None:
        raise ConfigError.of("prompts_file", file, f"a file that ends in {', '.join(READERS)}")
    name = file if file.startswith(HUB) else str(path_of(file))
    return read(name, content(file, "prompts_file"))


def path_of(file: str) -> Path:
    """The path of a file of prompts that is on no hub."""
    try:
        return Path(file).expanduser()
    except RuntimeError:  # no such user
        return Path(file)


def content(file: str, key: str) -> bytes:
    """The bytes of a file that is the value of a config's `key`, on this disk or the model hub. Raises ConfigError."""
    if not file.startswith(HUB):
        path = path_of(file)
        check(is_file(path), key, file, f"an existing file, or one of the model hub, {HUB}...")
        return path.read_bytes()
    import fsspec  # comes with huggingface-hub, whose file system it finds by the name hf

    try:
        found: bytes = fsspec.filesystem("hf").cat_file(file)
    except Exception as error:  # the hub's errors, and those of the network
        raise ConfigError(f"{key}: {file!r} cannot be read from the model hub: {told(error)}") from error
    return found


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name} line {line} is not UTF-8: {error.reason}") from error


def lines(name: str, content: bytes) -> Iterator[Row]:
    """The lines of a text in UTF-8 without those that are blank. Raises ConfigError."""
    for i, line in enumerate(_decoded(name, content).split("\n"), 1):
        if line.strip():
            yield f"{name} line {i}", line.strip()


def _json_lines(name: str, content: bytes) -> Iterator[Row]:
    for where, line in lines(name, content):
        yield where, _json(where, line)


def entries(name: str, content: bytes) -> Iterator[Row]:
    """The values of a list in JSON. Raises ConfigError."""
    found = _json(name, _decoded(name, content))
    check(isinstance(found, list), name, type(found).__name__, "a list of texts or of objects")
    for i, value in enumerate(found, 1):
        yield f"{name} entry {i}", value


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise ConfigError(f"{where} is no JSON: {error.msg} at {at}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is no JSON: it is nested too deeply") from error
    except ValueError as error:  # Python's bound, against inputs that take long
        digits = sys.get_int_max_str_digits()
        raise ConfigError(f"{where} is no JSON: a number in it has more than {digits} digits") from error


def _separated(delimiter: str) -> Callable[[str, bytes], Iterator[Row]]:
    def read(name: str, content: bytes) -> Iterator[Row]:
        table = csv.reader(io.StringIO(_decoded(name, content), newline=""), delimiter=delimiter, strict=True)
        header: list[str] = []
        line = 1  # in which a row begins: a cell in quotes may span several
        while True:
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                raise ConfigError(f"{name} line {line} cannot be divided into cells: {error}") from error
            if header and cells:
                fits = len(cells) == len(header)
                check(fits, f"{name} line {line}", f"{len(cells)} cells", f"{len(header)}, one for each column")
                # A column without a name is an index that pandas wrote.
                yield f"{name} line {line}", {k: v for k, v in zip(header, cells, strict=True) if k}
            elif cells:
                header = [c.strip() for c in cells]
                double = sorted({c for c in header if c and header.count(c) > 1})
                check(not double, f"{name} line {line}", double, "the names of columns, each once")
            line = table.line_num + 1

    return read


def _parquet(name: str, content: bytes) -> Iterator[Row]:
    try:
        table = pq.read_table(pa.BufferReader(content))
        found = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"prompts_file: {name!r} is no Parquet file that can be read") from error
    for i, values in enumerate(found, 1):
        yield f"{name} row {i}", values


READERS: dict[str, Callable[[str, bytes], Iterator[Row]]] = {
    ".txt": lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": entries,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
