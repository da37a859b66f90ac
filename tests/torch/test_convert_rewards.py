"""`raysearch reward convert`: what it finds, what it writes, and the one line for each mistake."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.rewards import convert as converting
from raysearch.__main__ import main
from raysearch.errors import ConfigError


class Doubled:
    """A user's reward with a converter beside it."""

    components = ("x",)
    needs = "frames"

    def __call__(self, views):
        return [[0.0] for _ in views]


def convert(source: Path, out: Path, *, base: Path | None = None) -> None:
    state = {k: 2 * v for k, v in converting.pickled(source).items()}
    converting.written(out, "doubled", {"base": str(base)}, state, {"tokenizer": source.parent / "words"})


@pytest.fixture
def user(monkeypatch, tmp_path):
    """The folder of a user's module, and a pickle with weights."""
    module = types.ModuleType("doubling")
    for thing in (Doubled, convert):
        monkeypatch.setattr(thing, "__module__", "doubling")
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, "doubling", module)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("a b")
    torch.save({"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}, tmp_path / "model.pth")
    return tmp_path


def command(*words: object) -> int:
    return main(["reward", "convert", *map(str, words)])


def test_the_command_writes_one_folder(user, capsys):
    out = user / "made" / "doubled"
    assert command("doubling:Doubled", user / "model.pth", out) == 0
    assert f"wrote {out}, 0.0 MB" in capsys.readouterr().out
    state = load_file(out / "model.safetensors")
    assert state["w"].dtype == torch.bfloat16
    assert state["w"].tolist() == [2.0, 4.0]
    assert json.loads((out / "config.json").read_text()) == {"architecture": "doubled", "base": "None"}
    assert (out / "tokenizer" / "vocab.txt").read_text() == "a b"
    assert [p.name for p in out.parent.iterdir()] == ["doubled"]  # nothing half-written is left


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("near", "{0}/model.pth", "{0}/out"), "NAME: 'near' is not allowed; it must be a reward with a converter:"),
        (("neer", "{0}/model.pth", "{0}/out"), "NAME: no reward 'neer'"),
        (("no_such_module:X", "{0}/model.pth", "{0}/out"), "NAME: "),
        (("doubling:Doubled", "{0}/none.pth", "{0}/out"), "SOURCE: '{0}/none.pth' is not allowed"),
        (("doubling:Doubled", "{0}/model.pth", "{0}/words"), "OUT: '{0}/words' is not allowed"),
        (("doubling:Doubled", "{0}/model.pth", "{0}/out", "--base", "{0}/b"), "--base: '{0}/b' is not allowed"),
        (("doubling:Doubled", "{0}/words/vocab.txt", "{0}/out"), "SOURCE: {0}/words/vocab.txt cannot be read as"),
        (("doubling:Doubled", "{0}/model.pth", "{0}/model.pth/out"), "OUT: {0}/model.pth/out cannot be written"),
    ],
)
def test_a_mistake_is_one_line(user, capsys, words, line):
    assert command(*(w.format(user) for w in words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("raysearch: " + line.format(user))
    assert said.count("\n") == 1
    assert not (user / "out").exists()


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"w": Path("x")}, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="cannot be read as tensors alone"):
        converting.pickled(tmp_path / "model.pth")


def test_a_pickle_of_something_else_is_refused_and_a_nested_one_is_read(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="a dictionary of tensors"):
        converting.pickled(tmp_path / "list.pth")
    nested = {"state_dict": {"w": torch.ones(2)}, "epoch": 3}
    torch.save(nested, tmp_path / "nested.pth", _use_new_zipfile_serialization=False)
    assert converting.pickled(tmp_path / "nested.pth")["w"].tolist() == [1.0, 1.0]


def test_weights_with_nan_are_not_written(user):
    torch.save({"w": torch.tensor([float("nan")])}, user / "nan.pth")
    with pytest.raises(ConfigError, match="SOURCE: 'w' is not allowed; it must be a tensor of finite numbers"):
        convert(user / "nan.pth", user / "out")
    assert not (user / "out").exists()


def test_a_reward_with_nothing_to_convert_says_which_have(user, capsys):
    assert command("consistency", user / "model.pth", user / "out") == 2
    named = capsys.readouterr().err.split("a reward with a converter: ")[1].strip().split(", ")
    assert {"videoalign", "hps3"} <= set(named)
    assert not {"vqa", "near", "consistency"} & set(named)
