"""PAVRM: the video model's own features, the pooling by hand, what is saved and what is refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from actors.models import wan
from actors.rewards import View, pavrm
from actors.shipped import find
from raysearch.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_pipeline(tmp_path_factory.mktemp("wan"))


def net_of(folder, blocks=1, **given):
    torch.manual_seed(1)
    return pavrm.of_model(folder, blocks=blocks, heads=2, widths=(8, 6), **given).eval()


@pytest.fixture(scope="module")
def net(folder):
    return net_of(folder)


@pytest.fixture(scope="module")
def inputs():
    g = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return draw(3, 4, 2, 4, 4), torch.tensor([0.2, 0.5, 0.9]), draw(3, 7, 16)


@torch.inference_mode()
def test_features_are_those_of_the_models_own_blocks(folder, inputs):
    latents, sigmas, text = inputs
    whole = WanTransformer3DModel.from_pretrained(folder / "transformer").eval()
    seen = []
    for b in whole.blocks:
        b.register_forward_hook(lambda m, i, o: seen.append(o))
    whole(latents, 1000 * sigmas, text)
    for blocks in (1, 2):
        found = net_of(folder, blocks).features(latents, sigmas, text)
        assert len(found) == blocks
        for a, b in zip(found, seen, strict=False):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@torch.inference_mode()
def test_a_given_first_frame_has_timestep_zero(folder, net, inputs):
    latents, sigmas, text = inputs
    first = torch.tensor([True, False, True])
    found = net.features(latents, sigmas, text, first)[0]
    whole = WanTransformer3DModel.from_pretrained(folder / "transformer").eval()
    timesteps = 1000 * sigmas[:, None].expand(3, 8).clone()  # two frames of four tokens
    timesteps[first, :4] = 0
    seen = []
    whole.blocks[0].register_forward_hook(lambda m, i, o: seen.append(o))
    whole(latents, timesteps, text)
    torch.testing.assert_close(found, seen[0])
    assert not torch.allclose(found[0], net.features(latents, sigmas, text)[0][0])


@torch.inference_mode()
def test_pooling_by_hand(net):
    tokens = torch.randn(2, 5, 24)
    a = net.pool.attention
    w, b = a.in_proj_weight.chunk(3), a.in_proj_bias.chunk(3)
    q, k, v = (x @ wi.T + bi for x, wi, bi in zip((net.pool.query.expand(2, 1, 24), tokens, tokens), w, b, strict=True))
    heads = []
    for h in (slice(0, 12), slice(12, 24)):
        heads.append((q[..., h] @ k[..., h].mT / 12**0.5).softmax(-1) @ v[..., h])
    wanted = net.pool.query[0] + (torch.cat(heads, -1) @ a.out_proj.weight.T + a.out_proj.bias)[:, 0]
    torch.testing.assert_close(net.pool(tokens), wanted)


def test_scores_are_the_mlp_of_the_last_features_and_all_of_it_learns(net, inputs):
    scores = net(*inputs)
    pooled = net.pool(net.features(*inputs)[-1])
    m = net.mlp
    torch.testing.assert_close(scores, m[4](torch.relu(m[2](torch.relu(m[0](pooled))))))
    assert scores.shape == (3, 3)
    scores.square().sum().backward()
    frozen = {"transformer.proj_out.weight", "transformer.proj_out.bias", "transformer.scale_shift_table"}
    assert {k for k, p in net.named_parameters() if p.grad is None} == frozen  # the model's own last layer


def test_workers_train_it_together(folder, inputs, tmp_path):
    """Every parameter that DistributedDataParallel waits for has a gradient in every step."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = DistributedDataParallel(net_of(folder).train())
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            losses.append(net(*inputs).square().mean())
            losses[-1].backward()
            optimizer.step()
    finally:
        distributed.destroy_process_group()
    assert losses[1] < losses[0]


def test_the_file_holds_the_unused_layer_too(net, tmp_path):
    pavrm.save(net, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == net.state_dict().keys()
    assert {"transformer.proj_out.weight", "transformer.scale_shift_table"} < net.state_dict().keys()


@torch.inference_mode()
def test_saved_and_loaded(net, inputs, tmp_path):
    pavrm.save(net, tmp_path, half=False)
    again = pavrm.load(tmp_path)
    torch.testing.assert_close(again(*inputs), net(*inputs))
    assert not any(p.requires_grad for p in again.parameters())


@torch.inference_mode()
def test_the_reward_reads_latent_level_and_text(net, inputs, tmp_path):
    pavrm.save(net, tmp_path, half=False)
    reward = find("pavrm")(folder=tmp_path)
    latents, sigmas, text = inputs
    views = [
        View("", float(s), latent=x, text=t, first=bool(i == 2))
        for i, (x, s, t) in enumerate(zip(latents.split(1), sigmas, text.split(1), strict=True))
    ]
    wanted = net(latents, sigmas, text, torch.tensor([False, False, True]))
    np.testing.assert_allclose(reward(views), wanted, atol=1e-5)
    assert reward.reads_text and reward.needs == "latent"


def test_any_number_of_components(folder, inputs):
    assert net_of(folder, components=("motion",))(*inputs).shape == (3, 1)


@torch.inference_mode()
def test_the_rewards_components_are_those_of_its_folder(folder, inputs, tmp_path):
    net = net_of(folder, components=("VQ", "LAW"))
    pavrm.save(net, tmp_path, half=False)
    reward = find("pavrm")(folder=tmp_path)
    assert pavrm.Pavrm.named(folder=tmp_path) == reward.components == ("VQ", "LAW")
    latents, sigmas, text = inputs
    (row,) = reward([View("", float(sigmas[0]), latent=latents[:1], text=text[:1])])
    np.testing.assert_allclose(row, net(*(x[:1] for x in inputs))[0], atol=1e-5)
    assert pavrm.Pavrm.named() == find("pavrm")().components == ("VQ", "MQ", "TA")


class Trap:
    def __reduce__(self):
        return (Path("/nonexistent-trap").touch, ())


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(Trap())), "safetensors file"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "config.json").write_text("{"), "JSON object"),
        (lambda f: _edit(f, architecture="latent_reward"), "not 'latent_reward'"),
        (lambda f: _edit(f, widths=[8, 7]), r"mlp\.2\.bias must be \(7,\), there is \(6,\)"),
        (lambda f: _edit(f, widths=[8]), "must be"),
        (lambda f: _edit(f, widths=8), "widths: 8 is not allowed; it must be a list"),
        (lambda f: _edit(f, widths=["8"]), r"widths\[0\]: '8'"),
        (lambda f: _edit(f, heads=0), "describes no PAVRM"),
        (lambda f: _edit(f, heads="two"), "heads: 'two'"),
        (lambda f: _edit(f, colour="red"), "colour: unknown key"),
        (lambda f: _edit(f, transformer="Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), "transformer: 'Wan-AI"),
        (lambda f: _edit(f, transformer=[1]), r"transformer: \[1\]"),
        (lambda f: _edit(f, transformer={}), "must be"),
        (lambda f: _transformer(f, num_layers="one"), "transformer.num_layers: 'one'"),
        (lambda f: _transformer(f, num_layers=2), r"transformer\.blocks\.1"),
        (lambda f: _transformer(f, patch_size=[2]), "describes no PAVRM|must be"),
        (lambda f: _transformer(f, eps="small"), "transformer.eps: 'small'"),
        (lambda f: _transformer(f, colour="red"), "config.transformer: 'colour'"),
        (lambda f: (f / "config.json").write_text('{"architecture": "pavrm"}'), "transformer is missing"),
        (lambda f: _query(f, torch.int32), "F16, BF16, F32: pool.query is I32"),
    ],
)
def test_bad_folders_are_one_line(net, tmp_path, spoil, line):
    pavrm.save(net, tmp_path)
    spoil(tmp_path)
    for reads in (pavrm.load, lambda folder: pavrm.Pavrm.fits((1, 4, 2, 4, 4), 16, folder=folder)):
        with pytest.raises(ConfigError, match=line) as raised:
            reads(tmp_path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(net, tmp_path, value):
    pavrm.save(net, tmp_path)
    _query(tmp_path, value=value)
    with pytest.raises(ConfigError, match=r"pool\.query has NaN or inf"):
        pavrm.load(tmp_path)


def _query(folder, dtype=torch.float16, value=1.0):
    state = load_file(folder / "model.safetensors")
    state["pool.query"] = torch.full_like(state["pool.query"], value, dtype=dtype)
    save_file(state, folder / "model.safetensors")


def _transformer(folder, **values):
    _edit(folder, transformer=json.loads((folder / "config.json").read_text())["transformer"] | values)


def _edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_reward_for_other_channels_is_refused(net, tmp_path):
    pavrm.save(net, tmp_path)
    with pytest.raises(ConfigError, match="16 channels, not 4"):
        pavrm.Pavrm.fits((1, 16, 2, 4, 4), folder=tmp_path)


def test_a_reward_for_other_texts_is_refused(net, tmp_path, folder):
    pavrm.save(net, tmp_path)
    pavrm.Pavrm.fits((1, 4, 2, 4, 4), wan.Geometry.of(folder).text_dim, folder=tmp_path)
    with pytest.raises(ConfigError, match="embeddings of 128 numbers, not 16"):
        pavrm.Pavrm.fits((1, 4, 2, 4, 4), 128, folder=tmp_path)


@pytest.mark.parametrize(("blocks", "heads", "line"), [(0, 2, "blocks"), (3, 2, "blocks"), (1, 5, "heads")])
def test_more_blocks_than_the_model_has_are_refused(folder, blocks, heads, line):
    with pytest.raises(ConfigError, match=f"reward.{line}"):
        pavrm.of_model(folder, blocks=blocks, heads=heads)
