"""The stage: the folder on local disk in which a run works whose results go to an object store.

What a run reads again is brought from the store when the run goes on here: its journal, config and tables, and what
is half done. Files of finished searches stay in the store.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import TypeVar

from raysearch.config.cache import users
from raysearch.errors import ConfigError, FolderError, StoreError, check
from raysearch.files import Folder, own_content, replace_file
from raysearch.remote import segments
from raysearch.remote.lease import LEASE
from raysearch.remote.segments import ANSWERED, SEGMENTS, Sealed, name_of, numbered
from raysearch.remote.store import Entry, Missing, Store, whole
from raysearch.session.directory import CONFIG
from raysearch.threads import Lane

MADE = ("videos/", "images/", "latents/", "frames/", "posters/", "previews/")  # of finished searches
THREADS = 8  # which upload or download
TRIES = 4  # of a download, after 0, 1, 2 and 4 seconds

T = TypeVar("T")


def stage_of(url: str, given: str | None, among: str = "stages") -> Path:
    """Where the folder of a URL is worked on: below the key `stage`, or below the user's cache. Raises ConfigError."""
    try:
        root = Path(given).expanduser().absolute() if given else users(among)
        path = root / blake2b(url.encode(), digest_size=8).hexdigest() / url.rpartition("/")[2]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError.of("stage", given, f"a folder that can be written ({error})") from error
    return path


def levelled(store: Store, stage: Path, names: Mapping[str, Entry], say: Callable[[str], None]) -> Sealed:
    """Bring the stage up to where the store's run is; what is sealed of its journal.

    A stage that has all that was sealed is kept, with what it has more. `names` are the store's files. Raises
    ConfigError for a journal in the store that has a hole, and StoreError.
    """
    number = numbered(names)
    last = _last(store, number) if number else None
    if number and last is None:
        say(f"segment {number} of the journal is torn, and is left out: what it held is done again")
        store.delete(name_of(number))
        number -= 1
        last = _last(store, number) if number else None
    if number and last is None:
        raise _damaged(store, number)
    if CONFIG not in names:
        return Sealed()
    if last is None and (stage / CONFIG).is_file():
        return Sealed()
    if last is not None:
        end, digest = last
        h = segments.upto(stage / ANSWERED, end)
        if h is not None and h.hexdigest() == digest:
            return Sealed(number, end, h)
    if stage.exists():
        places = (stage.with_name(f"{stage.name}.old{i or ''}") for i in count())
        aside = next(p for p in places if not p.exists())
        stage.rename(aside)  # it may hold what the store has lost
        say(f"{stage} lacks what the store has, and is made again from it; what it held is in {aside}")
    return _fetched(store, stage, [n for n in names if not n.startswith(MADE)], number, last)


def fetched(store: Store, folder: Path, names: Mapping[str, Entry]) -> None:
    """Make a folder a copy of a whole run. Raises as `levelled`.

    Files of finished searches are not fetched again if the store says that they are those of the last time.
    """
    beside = folder.with_name(f"{folder.name}.copied.json")
    before = _tags(beside)
    number = numbered(names)
    last = _last(store, number) if number else None
    same = (n for n, e in names.items() if n.startswith(MADE) and e.tag and before.get(n) == e.tag)
    there = {n for n in same if (folder / n).is_file() and (folder / n).stat().st_size == names[n].size}
    _fetched(store, folder, [n for n in names if n not in there], number if last else max(number - 1, 0), last)
    for gone in before.keys() - names.keys():
        Folder(folder).unlink(gone)
    replace_file(beside, json.dumps({n: e.tag for n, e in names.items()}).encode())


def _tags(file: Path) -> dict[str, str]:
    """The names of what was copied, with the tags that it had; nothing of a damaged file."""
    try:
        found = json.loads(own_content(file))
    except ValueError:
        return {}
    return {n: str(tag) for n, tag in found.items() if _inside(n)} if isinstance(found, dict) else {}


def _fetched(store: Store, folder: Path, names: Iterable[str], number: int, last: tuple[int, str] | None) -> Sealed:
    """Download files, and the journal last: without it the folder is no run's that could go on."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [n for n in names if not n.startswith(f"{SEGMENTS}/") and n not in (LEASE, CONFIG, ANSWERED)]
    into = Folder(folder)

    def one(name: str) -> None:
        check(_inside(name), "run_dir", store.url, f"the folder of a run: {name!r} in it is no file's name")
        with into.file(name) as file:
            for piece in store.read(name):
                file.write(piece)

    lane = Lane("download", THREADS)
    waiting = [lane.submit(lambda n=n: tried(lambda: one(n))) for n in wanted]  # type: ignore[misc]
    for done in waiting:
        with suppress(Missing):  # a running run has deleted it meanwhile
            done.result()
    pieces = [lane.submit(lambda i=i: tried(lambda: whole(store, name_of(i)))) for i in range(1, number + 1)]  # type: ignore[misc]
    sealed = Sealed()
    with into.file(ANSWERED) as file:
        for i, piece in enumerate(pieces, 1):
            try:
                found = segments.opened(piece.result(), i)
            except Missing:
                found = None
            if found is None or found[1] - len(found[0]) != sealed.end:
                raise _damaged(store, i)
            sealed = sealed.after(found[0])
            if sealed.hash.hexdigest() != found[2]:
                raise _damaged(store, i)
            file.write(found[0])
        into.write(CONFIG, tried(lambda: whole(store, CONFIG)))
    lane.close()
    return sealed


def _last(store: Store, number: int) -> tuple[int, str] | None:
    """The end of a segment in the journal, and the digest up to there; None if it is torn."""
    try:
        found = segments.opened(tried(lambda: whole(store, name_of(number))), number)
    except Missing:
        return None
    return found and found[1:]


def _damaged(store: Store, number: int) -> ConfigError:
    return ConfigError.of(
        "run_dir", store.url, f"a folder whose journal is whole: {name_of(number)} is torn or missing"
    )


def _inside(name: str) -> bool:
    return not {"", ".", ".."} & set(name.split("/")) and name.isprintable()


def tried(call: Callable[[], T], *, pause: Callable[[float], None] = time.sleep) -> T:
    """What a call to a store returns, which is tried again when it fails. Raises what the last try raises."""
    for i in range(TRIES - 1):
        try:
            return call()
        except (Missing, ConfigError, FolderError):
            raise
        except StoreError:
            pause(2.0**i)
    return call()
