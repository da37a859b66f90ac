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


def unlike() -> dict[str, object]:
    """Things that a pickle of tensors alone may hold, and no state dict of weights does."""
    one = torch.ones(2)
    return {
        "stands for terabytes": {"w": one[:1].expand(10**13)},
        "sparse": {"w": one.to_sparse()},
        "meta": {"w": one.to("meta")},
        "float8": {"w": one.to(torch.float8_e4m3fn)},
        "complex": {"w": one.to(torch.complex64)},
        "double": {"w": one.double()},
        "numbered": {3: one},
        "two lines": {"a\nb": one},
        "odd": {"\ud800": one},
        "long": {"w" * 300: one},
    }


@pytest.mark.parametrize("what", unlike())
def test_tensors_that_are_no_weights_are_one_line(user, capsys, what):
    torch.save(unlike()[what], user / "odd.pth")
    assert command("doubling:Doubled", user / "odd.pth", user / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"raysearch: SOURCE: '{user / 'odd.pth'}' is not allowed; it must be a file")
    assert said.count("\n") == 1 and len(said) < 500


@pytest.mark.parametrize("kind", [torch.float64, torch.int64, torch.int32, torch.complex64, torch.float8_e4m3fn])
def test_what_is_written_is_what_rewards_read(tmp_path, kind):
    with pytest.raises(ConfigError, match="SOURCE: 'w' is not allowed; it must be a tensor of F16, BF16, F32, not"):
        converting.written(tmp_path / "out", "x", {}, {"w": torch.ones(2).to(kind)})
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(6.0)
    state = {"a": whole, "b": whole, "c": whole[2:], "d": whole.view(2, 3).T, "e": torch.tensor([6.0])}
    converting.written(tmp_path / "out", "x", {}, state)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    "text", ["-" * 100_000 + "1", "not " * 50_000 + "1", "a = " + "1+" * 50_000 + "1", "A = 'x\0'", 'A = "\\ud800"']
)
def test_files_that_strain_the_parser_are_one_line(tmp_path, text):
    (tmp_path / "prompt.py").write_text(text)
    with pytest.raises(ConfigError, match=r"^SOURCE: '.*prompt.py' is not allowed; it must be (a|the) "):
        converting.literals(tmp_path / "prompt.py", "A", sha256="0")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"^--base: '.*config.json' is not allowed; it must be a JSON file$"):
        converting.json_of(tmp_path / "config.json")


def test_an_out_that_no_file_can_have_is_one_line(user, capsys):
    for out in (f"{user}/o\0ut", f"{user}/{'o' * 300}"):
        assert command("doubling:Doubled", user / "model.pth", out) == 2
        said = capsys.readouterr().err
        assert said.startswith("raysearch: OUT: ") and said.count("\n") == 1


def test_a_link_to_nothing_is_no_free_place(user, capsys):
    (user / "out").symlink_to(user / "elsewhere")
    assert command("doubling:Doubled", user / "model.pth", user / "out") == 2
    assert "a folder that does not exist yet" in capsys.readouterr().err
    assert not (user / "elsewhere").exists()


def test_a_folder_appears_whole(tmp_path, monkeypatch):
    """When the last step fails, nothing is there; and what the last step moves is whole."""
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("a b")
    moved = []

    def fails(self: Path, target: Path) -> None:
        moved.extend(sorted(str(p.relative_to(self)) for p in self.rglob("*")))
        raise OSError("no more")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ConfigError, match=r"^OUT: .* cannot be written: OSError: no more"):
        converting.written(tmp_path / "out", "x", {}, {"w": torch.ones(1)}, {"tokenizer": tmp_path / "words"})
    assert moved == ["config.json", "model.safetensors", "tokenizer", "tokenizer/vocab.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["words"]


def test_a_reward_with_nothing_to_convert_says_which_have(user, capsys):
    assert command("consistency", user / "model.pth", user / "out") == 2
    named = capsys.readouterr().err.split("a reward with a converter: ")[1].strip().split(", ")
    assert {"videoalign", "hps3"} <= set(named)
    assert not {"vqa", "near", "consistency"} & set(named)
