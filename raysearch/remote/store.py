"""Folders in object stores, behind one small protocol: S3, GCS and Azure with obstore, all others with fsspec.

Names are relative to the folder, with slashes. Credentials are the libraries' own: nothing here reads or keeps them.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from raysearch.config.address import hidden, is_bare
from raysearch.errors import ConfigError, StoreError, check

OBJECTS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfs", "abfss": "abfss"}
EXTRA = "pip install -e '.[remote]'"
TIMEOUT, CONNECT = "60s", "10s"  # of one request; a large file is sent in several
RETRY = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}  # the mirror itself tries again for longer
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
TEXTS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
PIECE = 1 << 22


class Missing(StoreError):
    """No file has this name, or there is no such bucket."""


class Taken(StoreError):
    """A file is not as a conditional write expects it."""


class Entry(NamedTuple):
    """A file of a listing: its size in bytes, and a text that changes with its content; "" if the store has none."""

    size: int
    tag: str


class Store(Protocol):
    """A folder in a store. Every method raises StoreError."""

    url: str
    conditional: bool  # False: `put_if` can only look first, and another's write may come between

    def list(self) -> dict[str, Entry]:
        """The files by their names."""
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece. Raises Missing."""
        ...

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file, whatever was there."""
        ...

    def tagged(self, name: str) -> tuple[bytes, Any]:
        """The content of a small file, and a tag of this version of it. Raises Missing."""
        ...

    def put_if(self, name: str, content: bytes, tag: Any) -> Any:
        """Write a small file in place of the version `tag`, or with None where there is none; the tag of the new one.

        Raises Taken.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        ...


def whole(store: Store, name: str) -> bytes:
    """The content of a file. Raises StoreError."""
    return b"".join(store.read(name))


def looked(store: Store, name: str, content: bytes, tag: Any) -> Any:
    """What `put_if` does in a store without conditional writes."""
    try:
        found = store.tagged(name)[1]
    except Missing:
        found = None
    if found != tag:
        raise Taken(f"{name} is there" if tag is None else f"{name} has changed")
    store.put(name, content)
    return store.tagged(name)[1]


def opened(url: str, key: str = "run_dir") -> Store:
    """The store of a folder's URL, which `key` gives; nothing is read yet. Raises ConfigError."""
    scheme = urlsplit(url).scheme
    if scheme not in OBJECTS:
        return Files(url, key)
    there = find_spec("obstore") is not None
    check(there, key, url, f"a folder of this machine, or one whose library is installed: {EXTRA}")
    return Objects(url, key)


class Objects:
    """A folder in S3, GCS or Azure, whose conditional writes are the store's."""

    def __init__(self, url: str, key: str) -> None:
        import obstore
        from obstore import store

        self.url, self.conditional, self._api = url, True, obstore
        _check_environment()
        scheme, colon, rest = url.partition(":")
        options: dict[str, Any] = {} if OBJECTS[scheme] != "s3" or any(k in os.environ for k in KEYS) else _profile()
        try:
            self._store = store.from_url(
                OBJECTS[scheme] + colon + rest,
                client_options={"timeout": TIMEOUT, "connect_timeout": CONNECT, "allow_http": True},
                retry_config=RETRY,
                **options,
            )
        except Exception as error:  # of obstore, which have no common type
            raise ConfigError.of(key, url, f"a URL of a store that can be used ({_line(error)})") from error

    def list(self) -> dict[str, Entry]:
        """The files by their names."""
        with self._told():
            return {m["path"]: Entry(m["size"], m["e_tag"] or "") for b in self._api.list(self._store) for m in b}

    def read(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece."""
        with self._told():
            yield from map(bytes, self._api.get(self._store, name).stream(min_chunk_size=PIECE))

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file, whatever was there; a large one in several parts."""
        with self._told():
            self._api.put(self._store, name, content)

    def tagged(self, name: str) -> tuple[bytes, Any]:
        """The content of a small file, and a tag of this version of it."""
        with self._told():
            found = self._api.get(self._store, name)
            return bytes(found.bytes()), _version(found.meta)

    def put_if(self, name: str, content: bytes, tag: Any) -> Any:
        """Write a small file in place of the version `tag`, or with None where there is none."""
        from obstore.exceptions import NotSupportedError

        if self.conditional:
            try:
                with self._told():
                    return _version(self._api.put(self._store, name, content, mode="create" if tag is None else tag))
            except StoreError as error:
                if not isinstance(error.__cause__, NotSupportedError | NotImplementedError):
                    raise
                self.conditional = False
        return looked(self, name, content, tag)

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        try:
            with self._told():
                self._api.delete(self._store, name)
        except Missing:
            pass

    @contextmanager
    def _told(self) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise Taken(_line(error)) from error
        except (FileNotFoundError, NotFoundError) as error:
            raise Missing(_line(error)) from error
        except StoreError:
            raise
        except (BaseError, OSError) as error:  # a listing of no bucket is none of the library's own NotFoundErrors
            raise (Missing if "404 Not Found" in str(error) else StoreError)(_line(error)) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of a library in Rust, which is no Exception
                raise
            raise StoreError(f"obstore has failed ({_line(error)})") from error


class Files:
    """A folder that fsspec can reach. Nothing in it is written on a condition."""

    def __init__(self, url: str, key: str) -> None:
        import fsspec  # comes with huggingface-hub

        self.url, self.conditional = url, False
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            allowed = f"a folder of this machine, or one whose library is installed ({_line(error)})"
            raise ConfigError.of(key, url, allowed) from error
        except Exception as error:  # of any file system
            allowed = f"a path, or a URL whose scheme is one of {', '.join(OBJECTS)} or one of fsspec's"
            raise ConfigError.of(key, url, f"{allowed} ({_line(error)})") from error

    def list(self) -> dict[str, Entry]:
        """The files by their names."""
        with self._told():
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
            root = len(self._root.rstrip("/")) + 1
            return {path[root:]: Entry(int(about["size"] or 0), _tag(about)) for path, about in found.items()}

    def read(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece."""
        with self._told(), self._fs.open(self._path(name), "rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file, whatever was there."""
        with self._told():
            self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            if isinstance(content, bytes):
                self._fs.pipe_file(self._path(name), content)
            else:
                self._fs.put_file(str(content), self._path(name))

    def tagged(self, name: str) -> tuple[bytes, Any]:
        """The content of a small file, which is its tag, too."""
        content = whole(self, name)
        return content, content

    def put_if(self, name: str, content: bytes, tag: Any) -> Any:
        """Write a small file if it is found to be as the tag has it."""
        return looked(self, name, content, tag)

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        try:
            with self._told():
                self._fs.rm_file(self._path(name))
        except Missing:
            pass

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Missing(_line(error)) from error
        except StoreError:
            raise
        except Exception as error:  # of any file system
            raise StoreError(_line(error)) from error


def _check_environment() -> None:
    """Raises ConfigError for what obstore panics at."""
    for name in ENDPOINTS:
        endpoint, allowed = os.environ.get(name), "an address that begins with http:// or https:// and names a server"
        if endpoint is None:
            continue
        if not is_bare(endpoint):
            raise hidden(name, f"{allowed}, without a user's name, a password and a query")
        check(re.fullmatch(r"https?://[^\s/:]\S*|https?://\[\S*", endpoint) is not None, name, endpoint, allowed)
    for name in (*KEYS, *TEXTS):
        if not os.environ.get(name, "").isprintable():
            raise hidden(name, "a text of one line")


def _version(about: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one version of an object from others, as conditional writes take it."""
    return {k: about[k] for k in ("e_tag", "version") if about.get(k) is not None}


def _tag(about: Mapping[str, Any]) -> str:
    """What fsspec's file systems say of a file that tells its versions apart."""
    found = (about.get(k) for k in ("ETag", "etag", "e_tag", "mtime", "LastModified", "last_modified", "created"))
    return next((str(value) for value in found if value), "")


def _profile() -> dict[str, Any]:
    """What boto3 knows of a user without keys in the environment: a profile of ~/.aws, a sign-on, an instance."""
    if find_spec("boto3") is None:
        return {}
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.session.Session()
        if session.get_credentials() is None:
            return {}
        return {"credential_provider": Boto3CredentialProvider(session)}
    except Exception as error:  # such as a profile that is not there
        profile = os.environ.get("AWS_PROFILE")
        raise ConfigError.of("AWS_PROFILE", profile, f"a usable profile ({_line(error)})") from error


def _line(error: BaseException) -> str:
    """The first line of an error, without passwords in URLs, or their queries, in which signatures stand."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "169.254.169.254" in first:  # where machines of a cloud ask for credentials, when the environment has none
        return "there are no credentials in the environment, and this machine has none of its own"
    first = re.sub(r"(status code: \d+ [A-Za-z ]+).*", r"\1", first)  # the answer's XML
    first = re.sub(r"(https?://)[^\s/@]*@", r"\1", first)  # a password
    return re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", first)[:300]
