"""Code that users write: imported by name, and told apart from ours when it fails.

A line about a mistake in such code begins with the user's own file and line, and says how the usual slips are mended.
"""

import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raysearch.config.mistakes import nearest
from raysearch.errors import ConfigError, RaysearchError, plain, single, told

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")  # sysconfig's names of Python's own folders
NOT_THEIRS = tuple(
    os.path.join(folder, "")
    for folder in [*map(sysconfig.get_path, INSTALLED), *(str(ROOT / p) for p in ("raysearch", "policies", "actors"))]
)
AWAIT = "is an `await` missing, as in `await ctx.score(xs)`?"
HINTS = {  # what Python says of the usual slips -> how they are mended
    r"'coroutine'|not coroutine|coroutine object": AWAIT,
    r"'Candidate' object is not (iterable|subscriptable)|'Candidate' has no len": "it takes a list of candidates: [x]",
    r"'list' object has no attribute '(identity|origin|sampler|step|trajectory|part|parent|finished)'": (
        "a list of candidates stands where one of them is meant: xs[0]"
    ),
    r"has no attribute 'identity'": "it takes candidates, which the verbs of ctx make",
    r"only integer scalar arrays can be converted": "a list has no index of many numbers: [xs[i] for i in r.argsort()]",
    r"it returned NoneType": "does it end in `return x`?",
    r"it returned (list|tuple|ndarray)": "return one of them",
    r"it returned coroutine": AWAIT,
}


def imported(name: str, key: str, example: str) -> Any:
    """What `module:attribute` names. Raises ConfigError, also for whatever the module raises."""
    module, _, attribute = name.partition(":")
    named = not module.endswith(".py") and all(part.isidentifier() for part in [*module.split("."), attribute])
    if not named:
        raise ConfigError(f"{key}: {name!r} cannot be imported: it must be of the form module:{example}")
    try:
        found = importlib.import_module(module)
        if hasattr(found, attribute):
            return getattr(found, attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(f"{key}: {name!r} cannot be imported: {blamed(error)}") from error
    file, hint = short(getattr(found, "__file__", None) or module), nearest(attribute, vars(found))
    raise ConfigError(f"{key}: {name!r} cannot be imported: {file} has no {attribute!r}{hint}")


def blamed(error: BaseException, function: Any = None) -> str:
    """An error as a line that begins with the user's file and line, and may end with a hint.

    Without a line of the user's among the error's calls, the place is where `function` is defined, if that is given.
    """
    error = single(error)
    said = plain(error) if isinstance(error, RaysearchError) else told(error)
    hint = next((f" ({h})" for pattern, h in HINTS.items() if re.search(pattern, said)), "")
    where = place(error) or ("" if isinstance(error, RaysearchError) else defined(function))
    return f"{where}: {said}{hint}".removeprefix(": ")


@contextmanager
def all_awaited(who: str) -> Iterator[None]:
    """Raises ConfigError if code of `who` within drops a coroutine that it has not awaited: Python only warns."""
    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", ".*was never awaited", RuntimeWarning)
            yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
    for w in caught:
        if (origin := getattr(w.source, "cr_origin", None)) is None:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno, source=w.source)
            continue
        raise ConfigError(f"{who}: {short(*origin[0][:2])}: {str(w.message).splitlines()[0]} ({AWAIT})")


def place(error: BaseException) -> str:
    """`file:line` of the innermost call in code of the user's; empty if none of the error's calls is there."""
    if isinstance(error, SyntaxError) and error.filename and theirs(error.filename):
        return short(error.filename, error.lineno)
    calls = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return next((short(file, line) for file, line in reversed(calls) if theirs(file)), "")


def theirs(file: str) -> bool:
    """Whether a file is neither ours nor installed."""
    return os.path.isfile(file) and not os.path.abspath(file).startswith(NOT_THEIRS)


def defined(thing: Any) -> str:
    """`file:line` of the definition of a function or class; empty if it has none."""
    try:
        return short(inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1])
    except (OSError, TypeError):
        return ""


def short(file: str, line: int | None = None) -> str:
    """A file as seen from here, with a line if there is one."""
    inside = os.path.abspath(file).removeprefix(os.path.join(os.getcwd(), ""))
    return f"{inside}:{line}" if line else inside


def refused(key: str, name: str, thing: Any, allowed: str) -> ConfigError:
    """The error of a function or class that is not `allowed`: `ConfigError.of` with the place of its definition."""
    where = f" ({at})" if (at := defined(thing)) else ""
    return ConfigError(f"{key}: {name!r}{where} is not allowed; it must be {allowed}")


def check_signature(function: Callable[..., Any], key: str, name: str, *, taken: int, form: str) -> None:
    """Raises ConfigError unless a function takes so many arguments by position and all others by keyword alone.

    `form` is how it looks, such as `search(ctx, *, ...)`.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise refused(key, name, function, f"{form} ({plain(error)})") from error
    placed = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(placed) > taken:
        raise refused(key, name, function, f"{form}: its parameter {placed[taken]!r} stands before the *")
    if len(placed) < taken and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise refused(key, name, function, f"{form}: it takes {len(placed)} by position, and not {taken}")
