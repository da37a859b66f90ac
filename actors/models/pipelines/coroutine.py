"""A function that stops in the middle of ordinary calls, hands a value to its caller, and goes on when it is answered.

It has a thread of its own, which runs only while its caller waits. A switch of stacks within one thread would be
faster, but torch, when it raises an error, walks over the stack, and ends the process where the stack is not the
thread's own.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch


class Abandoned(BaseException):
    """Raised in a function that is not to go on."""


class Coroutine:
    """A call of `function` that has not begun yet. Gradients are off in it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._to, self._from = SimpleQueue[Any](), SimpleQueue[tuple[Any, BaseException | None]]()
        self._thread: threading.Thread | None = None
        self.done = False

    def resume(self, value: Any = None) -> Any:
        """Begin, or answer what the function has given; returns what it gives next, or returns in the end.

        Raises what the function raises.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
            self._thread.start()
        else:
            self._to.put(value)
        found, error = self._from.get()
        if error is not None:
            raise error
        return found

    def give(self, value: Any) -> Any:
        """From within the function: hand a value to the caller, and wait for the answer."""
        self._from.put((value, None))
        answer = self._to.get()
        if isinstance(answer, Abandoned):
            raise answer
        return answer

    def abandon(self) -> None:
        """End the function where it stands, if it has begun and not ended."""
        if self._thread is not None and not self.done:
            self._to.put(Abandoned())
            self._thread.join()

    def _run(self) -> None:
        found, error = None, None
        try:
            with torch.no_grad():
                found = self._function()
        except BaseException as raised:  # the caller's, but for Abandoned, for which nobody waits
            error = raised
        self.done = True
        self._from.put((found, error))
