"""Whole models in every form that diffusers and transformers write are accepted, and loaded as they were saved."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from mistakes._folders import TEXT, TRANSFORMER, VAE, edited, model, moved
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, UMT5EncoderModel, UMT5ForConditionalGeneration

import raysearch
from actors.models import folder as folders
from actors.models import weights
from actors.models.source import Source, located, opened
from raysearch.errors import ConfigError

ROOT = Path(__file__).parents[2]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "m"))


def part(folder: Path, name: str, variant: str | None = None) -> dict[str, torch.Tensor]:
    opened(located(str(folder), variant=variant))
    return Source(folder, variant=variant).net(name).state_dict()


def test_weights_in_several_files(tiny, tmp_path):
    m = copied(tiny, tmp_path)
    (m / VAE).unlink()
    AutoencoderKLWan.from_pretrained(tiny / "vae").save_pretrained(m / "vae", max_shard_size="20KB")
    assert len(folders.parts(m)["vae"].weights(None).files) > 2
    assert same(part(m, "vae"), part(tiny, "vae"))


def test_weights_of_a_variant_alone(tiny, tmp_path):
    m = copied(tiny, tmp_path)
    for name in (VAE, TEXT):
        moved(name, name.replace(".s", ".fp16.s"))(m)
    (m / TRANSFORMER).unlink()
    kind = weights.class_of(folders.parts(m)["transformer"])
    kind.from_pretrained(tiny / "transformer").save_pretrained(m / "transformer", variant="fp16", max_shard_size="9KB")
    with pytest.raises(ConfigError, match=r"model\.variant: None is not allowed; it must be fp16"):
        opened(located(str(m)))
    for name in ("vae", "text_encoder", "transformer"):
        assert same(part(m, name, "fp16"), part(tiny, name))


def test_pickled_weights_are_read_as_tensors_alone(tiny, tmp_path):
    m = copied(tiny, tmp_path)
    torch.save(load_file(m / TRANSFORMER), m / "transformer" / "diffusion_pytorch_model.bin")
    torch.save(load_file(m / TEXT), m / "text_encoder" / "pytorch_model.bin")
    (m / TRANSFORMER).unlink()
    (m / TEXT).unlink()
    assert same(part(m, "transformer"), part(tiny, "transformer"))
    assert same(part(m, "text_encoder"), part(tiny, "text_encoder"))
    broken = load_file(tiny / TRANSFORMER)
    broken["proj_out.bias"][0] = float("nan")
    torch.save(broken, m / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"proj_out\.bias has others"):
        opened(located(str(m)))
    ran = tmp_path / "ran"
    torch.save(Code(str(ran)), m / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="is no WanTransformer3DModel"):
        opened(located(str(m)))
    assert not ran.exists()


class Code:
    """What a pickle runs when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (Path(self.path),)


def test_an_encoder_out_of_a_whole_model(tiny, tmp_path):
    m = copied(tiny, tmp_path)
    (m / TEXT).unlink()
    whole = UMT5ForConditionalGeneration(UMT5EncoderModel.from_pretrained(tiny / "text_encoder").config)
    whole.save_pretrained(m / "text_encoder")
    assert torch.equal(part(m, "text_encoder")["shared.weight"], whole.shared.weight)


def test_names_of_an_earlier_version(pictured, tmp_path):
    m = copied(pictured, tmp_path)
    file = m / "image_encoder" / "model.safetensors"
    before = {f"vision_model.{k}": v for k, v in load_file(file).items()}
    save_file(before | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}, file)
    assert same(part(m, "image_encoder"), CLIPVisionModel.from_pretrained(pictured / "image_encoder").state_dict())


def test_a_run_goes_on_when_a_note_was_added_and_not_when_a_weight_was_changed(tmp_path):
    model()(tmp_path)
    values = {
        "model": {"path": str(tmp_path / "m"), "height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 8},
        "sampler": {"num_steps": 2, "guidance_scale": 1.0},
        "prompts": ["a red circle"],
        "fleet": {"backend": "local"},
        "output": {"videos": False},
        "run_dir": str(tmp_path / "run"),
        "resume": "auto",
    }
    with pytest.raises(ConfigError, match=r"prompts\[0\]: 'a red circle' .* at most 8 tokens"):
        raysearch.run(values, report=lambda line: None)
    assert not (tmp_path / "run").exists()
    values["model"]["truncate"] = True
    edited("scheduler/scheduler_config.json", flow_shift=None)(tmp_path / "m")
    said = []
    raysearch.run(values, report=said.append)
    assert "flow_shift: 1.0" in (tmp_path / "run" / "config.yaml").read_text()
    assert [line.split(":")[0] for line in said] == ["sampler.flow_shift"]
    (tmp_path / "m" / "README.md").write_text("a note")
    raysearch.run(values, report=said.append)
    edited("vae/config.json", note=1)(tmp_path / "m")
    with pytest.raises(ConfigError, match="the model's weights have changed"):
        raysearch.run(values, report=said.append)
