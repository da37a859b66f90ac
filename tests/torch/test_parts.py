"""The config's block `parts`: how single parts of a model are loaded, against diffusers' own ways."""

from dataclasses import replace

import gguf
import numpy as np
import peft
import pytest
import torch
from diffusers import AutoencoderKLWan, FluxPipeline, StableDiffusionXLPipeline, WanPipeline, WanTransformer3DModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from pipelines import KINDS
from safetensors.torch import load_file, save_file

import raysearch
from actors.backend import Backend
from actors.models import wan
from actors.models.pipelines.parts import pipeline
from actors.models.roles import footprint
from actors.models.source import Source
from raysearch.config import config as configuration
from raysearch.config.parts import LoraConfig, PartConfig
from raysearch.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # of diffusers' own loader

KIND = KINDS["Wan 2.2, two experts"]
LORAS = {
    "Wan 2.2, two experts": (WanPipeline, "transformer", ["to_q", "to_v"]),
    "FLUX": (FluxPipeline, "transformer", ["to_q", "to_v"]),
    "SDXL, Euler": (StableDiffusionXLPipeline, "unet", ["to_q", "to_v"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return KIND.save(tmp_path_factory.mktemp("two"))


def output(net, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, text = torch.randn(1, 4, 3, 4, 4, generator=g), torch.randn(1, 8, 16, generator=g)
    with torch.no_grad():
        return net(x.to(net.dtype), torch.tensor([900.0]), text.to(net.dtype), return_dict=False)[0].float()


def adapter(path, kind, net, targets, seed):
    """A file with a random adapter of a net, as the pipeline's class saves one."""
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(seed)
    net.add_adapter(config, "made")
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(net, adapter_name="made"))
    name = "unet" if kind is StableDiffusionXLPipeline else "transformer"
    metadata = {f"{name}_lora_adapter_metadata": config.to_dict()}
    kind.save_lora_weights(path.parent, **{f"{name}_lora_layers": state}, weight_name=path.name, **metadata)
    net.delete_adapters("made")
    return path


@pytest.mark.parametrize("name", LORAS)
def test_adapters_are_those_of_the_pipelines_own_loader(name, tmp_path):
    kind, part, targets = LORAS[name]
    own = KINDS[name].make()
    own.save_pretrained(tmp_path / "m")
    files = [adapter(tmp_path / f"{i}.safetensors", kind, getattr(own, part), targets, seed=i) for i in (1, 2)]
    plain = Source(tmp_path / "m").net(part).state_dict()
    asked = PartConfig(lora=[LoraConfig(str(files[0]), 0.5), LoraConfig(str(files[1]))])
    got = Source(tmp_path / "m", parts={part: asked}).net(part).state_dict()
    for i, file in enumerate(files):
        own.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=f"a{i}")
    own.set_adapters(["a0", "a1"], [0.5, 1.0])
    own.fuse_lora(components=[part])
    own.unload_lora_weights()
    expected = getattr(own, part).state_dict()
    assert got.keys() == expected.keys()
    assert any(not torch.equal(got[k], plain[k]) for k in got)
    for k, value in expected.items():
        torch.testing.assert_close(got[k], value, msg=k)


def test_an_adapter_of_another_net_is_said_to_be_one(folder, tmp_path):
    save_file({"transformer.nowhere.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "other.safetensors")
    asked = PartConfig(lora=[LoraConfig(str(tmp_path / "other.safetensors"))])
    with pytest.raises(ConfigError, match=r"other.safetensors' does not fit WanTransformer3DModel"):
        Source(folder, parts={"transformer": asked}).net("transformer")


@pytest.mark.parametrize("change", [lambda k: k.replace("to_v", "to_vv"), lambda k: k.replace("blocks.0", "blocks.9")])
def test_an_adapter_that_fits_in_part_is_refused(change, folder, tmp_path):
    own = KIND.make()
    file = adapter(tmp_path / "a.safetensors", WanPipeline, own.transformer, ["to_q", "to_v"], seed=1)
    save_file({change(k): v for k, v in load_file(file).items()}, tmp_path / "b.safetensors")
    asked = PartConfig(lora=[LoraConfig(str(tmp_path / "b.safetensors"))])
    with pytest.raises(ConfigError, match=r"b.safetensors' does not fit WanTransformer3DModel: .*of its 16 weights"):
        Source(folder, parts={"transformer": asked}).net("transformer")


def as_gguf(path, state, kind=gguf.GGMLQuantizationType.Q8_0):
    """A file with these weights; matrices whose rows are of whole blocks are packed."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, value in state.items():
        array = value.float().numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_of_a_file_stand_in_for_the_folders(folder, tmp_path):
    """Nothing of the folder's transformer but its config is read, and unpacked weights give the file's own output."""
    net = Source(folder).net("transformer_2")
    unpacked = {}
    for name, value in net.state_dict().items():
        whole = value.ndim == 2 and value.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0
        array = value.numpy()
        again = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind) if whole else array
        unpacked[name] = torch.tensor(again)
    assert any(not torch.equal(unpacked[k], v) for k, v in net.state_dict().items())
    file = as_gguf(tmp_path / "low.gguf", net.state_dict())
    bare = tmp_path / "m"
    (bare / "transformer_2").mkdir(parents=True)
    for name in [p.name for p in folder.iterdir() if p.name != "transformer_2"]:
        (bare / name).symlink_to(folder / name)
    (bare / "transformer_2" / "config.json").write_bytes((folder / "transformer_2" / "config.json").read_bytes())
    c = configuration.build(config(bare, parts={"transformer_2": {"file": str(file)}}))
    source = Backend().prepare(c, configuration.arms(c)).details["source"]
    got = output(source.net("transformer_2"))
    net.load_state_dict(unpacked)
    torch.testing.assert_close(got, output(net), atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="transformer_2"):
        Backend().prepare(configuration.build(config(bare)), configuration.arms(configuration.build(config(bare))))


def config(folder, **values):
    blocks = KIND.blocks
    sampler = {k: v for k, v in blocks["sampler"].items() if k != "call"} | {"name": "unipc"}
    return {"model": {**blocks["model"], "max_sequence_length": 64, "path": str(folder)}, "sampler": sampler,
            "prompts": ["a red circle"], "fleet": {"backend": "local"}, **values}  # fmt: skip


def test_weights_stored_in_eight_bits_are_those_of_diffusers(folder):
    asked = PartConfig(storage="float8_e4m3fn")
    got = Source(folder, "bfloat16", parts={"transformer": asked}).net("transformer")
    expected = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16)
    exact = output(expected)
    expected.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert any(p.dtype == torch.float8_e4m3fn for p in got.parameters())
    assert torch.equal(output(got), output(expected))
    assert not torch.equal(output(got), exact)


def test_each_part_has_its_own_dtype(folder):
    source = Source(folder, "bfloat16", parts={"vae": PartConfig(dtype="float32")})
    whole = pipeline(source, "whole")
    assert (whole.vae.dtype, whole.transformer.dtype) == (torch.float32, torch.bfloat16)
    assert wan.Autoencoder(source).vae.dtype == torch.float32
    assert pipeline(source, "denoiser").vae.dtype == torch.float32  # of the ghost, which the pipeline asks


def test_a_tiled_decoder_is_diffusers_own(folder):
    """Frames of tiles: the autoencoder's, and not those of the whole latent."""
    latent = torch.randn(1, 4, 2, 80, 80, generator=torch.Generator().manual_seed(0))
    coder = wan.Autoencoder(Source(folder, parts={"vae": PartConfig(tiling=True)}))
    vae = AutoencoderKLWan.from_pretrained(folder / "vae")
    vae.enable_tiling()
    mean, inverse_std = coder._statistics()
    with torch.no_grad():
        pixels = vae.decode(latent / inverse_std + mean, return_dict=False)[0]
    expected = ((pixels[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    got = coder.decode(latent)
    assert np.abs(got.astype(int) - expected).max() <= 1
    whole = wan.Autoencoder(Source(folder)).decode(latent)
    assert not np.array_equal(got, whole)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_compiled_blocks_give_the_same_latents(folder):
    asked = PartConfig(compile=True, attention="native")
    got = Source(folder, parts={"transformer": asked}).net("transformer")
    assert all(block._compiled_call_impl is not None for block in got.blocks)
    torch.testing.assert_close(output(got), output(Source(folder).net("transformer")), atol=1e-5, rtol=1e-5)


def test_what_a_part_is_asked_names_the_candidates_and_changes_the_video(folder, tmp_path):
    own = KIND.make()
    file = adapter(tmp_path / "a.safetensors", WanPipeline, own.transformer, ["to_q", "to_v", "to_k"], seed=1)
    asked = [{}, {"transformer": {"lora": [{"path": str(file)}]}},
             {"transformer": {"lora": [{"path": str(file), "weight": 0.5}]}}, {"vae": {"tiling": True}}]  # fmt: skip
    plans = []
    for parts in asked:
        c = configuration.build(config(folder, parts=parts))
        plans.append(Backend().prepare(c, configuration.arms(c)).arms[0].sampler)
    assert len({p.identity for p in plans}) == len(asked)
    moved = file.rename(tmp_path / "b.safetensors")
    c = configuration.build(config(folder, parts={"transformer": {"lora": [{"path": str(moved)}]}}))
    assert Backend().prepare(c, configuration.arms(c)).arms[0].sampler.fingerprint == plans[1].fingerprint
    ends = []
    for i, parts in enumerate(({}, {"transformer": {"lora": [{"path": str(moved)}]}})):
        to = {"run_dir": str(tmp_path / str(i)), "output": {"latents": True}}
        raysearch.run(config(folder, parts=parts, **to), report=lambda line: None)
        (file,) = (tmp_path / str(i)).rglob("*.safetensors")
        ends.append(load_file(file)["latents"])
    assert not torch.equal(*ends)


def test_the_pipeline_that_is_run_as_it_is_has_the_same_adapters(folder, tmp_path):
    own = KIND.make()
    file = adapter(tmp_path / "a.safetensors", WanPipeline, own.transformer, ["to_q", "to_v"], seed=1)
    parts = {"transformer": PartConfig(lora=[LoraConfig(str(file))])}
    nets = [pipeline(replace(Source(folder), parts=parts, own=o), "denoiser").transformer for o in (True, False)]
    assert torch.equal(*map(output, nets))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # gguf's own, of NaN
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_with_nan_is_refused_in_one_line(packed, folder, tmp_path):
    state = Source(folder).net("transformer").state_dict()
    wide = next(k for k, v in state.items() if v.ndim == 2 and v.shape[1] % 32 == 0)
    state[wide if packed else "scale_shift_table"].view(-1)[0] = float("nan")
    asked = PartConfig(file=str(as_gguf(tmp_path / "n.gguf", state)))
    with pytest.raises(ConfigError, match=r"parts.transformer.file: .*n.gguf' is no Wan.*NaN or inf"):
        Source(folder, parts={"transformer": asked}).net("transformer")


def test_experts_may_compute_in_other_numbers_than_one_another(folder, tmp_path):
    for name in ("transformer", "transformer_2"):
        out = raysearch.run(
            config(folder, parts={name: {"dtype": "bfloat16"}}, run_dir=str(tmp_path / name)), report=lambda line: None
        )
        assert [r["reason"] for r in out.searches.to_pylist()] == [""]


def test_what_weights_take_follows_from_how_they_are_stored(folder):
    whole = footprint(Source(folder), "denoiser")
    kept = {"transformer": PartConfig(storage="float8_e4m3fn"), "transformer_2": PartConfig(dtype="bfloat16")}
    half = footprint(Source(folder, parts=kept), "denoiser")
    assert half.parameters == whole.parameters and whole.bytes == 4 * whole.parameters
    assert half.bytes == (1 + 2) * whole.parameters / 2
    away = footprint(Source(folder, parts={"transformer": PartConfig(offload="block")}), "denoiser", offloaded=False)
    assert away.bytes == whole.bytes / 2
    assert footprint(Source(folder), "encoder").parameters + footprint(Source(folder), "decoder").parameters > 0
