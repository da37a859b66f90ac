"""Mistakes in a config of PRFL, or in what it names, are one line."""

import json
import shutil
import sys

import pyarrow.parquet as pq
import pytest

from actors.training import prfl
from raysearch.__main__ import main
from raysearch.errors import ConfigError

SIZE = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
SHAPE = (4, 2, 4, 4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sampler": {"name": "flow-sde"}}, "sampler.name: 'flow-sde' is not allowed; it must be one of unipc"),
        ({"sampler": {"num_steps": 1}}, "sampler.num_steps: 1"),
        ({"weight": 0}, "weight: 0.0 is not allowed; it must be above 0"),
        ({"image_share": 1.5}, "image_share: 1.5"),
        ({"flow_steps": -1}, "flow_steps: -1"),
        ({"dataset": None}, "dataset: None is not allowed; it must be given with flow_steps"),
        ({"dataset": "nowhere"}, "dataset: 'nowhere' is not allowed; it must be a folder of shards"),
        ({"prompts": None}, "prompts: None"),
        ({"steps": 0}, "steps: 0 is not allowed; it must be at least 1"),
        ({"lora": {"rank": -1}}, "lora.rank: -1"),
        ({"lora": {"rnak": 1}}, "lora.rnak: unknown key (did you mean 'rank'?)"),
        ({"max_grad_norm": 0}, "max_grad_norm: 0.0"),
        ({"model": {"path": "x", "dtype": "int8"}}, "model.dtype: 'int8'"),
        ({"workers": {"number": 0}}, "workers.number: 0"),
    ],
)
def test_bad_configs(load, values, said):
    with pytest.raises(ConfigError) as error:
        load(**values)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"path": "nowhere"}}, "model.path: 'nowhere'"),
        ({"model": {"num_frames": 6}}, "model.num_frames: 6"),
        ({"model": {"num_frames": 9}}, "dataset: "),
        ({"model": {"max_sequence_length": 7}}, "dataset: 'clip 10' is not allowed; it must be at most 7 tokens"),
        ({"sampler": {"negative_prompt": "n" * 16}}, "sampler.negative_prompt: 'nnnnnnnnnnnnnnnn' is not allowed"),
        ({"reward": {"folder": "nowhere"}}, "reward.folder: 'nowhere' is not allowed; it must be a folder with config"),
        ({"reward": {"weights": {"XQ": 1.0}}}, "reward.weights: 'XQ' is not allowed; it must be one of VQ, MQ, TA"),
        ({"reward": {"weights": {"VQ": {}}}}, "reward.weights.VQ: {} is not allowed; it must be a finite number"),
        ({"reward": {"weights": {"VQ": True}}}, "reward.weights.VQ: True is not allowed"),
        ({"reward": {"weights": ["x"]}}, "reward.weights: ['x'] is not allowed; it must be a mapping"),
        ({"reward": {"weights": []}}, "reward.weights: [] is not allowed"),
        ({"reward": {"weights": [1]}}, "reward.weights: [1] is not allowed"),
        ({"lora": {"rank": 1, "targets": ["to_x"]}}, "lora.targets: 'to_x'"),
    ],
)
def test_parts_that_do_not_fit(load, values, said):
    c = load()
    blocks = {k: {**{f: getattr(getattr(c, k), f) for f in vars(getattr(c, k))}, **v} for k, v in values.items()}
    with pytest.raises(ConfigError) as error:
        prfl.check_parts(load(**blocks))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_a_dataset_of_other_columns_is_refused(load, clean, tmp_path):
    table = pq.read_table(clean)
    for said, wrong in {
        "without a column 'sigma'": table.append_column("sigma", [[0.0] * 40]),
        "'latent' of floating tensors (C, T, H, W)": table.set_column(1, "latent", [[0.0] * 40]),
    }.items():
        pq.write_table(wrong, tmp_path / "train-00000.parquet")
        with pytest.raises(ConfigError) as error:
            load(dataset=str(tmp_path))
        assert said in str(error.value)


def test_a_reward_folder_that_does_not_fit_is_one_line(load, judge, tmp_path):
    for change, said in (
        ({"transformer": "a/b"}, "describes no PAVRM: config.transformer: 'a/b'"),
        ({"components": None}, "describes no PAVRM: config.components: None"),
        ({"components": ["VQ"]}, "mlp.2.bias must be (1,), there is (3,)"),
        ({"components": ["VQ", "step", "TA"]}, "a reward with no component called 'step', which is a column"),
    ):
        other = tmp_path / "other"
        shutil.copytree(judge, other, dirs_exist_ok=True)
        config = json.loads((judge / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError) as error:
            prfl.check_parts(load(reward={"folder": str(other)}))
        assert str(error.value).startswith("reward.folder: ") and said in str(error.value)
        assert "\n" not in str(error.value)


def test_what_a_config_only_names_is_told_by_its_content(load, judge, clean, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    shutil.copytree(judge, tmp_path / "judge")
    shutil.copytree(clean, tmp_path / "clean")

    def content():
        parts = {"reward": {"folder": str(tmp_path / "judge")}, "dataset": str(tmp_path / "clean")}
        return prfl.check_parts(load(prompts=None, prompts_file=str(tmp_path / "prompts.txt"), **parts))

    before = content()
    (tmp_path / "prompts.txt").write_text("a\nc\n")
    (tmp_path / "judge" / "config.json").write_text((judge / "config.json").read_text() + " ")
    next((tmp_path / "clean").glob("*.parquet")).unlink()
    assert {k for k, v in content().items() if v != before[k]} == before.keys() - {"the model's weights"}


def test_lora_without_peft(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(prfl.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lora.rank: 1 .* pip install -e '.\[lora\]'"):
        prfl.check_parts(load(lora={"rank": 1}))


def test_the_command_says_mistakes_in_a_line(load, capsys, tmp_path):
    load(reward={"folder": "nowhere"})
    assert main(["prfl", str(tmp_path / "c.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()
