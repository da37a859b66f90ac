"""Stores for tests: one in memory, which fails when it is told to, and a wire and a clock of virtual time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from raysearch.errors import StoreError
from raysearch.remote.store import Entry, Missing, Taken, looked


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Memory:
    """A store in memory. `fault` is asked before each call, and may raise or answer "lost": done, but not told."""

    def __init__(self, fault: Callable[[str, str], str | None] = lambda call, name: None) -> None:
        self.url, self.conditional = "mem://bucket/run", True
        self.files: dict[str, tuple[bytes, int]] = {}
        self.fault, self.heeds, self.calls = fault, True, []

    def _do(self, call: str, name: str, change: Callable[[], Any]) -> Any:
        self.calls.append((call, name))
        answer = self.fault(call, name)
        if answer == "fail":
            raise StoreError("503 slow down")
        done = change()
        if answer == "lost":
            raise StoreError("the connection was closed")
        return done

    def _write(self, name: str, content: bytes | Path) -> int:
        version = self.files.get(name, (b"", 0))[1] + 1
        self.files[name] = (content if isinstance(content, bytes) else content.read_bytes(), version)
        return version

    def _found(self, name: str) -> tuple[bytes, int]:
        if name not in self.files:
            raise Missing(name)
        return self.files[name]

    def list(self) -> dict[str, Entry]:
        return self._do("list", "", lambda: {n: Entry(len(c), str(v)) for n, (c, v) in self.files.items()})

    def read(self, name: str) -> Iterator[bytes]:
        yield self._do("read", name, lambda: self._found(name)[0])

    def put(self, name: str, content: bytes | Path) -> None:
        self._do("put", name, lambda: self._write(name, content))

    def tagged(self, name: str) -> tuple[bytes, Any]:
        return self._do("read", name, lambda: self._found(name))

    def put_if(self, name: str, content: bytes, tag: Any) -> Any:
        if not self.conditional:
            return looked(self, name, content, tag)

        def change() -> int:
            if self.heeds and self.files.get(name, (b"", None))[1] != tag:
                raise Taken(name)
            return self._write(name, content)

        return self._do("put_if", name, change)

    def delete(self, name: str) -> None:
        self._do("delete", name, lambda: self.files.pop(name, None))

    def count(self, call: str, name: str) -> int:
        return self.calls.count((call, name))

    def content(self, name: str) -> bytes:
        return self.files[name][0]


class Wire:
    """Runs what it is given at once, or with `takes` seconds when its clock has moved on by that."""

    def __init__(self, clock: Clock, takes: float = 0.0) -> None:
        self.clock, self.takes = clock, takes
        self._waiting: list[tuple[float, Future, Callable[[], Any]]] = []

    def submit(self, call: Callable[[], Any]) -> Future:
        done: Future = Future()
        self._waiting.append((self.clock() + self.takes, done, call))
        self.work()
        return done

    def work(self) -> None:
        """Do what is due by now."""
        due = [w for w in self._waiting if w[0] <= self.clock()]
        self._waiting = [w for w in self._waiting if w[0] > self.clock()]
        for _, done, call in due:
            try:
                done.set_result(call())
            except Exception as error:
                done.set_exception(error)
