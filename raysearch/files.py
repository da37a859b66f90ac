"""Writes the files of a run's folder so that no reader finds half of one, and digests files' contents."""

import inspect
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from raysearch.errors import ConfigError, FolderError
from raysearch.recipe.digests import Digest, digest


class Folder:
    """A folder whose files are written whole or not at all, and in which no link is followed.

    Only `path` itself, and what lies above it, may be a link. It is there: a run whose folder was moved away does not
    go on in another. Names are relative to it. Every method raises FolderError where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str | Path, content: bytes) -> None:
        """Write a file in one step: at any moment it holds the old content or the new."""
        with self.file(name) as file:
            file.write(content)

    @contextmanager
    def file(self, name: str | Path) -> Iterator[IO[bytes]]:
        """A new file to fill, which replaces the file `name` when the context ends without an error."""
        with self._beside(name) as (holder, last):
            partial = last + ".partial"
            _unlink(partial, holder)
            try:
                with _opened(partial, "xb", holder) as file:
                    yield file
                os.replace(partial, last, src_dir_fd=holder, dst_dir_fd=holder)
            except BaseException:
                _unlink(partial, holder)
                raise

    def overwrite(self, name: str | Path, content: bytes) -> None:
        """Write over a file where it lies, which a full disk allows where the file does not grow."""
        with self._beside(name) as (holder, last), _opened(last, "r+b", holder) as file:
            file.write(content)
            file.truncate()

    def append(self, name: str | Path) -> IO[bytes]:
        """A file, made if need be, to append to."""
        with self._beside(name) as (holder, last):
            return _opened(last, "ab", holder)

    def unlink(self, name: str | Path) -> None:
        """Delete a file, if there is one."""
        with self._beside(name) as (holder, last):
            _unlink(last, holder)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A new folder to fill, which replaces the folder `name` when the context ends without an error."""
        partial = self.path / f"{name}.partial"
        with self.told(partial.name):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            shutil.rmtree(self.path / name, ignore_errors=True)
            partial.rename(self.path / name)

    def remove(self, name: str) -> None:
        """Delete a folder with all that it holds, if there is one; from the first moment it is there no longer."""
        partial = self.path / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with self.told(name), suppress(FileNotFoundError):
            (self.path / name).rename(partial)
            shutil.rmtree(partial)

    def check(self, files: Sequence[str | Path] = ()) -> None:
        """Raise ConfigError where the folder holds more than files and folders, or another thing in place of `files`.

        A link could lead elsewhere, and a pipe could hold up whoever opens it.
        """
        waiting = [self.path]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for e in entries:
                        if e.is_dir(follow_symlinks=False):
                            waiting.append(Path(e.path))
                        elif not e.is_file(follow_symlinks=False):
                            kind = "a link" if e.is_symlink() else "neither a file nor a folder"
                            self._refuse(Path(e.path), kind)
            except OSError as error:
                raise ConfigError.of("run_dir", str(self.path), f"a readable folder ({error.strerror})") from error
        for name in files:
            if (self.path / name).is_dir():
                self._refuse(self.path / name, "a folder")

    def _refuse(self, path: Path, kind: str) -> None:
        where = path.relative_to(self.path)
        raise ConfigError.of("run_dir", str(self.path), f"a folder of plain files and folders: {where} in it is {kind}")

    @contextmanager
    def _beside(self, name: str | Path) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that holds a file, made if need be, and the last part of the file's name."""
        *above, last = Path(name).parts
        with self.told(name):
            holder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for part in above:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=holder)
                    outer = holder
                    holder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
                    os.close(outer)
                yield holder, last
            finally:
                os.close(holder)

    @contextmanager
    def told(self, name: str | Path) -> Iterator[None]:
        """Raise FolderError in place of an OSError: the file `name` cannot be written."""
        try:
            yield
        except FolderError:
            raise
        except OSError as error:
            raise FolderError(
                f"run_dir: {str(self.path / name)!r} cannot be written ({error.strerror or error}); when it can, "
                f"the same command goes on with run_dir={self.path} resume=auto"
            ) from error


def _opened(name: str, mode: str, holder: int) -> IO[Any]:
    """A file in the folder of a descriptor; raises OSError where it is a link."""

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666, dir_fd=holder)

    return open(name, mode, opener=opener)


def _unlink(name: str, holder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=holder)


def sealed(key: Digest, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    """Arrays by name as the content of a file: a digest of 16 bytes, of `key` too, and a numpy .npz."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(
        buffer, allow_pickle=False, **{f"of_{k}": a for k, a in arrays.items()}
    )
    return digest(key, buffer.getvalue()) + buffer.getvalue()


def unsealed(key: Digest, found: bytes) -> dict[str, np.ndarray] | None:
    """The arrays of a file's content, which is read without pickle; None unless the digest fits and there are some."""
    if digest(key, found[16:]) != found[:16]:
        return None
    try:
        with np.load(io.BytesIO(found[16:]), allow_pickle=False) as arrays:
            return {k.removeprefix("of_"): arrays[k] for k in arrays.files}
    except Exception:  # of numpy and of zip files: a digest can be made for anything
        return None


def own_content(file: Path) -> bytes:
    """The content of a file that others may have made; empty for a link, for what is no file, and without one."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as found:
            return found.read()
    except OSError:
        return b""


def replace_file(file: Path, content: bytes) -> bool:
    """Write a file in one step, also where other processes write the same one; False if the disk refuses."""
    made = None
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as partial:
            made = Path(partial.name)
            partial.write(content)
        made.replace(file)
    except OSError:
        if made is not None:
            made.unlink(missing_ok=True)
        return False
    return True


def chunks(file: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece. Raises OSError."""
    with open(file, "rb") as content:
        while chunk := content.read(1 << 24):
            yield chunk


Reader: TypeAlias = Callable[[Path], Iterable[bytes]]


def content_digest(paths: Sequence[Path], read: Reader = chunks) -> bytes:
    """The `files_digest` of files, and of all files below folders, by their relative names. Raises what that raises."""
    files = ((path, file) for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]))
    return files_digest(((str(file.relative_to(path)), file) for path, file in files if file.is_file()), read)


def files_digest(files: Iterable[tuple[str, Path]], read: Reader = chunks) -> bytes:
    """128 bits over the names and the contents of files, which `read` reads. Raises OSError, and what `read` raises."""
    h = blake2b(digest_size=16)
    for name, file in files:
        h.update(digest(name, file.stat().st_size))
        for chunk in read(file):
            h.update(chunk)
    return h.digest()


def source(function: Callable[..., Any]) -> bytes:
    """The text of the module that defines a function or class, on which its results depend; empty without a file."""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    return Path(file).read_bytes() if file and Path(file).is_file() else b""
