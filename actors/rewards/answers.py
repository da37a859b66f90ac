"""Asks rewards, and checks what they answer: a user's reward may answer anything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from actors.rewards import Answer, Reward, View
from raysearch.config.foreign import blamed, defined
from raysearch.errors import RewardError, plain

MOST = 2**40  # tokens of one row


Rows: TypeAlias = tuple[list[tuple[float, ...]], list[int]]  # of numbers; and the tokens that each row was paid with


def scores(name: str, reward: Reward, views: Sequence[View]) -> Rows:
    """The answer of a reward, checked: a tuple of components for each view; and the tokens that it paid for each.

    Raises RewardError, which names the reward. The errors of a full or a broken device pass as they are.
    """
    return _checked(name, reward, lambda: reward(views), len(views), len(reward.components))


def preferences(name: str, reward: Any, pairs: Sequence[tuple[View, View]]) -> Rows:
    """The answer of a reward that compares, checked: a tuple of one number for each pair, and tokens, as `scores`."""

    def ask() -> Answer:
        answer = reward.compare(pairs)
        answer = answer if isinstance(answer, Answer) else Answer(answer)
        if outside := [p for p in answer.scores if not 0 <= p <= 1]:
            raise ValueError(f"it prefers the first of a pair by {outside[0]!r}, and not by a number in [0, 1]")
        return replace(answer, scores=[[p] for p in answer.scores])

    return _checked(name, reward, ask, len(pairs), 1)


def _checked(name: str, reward: Reward, ask: Callable[[], Any], n: int, width: int) -> Rows:
    try:
        answer, tokens = ask(), [0] * n
        if isinstance(answer, Answer):
            answer, tokens = answer.scores, _paid(answer.tokens, n)
        rows = [tuple(_number(c) for c in row) for row in _rows(answer)]
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except BaseException as error:
        said = blamed(error, type(reward))
        hint = f" (needs is {reward.needs!r}, so a view's other fields may be None)" if "'NoneType'" in said else ""
        raise RewardError(f"the reward {name} failed: {said}{hint}") from None
    if [len(row) for row in rows] != [width] * n:
        wanted = f"{n} x {width}: a row for each view, a column for each component"
        raise RewardError(f"the reward {name} ({defined(type(reward))}) answered {_shown(answer)}, and not {wanted}")
    return rows, tokens


def _paid(tokens: Any, n: int) -> list[int]:
    """The tokens of each row; none where nothing is said."""
    found = list(tokens)
    if len(found) not in (0, n) or not all(type(t) is int and 0 <= t < MOST for t in found):
        raise ValueError(f"its tokens are {plain(repr(tokens), 100)}, and not a whole number for each of {n} rows")
    return found or [0] * n


def _rows(answer: Any) -> list[Any]:
    rows = list(answer) if _listed(answer) else None
    if rows is None or not all(map(_listed, rows)):
        raise TypeError(f"it answered {_shown(answer)}, and not a list with a row for each view, such as [[0.5]]")
    return rows


def _listed(value: Any) -> bool:
    return (
        isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) and getattr(value, "ndim", 1) > 0
    )


def _number(value: Any) -> float:
    found = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if not isinstance(found, int | float):
        raise TypeError(f"it answered {_shown(value)} where a number belongs")
    return float(found)


def _shown(answer: Any) -> str:
    shape = getattr(answer, "shape", None)
    return f"{type(answer).__name__} of shape {tuple(shape)}" if shape is not None else plain(repr(answer), 100)
