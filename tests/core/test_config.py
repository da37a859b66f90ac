"""A config is its annotations: defaults, strictness, and one line that names what is wrong with a value."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from raysearch.config import config as configuration
from raysearch.config.binding import bind
from raysearch.errors import ConfigError

MODEL = {"model": {"path": "x"}}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "model is missing"),
        ({"model": {}}, "model.path is missing"),
        ({"model": {"pth": "x"}}, "model.pth: unknown key (did you mean 'path'?); allowed here: path, dtype, height,"),
        ({"model": None}, "model: None is not allowed; it must be a mapping"),
        ({"model": {"path": 3}}, "model.path: 3 is not allowed; it must be of type str"),
        ({"model": {"path": "x", "dtype": "int8"}}, "model.dtype: 'int8' is not allowed; it must be one of float32, b"),
        (MODEL | {1: 2}, "1: unknown key; allowed here: model, parts, sampler"),
        (MODEL | {"seeds": "0"}, "seeds: '0' is not allowed; it must be a list"),
        (MODEL | {"seeds": [0, -1]}, "seeds[1]: -1 is not allowed; it must be in 0..2^63-1"),
        (MODEL | {"seeds": []}, "seeds: [] is not allowed; it must be a list with 1 or more entries"),
        (
            MODEL | {"policy": {"name": "scaling_noise", "weights": [1]}},
            "policy.weights[1] is missing: the list is too",
        ),
        (MODEL | {"seeds": [1, 1]}, "seeds: [1, 1] is not allowed; it must be without repetition"),
        (
            MODEL | {"output": {"fps": "2.5 a"}},
            "output.fps: '2.5 a' is not allowed; it must be a number of frames",
        ),
        (MODEL | {"output": {"videos": "yes"}}, "output.videos: 'yes' is not allowed; it must be of type bool"),
        (MODEL | {"sampler": {"num_steps": "20"}}, "sampler.num_steps: '20' is not allowed; it must be of type int"),
        (MODEL | {"budget": {"wall_seconds": 0}}, "budget.wall_seconds: 0 is not allowed; it must be above 0"),
        (MODEL | {"long": {"fifo": {"strid": 1}}}, "long.fifo.strid: unknown key (did you mean 'stride'?)"),
        (MODEL | {"collect": {"levels": [1, "a"]}}, "collect.levels[1]: 'a' is not allowed; it must be of type float"),
        (MODEL | {"fleet": {"scorers": {"labels": {"a": 1}}}}, "fleet.scorers.labels.a: 1 is not allowed"),
        (MODEL | {"arms": [{"nme": "a"}]}, "arms[0].nme: unknown key (did you mean 'name'?)"),
        (MODEL | {"arms": [{"name": "a b"}]}, "arms[0].name: 'a b' is not allowed; it must be a name of 1 to 64"),
        (MODEL | {"arms": [{"name": "a", "budget": {"nfe": 0}}]}, "arms[0] (a): budget.nfe: 0 is not allowed"),
        (MODEL | {"prompts": ["\udcff"]}, "the config: 'utf-8' codec can't encode"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(values, line):
    with pytest.raises(ConfigError) as raised:
        configuration.build(values)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


async def search(
    ctx: Any,
    *,
    n: int,
    x: int | str = 0,
    steps: Sequence[int] = (1, 2),
    pairs: Sequence[tuple[float, float]] = (),
    mode: Literal["a", "b"] = "a",
    weights: dict[str, float] | None = None,
    path: Path = Path("p"),
    anything: Any = None,
) -> None:
    """A signature with every kind of argument."""


def test_a_signature_is_the_schema_of_its_arguments():
    defaults = {"x": 0, "steps": (1, 2), "pairs": (), "mode": "a", "weights": None, "path": Path("p"), "anything": None}
    assert bind(search, {"n": 1}, "policy") == {"n": 1} | defaults
    given = {"n": 1, "x": "y", "steps": [3], "pairs": [[1, 2]], "weights": {"a": 1}, "path": "q", "anything": [1]}
    found = bind(search, given, "policy")
    assert found == given | {"steps": (3,), "pairs": ((1.0, 2.0),), "mode": "a", "path": Path("q"), "anything": (1,)}
    assert type(found["weights"]["a"]) is type(found["pairs"][0][0]) is float


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "policy.n is missing"),
        ({"n": True}, "policy.n: True is not allowed; it must be of type int"),
        ({"m": 1}, "policy.m: unknown key; allowed here: n, x, steps"),
        ({"n": 1, "x": 1.5}, "policy.x: 1.5 is not allowed"),
        ({"n": 1, "steps": [1, "a"]}, "policy.steps[1]: 'a' is not allowed; it must be of type int"),
        ({"n": 1, "steps": 3}, "policy.steps: 3 is not allowed; it must be a list"),
        ({"n": 1, "pairs": [[1, 2], [3]]}, "policy.pairs[1][1] is missing"),
        ({"n": 1, "mode": "c"}, "policy.mode: 'c' is not allowed; it must be one of a, b"),
        ({"n": 1, "weights": {"a": float("nan")}}, "policy.weights.a: nan is not allowed; it must be a finite number"),
        ({"n": 1, "path": 3}, "policy.path: 3 is not allowed"),
    ],
)
def test_arguments_are_held_to_it(given, line):
    with pytest.raises(ConfigError) as raised:
        bind(search, given, "policy")
    assert str(raised.value).startswith(line)


def test_a_config_is_a_frozen_value_that_travels():
    c = configuration.build(MODEL | {"fleet": {"encoders": {"slots": 2}, "wait_s": 3}})
    assert pickle.loads(pickle.dumps(c)) == c != replace(c, seeds=[1])
    assert (c.fleet.encoders.num_cpus, c.fleet.wait_s) == (0.1, 3.0)  # a block that is given keeps its other defaults
    assert configuration.build(OmegaConf.to_container(OmegaConf.create(configuration.resolved(c)))) == c
    given = OmegaConf.create(MODEL | {"run_dir": "${model.path}/y"})
    assert configuration.build(dict(given)).run_dir == "x/y"
    assert configuration.build({"model": {"path": Path("x")}}).model.path == "x"
