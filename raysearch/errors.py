"""The errors of raysearch, one tree; each also is the built-in error that it refines, and each can be pickled.

RaysearchError
├── ConfigError (ValueError)          a mistake of the user's: one line, exit code 2
├── BudgetExhausted (RuntimeError)    a score that does not fit the search's budget; a policy may catch it
├── ConcurrencyError (RuntimeError)   a policy broke the rule that keeps it deterministic
├── RewardError (ArithmeticError)     a reward that is not finite, or of the wrong length
├── InputLost (LookupError)           a latent that an item needs is gone; it is made again
├── OutOfMemory (MemoryError)         a device without room for an item; it goes back, with fewer slots in use
├── ReplicaDied (ConnectionError)     the replica that ran the item is gone; the item goes back to the queue
├── PoisonousItem (RuntimeError)      an item that killed every replica it ran alone on
└── NoReplica (RuntimeError)          nothing is left that could run the item
"""


class RaysearchError(Exception):
    """The root of the tree."""


class ConfigError(RaysearchError, ValueError):
    """A mistake of the user's. The message names the key, the value and what is allowed."""

    @classmethod
    def of(cls, key: str, value: object, allowed: str) -> "ConfigError":
        return cls(f"{key}: {value!r} is not allowed; it must be {allowed}")


class BudgetExhausted(RaysearchError, RuntimeError):
    """A score would exceed the search's budget. Nothing of it was dispatched."""


class ConcurrencyError(RaysearchError, RuntimeError):
    """An origin or a random number was drawn while another verb of the same search was pending."""


class RewardError(RaysearchError, ArithmeticError):
    """A reward that is NaN or infinite, or an answer of the wrong length."""


class InputLost(RaysearchError, LookupError):
    """References that an item needs and that no longer resolve."""


class OutOfMemory(RaysearchError, MemoryError):
    """The device had no room for an item beside what else it held."""


class ReplicaDied(RaysearchError, ConnectionError):
    """The replica died or cannot be reached."""


class PoisonousItem(RaysearchError, RuntimeError):
    """An item during which, running alone, its replica died too many times."""


class NoReplica(RaysearchError, RuntimeError):
    """No replica of the kind that an item needs is left."""


def check(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise ConfigError unless `holds`."""
    if not holds:
        raise ConfigError.of(key, value, allowed)


def single(error: BaseException) -> BaseException:
    """The error inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
