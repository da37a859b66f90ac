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
└── NoReplica (RuntimeError)          the fleet is gone: the run ends, and its searches are left undone
"""


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


class NoReplica(RaysearchError, RuntimeError):
    """The fleet does not start, or is gone: no search is to blame, and the run can go on later."""


def check(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise `ConfigError.of(key, value, allowed)` unless `holds`."""
    if not holds:
        raise ConfigError.of(key, value, allowed)


def single(error: BaseException) -> BaseException:
    """The one error inside nested groups, or the first of several of one class; any other error as it is."""
    if isinstance(error, BaseExceptionGroup):
        found = [single(e) for e in error.exceptions]
        if len({type(e) for e in found}) == 1:
            return found[0]
    return error
