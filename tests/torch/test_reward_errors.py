"""A reward of the user's that fails or answers wrongly: the error names the reward, and the user's file and line."""

import asyncio
import math

import numpy as np
import pytest
import torch

from actors.rewards import View, answers
from raysearch.errors import RewardError

ANSWERS = {
    "flat": [0.5],
    "number": 0.5,
    "none": None,
    "text": "0.5",
    "long": [[0.5], [0.5]],
    "short": [],
    "wide": [[0.5, 0.5]],
    "empty": [[]],
    "deep": [[[0.5]]],
    "texts": [["0.5"]],
    "nones": [[None]],
    "complex": [[1j]],
    "mapping": [{"sharp": 0.5}],
    "by name": {"sharp": [0.5]},
    "flat array": np.array([0.5]),
    "no array": np.array(0.5),
    "deep array": np.zeros((1, 1, 1)),
    "wide tensor": torch.zeros(1, 2),
    "own": object(),
}
GOOD = {
    "list": [[0.5]],
    "tuple": ((0.5,),),
    "whole": [[1]],
    "array": np.array([[0.5]], np.float32),
    "scalars": [[np.float16(0.5)]],
    "tensor": torch.tensor([[0.5]], dtype=torch.bfloat16, requires_grad=True),
    "tensors": [torch.tensor([0.5])],
    "not finite": [[math.nan]],  # the engine asks another scorer first
    "lazy": (row for row in [[0.5]]),
}


class Answers:
    """Answers what it is told to."""

    components = ("sharp",)
    needs = "frames"

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, views):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def scored(answer):
    return answers.scores("mine:Reward", Answers(answer), [View("a", 0.0)])[0]


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_wrong_answer_is_told(kind):
    with pytest.raises(RewardError) as raised:
        scored(ANSWERS[kind])
    line = str(raised.value)
    assert line.startswith("the reward mine:Reward ")
    assert "test_reward_errors.py:" in line and "answered" in line and "\n" not in line


@pytest.mark.parametrize("kind", GOOD)
def test_a_right_answer_is_taken_in_any_form(kind):
    ((found,),) = scored(GOOD[kind])
    assert type(found) is float


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad \ud800 \x1b[2J name"),
        SystemExit(0),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(),
        GeneratorExit(),
        RewardError("mine"),
        ExceptionGroup("several", [ValueError("x")]),
    ],
)
def test_whatever_a_reward_raises_is_an_error_that_names_it(error):
    with pytest.raises(RewardError, match=r"^the reward mine:Reward failed: \S*test_reward_errors.py:\d+: ") as raised:
        scored(error)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("lost")])
def test_the_errors_of_a_device_pass_as_they_are(error):
    with pytest.raises(type(error)):
        scored(error)
