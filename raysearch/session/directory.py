"""The folder of a run: which files it holds, who may claim it, and which config may resume its run.

config.yaml, status.json, journal/, the Parquet files, videos/, latents/, frames/ and rollouts/ are an interface: other
programs read them.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

import pyarrow as pa
from omegaconf import OmegaConf

from raysearch.config import config as configuration
from raysearch.config.binding import structured
from raysearch.config.prompts import Entry
from raysearch.engine.protocol import Outputs
from raysearch.errors import ConfigError, check
from raysearch.files import Folder
from raysearch.parquet import BATCH, Table
from raysearch.recipe.digests import digests
from raysearch.session.journal import ANSWERS
from raysearch.session.recording import TIMELINE, TRACE
from raysearch.session.snapshot import STATUS
from raysearch.session.tables import CANDIDATES, SEARCHES, candidates_in, schema, search_records

# Keys that may differ in a resumed run, and in one that is extended.
FREE = ("fleet", "output", "track", "max_searches", "baseline", "run_dir", "resume", "address")
GROWING = ("seeds", "prompts", "prompts_file", "prompts_column")
CONFIG, TABLES, JOURNAL = "config.yaml", ("searches.parquet", "candidates.parquet"), "journal"
CONTENT = Path(JOURNAL, "content.json")
FILES = (CONFIG, *TABLES, TIMELINE, TRACE, STATUS, CONTENT, Path(JOURNAL, ANSWERS))
FOLDERS = {"mp4": "videos", "png": "images", "safetensors": "latents", "npy": "frames", "arrow": "rollouts"}
MOST_FILES = 10_000  # in one folder: a run with more searches has sub-folders
BLOCKS = (1000, 100, 10, 1)  # how many prompts share a sub-folder, which is named by the first of them

C = TypeVar("C")  # the dataclass of a config


class RunDirectory:
    """The files of one run: its config, its two tables, and those of its winners."""

    def __init__(
        self,
        path: Path,
        resolved: str,
        search_components: list[str],
        judged_components: list[str],
        tags: Sequence[str] = (),
        *,
        prompts: int,
        searches_per_prompt: int,
        long: bool = False,
    ) -> None:
        """Write `resolved`, the run's config, to the claimed folder `path`, unless config.yaml holds one already.

        Components name the columns of rewards, and `tags` columns that are copied from a file of prompts. For `long`
        videos searches.parquet has, beside each judged mean, the list of its values chunk by chunk.
        """
        self._block = block(prompts, searches_per_prompt)
        self.path, self.journal, self.folder = path, path / JOURNAL, Folder(path)
        if not _written(path):
            self.folder.write(CONFIG, resolved.encode())
        chunks = {f"{c}_chunks": pa.list_(pa.float64()) for c in judged_components} if long else {}
        self.searches = Table(
            self.folder,
            TABLES[0],
            schema(SEARCHES | dict.fromkeys(tags, pa.string()) | chunks, judged_components),
            256,
            lambda: ([r] for r in search_records(self.journal)),
        )
        self.candidates = Table(
            self.folder,
            TABLES[1],
            schema(CANDIDATES, search_components),
            BATCH,
            lambda: map(candidates_in, search_records(self.journal)),
        )

    def discard(self) -> None:
        """Delete the files of a run that has not begun, and the folder if nothing else is in it."""
        for name in (CONFIG, *TABLES, TIMELINE, TRACE, STATUS):
            (self.path / name).unlink(missing_ok=True)
        self.folder.remove(JOURNAL)
        with suppress(OSError):
            self.path.rmdir()

    def save(self, search_id: str, files: dict[str, bytes]) -> str | None:
        """Write a winner's files, by extension; the path in the directory of its video or image, None without one."""
        for extension, content in files.items():
            self.folder.write(_place(extension, search_id, self._block), content)
        shown = next((k for k in ("mp4", "png") if k in files), None)
        return str(_place(shown, search_id, self._block)) if shown else None

    def lacking(self, search_id: str, outputs: Outputs) -> Outputs:
        """`outputs` but for the files that a search has."""
        there: dict[str, Any] = {k: False for k in outputs.asked if found(self.path, k, search_id) is not None}
        return replace(outputs, **there)

    def flush(self) -> None:
        """Write both tables as the journal has them."""
        self.searches.flush()
        self.candidates.flush()


def block(prompts: int, searches_per_prompt: int) -> int | None:
    """How many prompts share a sub-folder, so that none holds more than MOST_FILES; None if no sub-folder is needed."""
    if prompts * searches_per_prompt <= MOST_FILES:
        return None
    return next((b for b in BLOCKS if b * searches_per_prompt <= MOST_FILES), 1)


def _place(extension: str, search_id: str, block: int | None) -> Path:
    """Where a search's file lies in a run's folder."""
    prompt = int(search_id.partition("-")[0])
    holder = Path(FOLDERS[extension], "" if block is None else f"{prompt - prompt % block:06d}")
    return holder / f"{search_id}.{extension}"


def found(run_dir: Path, extension: str, search_id: str) -> Path | None:
    """The file of a search, whatever sub-folders its run has; None if there is none."""
    places = (run_dir / _place(extension, search_id, b) for b in (None, *BLOCKS))
    return next((p for p in places if p.is_file()), None)


def chosen(run_dir: str | None, resume: str, name: str) -> Path:
    """The absolute path of the run directory: `run_dir`, or by default a folder in runs/ with the config's name.

    With resume=never the default name ends in the time and in random digits, as runs may start in the same second.
    The path is absolute because it is printed, and the user of a Ray job does not know the job's working directory.
    Raises ConfigError.
    """
    when = f"-{time.strftime('%Y%m%d-%H%M%S')}-{token_hex(3)}" if resume == "never" else ""
    try:
        path = Path(run_dir or f"runs/{name}{when}").expanduser().absolute()
        fits = "\0" not in str(path) and all(len(os.fsencode(part)) <= 255 for part in path.parts)
    except (RuntimeError, ValueError) as error:  # no such user; no text
        raise ConfigError.of("run_dir", run_dir, f"the path of a folder ({error})") from error
    check(fits, "run_dir", run_dir, "the path of a folder, whose names have at most 255 bytes, none of them zero")
    return path


def goes_on(path: Path, config: C, resume: str) -> bool:
    """True if a run goes on in a folder, False if one may begin there. Nothing is written. Raises ConfigError."""
    if resume != "never" and (path / CONFIG).exists():
        check(os.access(path, os.W_OK | os.X_OK), "run_dir", str(path), "a writable folder")
        Folder(path).check(FILES)
        _begun(path, config, resume)
        return True
    allowed = f"a folder that holds a run of this config (resume={resume})"
    check(resume not in ("require", "extend"), "run_dir", str(path), allowed)
    try:
        empty = not path.exists() or not any(path.iterdir())
    except OSError as error:
        raise ConfigError.of("run_dir", str(path), f"a readable folder ({error.strerror})") from error
    hint = "; resume=auto goes on with the run in it" if (path / CONFIG).exists() else ""
    check(empty, "run_dir", str(path), f"a new or empty folder: this one holds files, which are kept{hint}")
    return False


@contextmanager
def claimed(path: Path, config: C, resume: str) -> Iterator[C | None]:
    """Make a new or empty, writable run directory and claim it; remove it again if the body of the `with` fails.

    Unless `resume` is never, a folder with a run of the same config is accepted, too, and kept whatever happens: then
    the config with which that run began is yielded. Raises ConfigError.
    """
    if goes_on(path, config, resume):
        yield _begun(path, config, resume)
        return
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).touch(exist_ok=False)  # from now on no other run can claim the folder
    except OSError as error:
        raise ConfigError.of("run_dir", str(path), f"a writable folder ({error.strerror})") from error
    try:
        yield None
    except BaseException:
        (path / CONFIG).unlink(missing_ok=True)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def check_claim(path: Path, begun: object) -> None:
    """Raise ConfigError if another run has begun in a folder that was free when it was claimed.

    Two runs may find the same stopped run, of which only an empty config.yaml was left. Call this under the journal's
    lock.
    """
    check(
        begun is not None or not _written(path), "run_dir", str(path), "one in which no other run has begun meanwhile"
    )


def _written(path: Path) -> bool:
    """True if a run has written its config to a folder; one that has only claimed it left an empty file."""
    return (path / CONFIG).is_file() and (path / CONFIG).stat().st_size > 0


def _begun(path: Path, config: C, resume: str) -> C | None:
    """The config with which the run in a folder began, or None if that run was stopped before writing it.

    Raises ConfigError if it differs from `config` in more than the keys that are free.
    """
    fresh = "a new or empty folder, or one with a run of this config"
    try:
        text = (path / CONFIG).read_text()
        if not text and {p.name for p in path.iterdir()} <= {CONFIG, f"{CONFIG}.partial"}:
            return None
        values = _plain(text)
        begun = structured(type(config), values)  # keys that are newer than the run get their defaults
    except Exception as error:  # YAML errors have no common type
        raise ConfigError.of("run_dir", str(path), f"{fresh}: its {CONFIG} is damaged") from error
    before, now = (_leaves(_plain(configuration.resolved(c))) for c in (begun, config))
    free = FREE + (GROWING if resume == "extend" else ())
    for key in [*now, *before]:
        top = key.partition(".")[0]
        if before.get(key) != now.get(key) and top not in free:
            was, is_now = (f"{key}={leaves[key]!r}" if key in leaves else f"no {key}" for leaves in (before, now))
            hint = "; resume=extend adds seeds and prompts to a run" if top in GROWING else ""
            raise ConfigError.of("run_dir", str(path), f"{fresh}: this run has {was}, and the config {is_now}{hint}")
    return begun


def _plain(text: str) -> Any:
    """What a config's YAML holds; a ${...} in it is a text, since what it stood for is written out."""
    return OmegaConf.to_container(OmegaConf.create(text))


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    """A nested config as a mapping of dotted keys; a list is nested if mappings are in it."""
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
    if nested and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for part, below in parts for k, v in _leaves(below, f"{key}.{part!s}".lstrip(".")).items()}
    return {key: value}


def _recorded(path: Path) -> dict[str, str]:
    """The digests of content.json; none where it is missing. Raises ConfigError."""
    if not (path / CONTENT).exists():
        return {}
    try:
        found = json.loads((path / CONTENT).read_bytes())
    except (ValueError, RecursionError):
        found = None
    allowed = f"a folder whose {CONTENT} is whole; without that file the run goes on, and nothing is compared"
    check(isinstance(found, dict), "run_dir", str(path), allowed)
    return dict(found)


def entries_so_far(path: Path, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The prompts that the run in a folder has so far, which are the first of `entries`. Raises ConfigError."""
    recorded = _recorded(path).get("prompts")
    if recorded is None:
        return ()
    n = next((n for n, d in enumerate(digests(e.identity for e in entries)) if d.hex() == recorded), None)
    if n is None:
        allowed = f"those of the run in {str(path)!r} in the same order, and after them new ones (resume=extend)"
        raise ConfigError.of("prompts", f"{entries[0].prompt.title}, ...", allowed)
    return entries[:n]


def check_content(path: Path, content: bytes) -> None:
    """Raise ConfigError if a run directory's run had other prompts, weights or rewards under the same config.

    `content` is a JSON object of digests, keyed by what was digested. content.json lacks a key if an earlier version
    of raysearch wrote it.
    """
    before, now = _recorded(path), json.loads(content)
    for key in now if before else ():
        check(key in before, "run_dir", str(path), "a new folder: an earlier version of raysearch began this run")
        hint = "; resume=extend adds prompts to a run" if key == "prompts" else ""
        allowed = f"a new folder: {key} have changed since its run began{hint}"
        check(before[key] == now[key], "run_dir", str(path), allowed)
