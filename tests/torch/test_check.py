"""`raysearch check`: what it prints can be run, and what it found is remembered."""

import json

import pytest
from pipelines import KINDS
from safetensors.torch import load_file, save_file

from actors.models import admission
from actors.models.settled import settled
from raysearch.__main__ import main
from raysearch.config import config as configuration
from raysearch.config.reading import read
from raysearch.errors import ConfigError

SMALL = ["--height", "32", "--width", "32", "--steps", "4"]


def printed(folder, capsys, *more):
    code = main(["check", str(folder), *SMALL, *more])
    return code, capsys.readouterr().out


@pytest.mark.parametrize(("name", "scale"), [("LTX", 3.0), ("HunyuanVideo 1.5", 7.0), ("LTX from an image", 3.0)])
def test_the_config_that_is_printed_is_one_to_run(name, scale, tmp_path, capsys, monkeypatch):
    folder = KINDS[name].save(tmp_path / "m")
    monkeypatch.setattr(admission, "TESTED", frozenset())
    code, text = printed(folder, capsys)
    assert code == 0
    (tmp_path / "c.yaml").write_text(text)
    values = read(tmp_path / "c.yaml", ["rewards.search.name=tiny:Redness"], configuration.Config)
    if KINDS[name].pictured:
        assert values["prompts_file"] == "prompts.jsonl"
        values |= {"prompts_file": None, "prompts": ["a cat"]}
    c = configuration.build(values)
    assert c.sampler.guidance_scale == scale
    said = []
    settled(c, said.append)  # a class that no test knows, but a check
    assert said == []


def test_a_pipeline_is_remembered_by_its_configs_and_no_other(tmp_path, capsys, monkeypatch):
    folder = KINDS["LTX"].save(tmp_path / "m")
    monkeypatch.setattr(admission, "TESTED", frozenset())
    c = configuration.build({"model": {"path": str(folder)}, "sampler": {"name": "own"}, "prompts": ["a cat"]})
    refused = "LTXPipeline was not: `raysearch check` measures it, or model.unchecked=true"
    with pytest.raises(ConfigError, match=refused):
        settled(c, print)
    assert printed(folder, capsys)[0] == 0
    settled(c, print)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 2 for k, v in load_file(weights).items()}, weights)
    settled(c, print)  # other weights do not change what a pipeline does
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift": 2.0}))
    with pytest.raises(ConfigError, match=refused):
        settled(c, print)
