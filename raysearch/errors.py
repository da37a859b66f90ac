"""The errors of raysearch, one tree; each inherits the built-in error that it refines, and can be pickled.

RaysearchError
├── ConfigError (ValueError)          the user's mistake: one line, exit code 2
├── BudgetExhausted (RuntimeError)    a score that does not fit the search's budget; a policy may catch it
├── ConcurrencyError (RuntimeError)   a policy broke the rule that keeps it deterministic
├── RewardError (ArithmeticError)     a reward that is not finite or has the wrong length
├── InputLost (LookupError)           a latent that an item needs is gone; the engine makes the latent again
├── OutOfMemory (MemoryError)         a device without room for an item; the item waits, the replica loses a slot
├── ReplicaDied (ConnectionError)     the replica that ran an item is gone; the item goes back to the queue
├── PoisonousItem (RuntimeError)      an item that killed three replicas while it ran alone; its search fails
├── FolderError (OSError)             a file of the run's folder that the disk does not take; the run ends
├── StoreError (OSError)              an object store that does not take or give a file, or that another run writes to
└── NoReplica (RuntimeError)          the fleet is gone: the run ends, and its searches are left undone
"""

from unicodedata import category

MOST = 2000  # characters of a text that is shown or stored in a row


class RaysearchError(Exception):
    """The root of the tree: every error that raysearch raises on purpose."""


class ConfigError(RaysearchError, ValueError):
    """A mistake in what the user gave. The message names the key, the value and what is allowed."""

    @classmethod
    def of(cls, key: str, value: object, allowed: str) -> "ConfigError":
        """The error of a value that is not `allowed`, a phrase that ends the sentence "it must be ..."."""
        return cls(f"{key}: {value!r} is not allowed; it must be {allowed}")


class BudgetExhausted(RaysearchError, RuntimeError):
    """A score would exceed the search's budget. No item of the score was dispatched."""


class ConcurrencyError(RaysearchError, RuntimeError):
    """An origin or a random number was drawn while another verb of the same search was pending."""


class RewardError(RaysearchError, ArithmeticError):
    """A reward that is NaN or infinite, or an answer of the wrong length."""


class InputLost(RaysearchError, LookupError):
    """A reference that an item needs no longer resolves."""


class OutOfMemory(RaysearchError, MemoryError):
    """The device had no memory for an item beside the items that it held."""


class ReplicaDied(RaysearchError, ConnectionError):
    """The replica died or cannot be reached."""


class PoisonousItem(RaysearchError, RuntimeError):
    """An item during which too many replicas died while it ran alone."""


class FolderError(RaysearchError, OSError):
    """A file of a run's folder that cannot be written. The message names the folder and how to go on."""


class StoreError(RaysearchError, OSError):
    """An object store does not take or give a file, or another run has taken a run's folder in it over."""


class NoReplica(RaysearchError, RuntimeError):
    """The fleet does not start, or is gone: no search is to blame, and the run can go on later."""


def check(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise `ConfigError.of(key, value, allowed)` unless `holds`."""
    if not holds:
        raise ConfigError.of(key, value, allowed)


def single(error: BaseException) -> BaseException:
    """The one error inside nested groups, or the first of several of this tree; any other error as it is."""
    if isinstance(error, BaseExceptionGroup):
        first, *others = map(single, error.exceptions)
        if all(isinstance(e, RaysearchError) for e in (first, *others)) or not others:
            return first
    return error


def plain(text: object, most: int = MOST) -> str:
    """A text of the user's or out of a file as one line that is safe to show and to store.

    The line is printable and has no escape sequences or surrogates; of a long text the middle is left out.
    """
    try:
        whole = str(text)
    except BaseException as error:  # an error of the user's may have any __str__
        whole = f"(the text of {type(text).__name__} cannot be read: {type(error).__name__})"
    if len(whole) > most:
        head, tail = most * 3 // 4, most // 4
        whole = f"{whole[:head]} [{len(whole) - head - tail} characters left out] {whole[-tail:]}"
    return " ".join("".join(map(_printable, whole)).split())


def _printable(c: str) -> str:
    if c.isprintable() or c.isspace():
        return c
    return "" if category(c) == "Cf" else "?"  # what only formats is left out


def counted(n: int, one: str, many: str = "") -> str:
    """A number and its noun, such as `1 search`, `2 searches`; `many` is the plural where that is not one + s or es."""
    return f"{n} {one if n == 1 else many or one + ('es' if one.endswith(('s', 'x', 'ch')) else 's')}"


def told(error: BaseException) -> str:
    """The class and the message of an error, whatever it is, as `plain` text."""
    error = single(error)
    name, message = type(error).__name__, plain(error)
    return f"{name}: {message}" if message else name
