"""Where a run's folder is: on this machine as it was given, or on a stage whose mirror fills a folder in a store."""

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from raysearch.config.address import folder_url, is_url, unfiled
from raysearch.config.config import Config
from raysearch.errors import ConfigError, RaysearchError, StoreError, check, single
from raysearch.files import own_content, replace_file
from raysearch.remote.lease import LEASE, Lease, going
from raysearch.remote.mirror import Mirror
from raysearch.remote.place import Beside, Place, renamed
from raysearch.remote.stage import MADE, THREADS, fetched, levelled, stage_of, tried
from raysearch.remote.store import Entry, Missing, Store, opened, whole
from raysearch.session.directory import CONFIG, check_new, chosen
from raysearch.session.journal import held
from raysearch.session.snapshot import STATUS, Snapshot, parse
from raysearch.threads import Lane, sigterm_interrupts

LEAVING = 20.0  # seconds in which a run that was interrupted sends what is left


@contextmanager
def placed(config: Config, name: str, say: Callable[[str], None]) -> Iterator[Place]:
    """Where a config's run works; for a URL a stage, whose files are in the store when the context ends.

    Raises ConfigError, and StoreError where the store has not taken all files: the run goes on from its stage.
    """
    given = unfiled(config.run_dir or "")
    if not is_url(given):
        path = chosen(given or None, config.resume, name)
        yield Place(path, str(path))
        return
    url = folder_url("run_dir", given)
    store, stage = opened(url), stage_of(url, config.stage)
    with _named(url, stage), held(_lock(stage)):
        try:
            yield from _mirrored(store, stage, config.resume, say)
        finally:
            if [*stage.parent.iterdir()] == [_lock(stage)]:  # no stage, and none that was moved aside
                shutil.rmtree(stage.parent, ignore_errors=True)


def _lock(stage: Path) -> Path:
    """The folder beside a stage that keeps other processes of this machine out; no URL's last name is its name."""
    return stage.with_name(f"{stage.name}.lease")


def _mirrored(store: Store, stage: Path, resume: str, say: Callable[[str], None]) -> Iterator[Place]:
    mine = _lock(stage) / "owner"  # of the process that works here, or did until it died
    before, owner = own_content(mine).decode(errors="replace"), token_hex(16)
    lease = Lease(store, owner, socket.gethostname())
    with _reached("run_dir", store.url):
        fresh = resume == "never"  # its mistakes are told at once; a run that goes on bears with a store that fails
        names = files_of(store) if fresh else tried(lambda: files_of(store))
        if fresh:
            check_new(store.url, empty=not names, begun=CONFIG in names)
            allowed = f"one with a new stage: {stage} holds files of a run that the store lacks; resume=auto sends them"
            check(not stage.exists() or not any(stage.iterdir()), "run_dir", store.url, allowed)
        lease.claim(say, before=before) if fresh else tried(lambda: lease.claim(say, before=before, patient=True))
    replace_file(mine, owner.encode())
    beside = Beside(lease)
    mirror: Mirror | None = None
    try:
        names = tried(lambda: files_of(store))  # whoever had the lease may have written meanwhile
        sealed = levelled(store, stage, names, say)
        elsewhere = frozenset(n for n in names if n.startswith(MADE) and not (stage / n).is_file())
        place = Place(stage, store.url, elsewhere, lambda: say(_note(store, stage)))
        mirror = Mirror(store, stage, sealed, names, Lane("upload", THREADS).submit, say, may=lambda: lease.certain)
        beside.follow(mirror, place)
        bound: float | None = LEAVING
        try:
            yield place
            bound = None
        except RaysearchError:
            bound = None
            raise
        finally:
            beside.still()
            if not place.broken and (stage / CONFIG).is_file():
                _finish(mirror, store, stage, bound, say)
                place.broken = mirror.broken  # by another run, meanwhile
        if place.broken:
            raise place.error()
    finally:
        beside.close()
        if not beside.lost:
            with suppress(StoreError):
                _leave(lease, store, stage, mirror if not names else None)


def _finish(mirror: Mirror, store: Store, stage: Path, bound: float | None, say: Callable[[str], None]) -> None:
    """Send what is left, within `bound` seconds for a run that was interrupted. Raises StoreError if that is None.

    An interruption of this itself sets a bound, too, and is raised at the end; another one ends it at once.
    """
    interrupted = False
    with sigterm_interrupts():
        try:
            done = mirror.finish(bound)
        except KeyboardInterrupt:
            if bound is not None:
                raise
            interrupted, bound = True, LEAVING
            done = mirror.finish(bound)
    line = (
        f"{mirror.left} files are not in {store.url} but in {stage} alone; when the store takes them, the same command "
        f"sends them with run_dir={store.url} resume=require"
    )
    if not done and not mirror.broken:
        if bound is None:
            raise StoreError(line)
        say(line)
    if interrupted:
        raise KeyboardInterrupt


def _note(store: Store, stage: Path) -> str:
    line = f"the run works in {stage}, and {store.url} is filled from there"
    if store.conditional:
        return line
    return f"{line}; that store has no conditional writes: start a run on one machine alone"


def _leave(lease: Lease, store: Store, stage: Path, mirror: Mirror | None) -> None:
    """Let the lease go. Of a run that has not begun after all nothing is left in the store."""
    lease.release()
    if not (stage / CONFIG).is_file():
        if mirror is not None:
            mirror.withdraw()
        if not files_of(store):
            store.delete(LEASE)


def files_of(store: Store) -> dict[str, Entry]:
    """The files of a folder in a store but for the lease. Raises StoreError."""
    return {n: about for n, about in store.list().items() if n != LEASE}


@contextmanager
def _reached(key: str, url: str) -> Iterator[None]:
    """Raise ConfigError in place of StoreError: a store is met for the first time."""
    try:
        yield
    except Missing as error:
        raise ConfigError.of(key, url, f"a folder in a bucket that exists ({error})") from error
    except StoreError as error:
        allowed = f"a folder in a store that can be reached, and written with the environment's credentials ({error})"
        raise ConfigError.of(key, url, allowed) from error


@contextmanager
def _named(url: str, stage: Path) -> Iterator[None]:
    """Name a folder's URL in the line of an error that names the stage as the run's folder."""
    try:
        yield
    except (RaysearchError, BaseExceptionGroup) as raised:
        error = single(raised)
        if isinstance(error, RaysearchError):
            error.args = (renamed(str(error), stage, url),)
        raise


def status(url: str) -> Snapshot:
    """The latest snapshot of a run in a store. Raises ConfigError."""
    url = folder_url("RUN_DIR", url)
    store = opened(url, "RUN_DIR")
    with _reached("RUN_DIR", url):
        names = files_of(store)
        check(CONFIG in names, "RUN_DIR", url, "the folder of a run, with config.yaml and journal/")
        allowed = f"the folder of a run that has written {STATUS}: this one has not started its fleet, or not sent it"
        check(STATUS in names, "RUN_DIR", url, allowed)
        found, alive = parse(whole(store, STATUS)), going(store)
    allowed = f"the folder of a run of this version of raysearch: its {STATUS} is damaged or of another"
    if found is None:
        raise ConfigError.of("RUN_DIR", url, allowed)
    if found.going and not alive:
        found = replace(found, state="finished" if 0 < found.total == found.done else "killed", left=None)
    return found


def copied(url: str, say: Callable[[str], None]) -> Path:
    """A copy of a run's folder in the user's cache, brought up to date from its store. Raises ConfigError."""
    url = folder_url("RUN_DIR", url)
    store, folder = opened(url, "RUN_DIR"), stage_of(url, None, "copies")
    with _reached("RUN_DIR", url):
        names = files_of(store)
        check(CONFIG in names, "RUN_DIR", url, "the folder of a run, with config.yaml and journal/")
        say(f"# {url} is copied to {folder}")
        fetched(store, folder, names)
    return folder
