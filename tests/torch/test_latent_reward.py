"""LatSearch's latent reward model: what its scores depend on, what trains, what is saved and what is refused."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLModel

from actors.rewards import View
from actors.rewards.latent_reward import (
    LatentReward,
    LatentRewardConfig,
    LatentRewardNet,
    ask,
    load,
    save,
    sinusoid,
    weights,
)
from actors.shipped import find
from raysearch.errors import ConfigError

ONE, TWO = "a red circle moving left", "a red circle moving left and a blue square moving up"
SMALL = LatentRewardConfig(
    shape=(3, 2, 4, 4),
    vocabulary=tuple(dict.fromkeys(TWO.split())),
    vision_layers=1,
    vision_width=16,
    vision_heads=2,
    layers=2,
    width=32,
    mlp=32,
    heads=2,
)


def net_of(config: LatentRewardConfig = SMALL) -> LatentRewardNet:
    torch.manual_seed(0)
    net = LatentRewardNet(config).eval()
    for p in net.parameters():  # all that is trained counts, biases too
        p.data += 0.1 * torch.randn_like(p) * p.requires_grad
    return net


@pytest.fixture(scope="module")
def net() -> LatentRewardNet:
    return net_of()


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(3, *SMALL.shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2-VL as a real one is saved, with a byte-level tokenizer of Qwen2's class."""
    folder = tmp_path_factory.mktemp("qwen2-vl")
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
        text_config={"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "bos_token_id": None}
        | {"eos_token_id": None, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
        | sizes,
        vision_start_token_id=257,
        vision_end_token_id=258,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 324))]  # byte-level BPE's
    vocab = {c: i for i, c in enumerate([*letters, "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"])}
    Qwen2Tokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    return folder


def pretrained(backbone: Path) -> LatentRewardConfig:
    return LatentRewardConfig(shape=(3, 2, 4, 4), patch=(2, 1), backbone=str(backbone), instruction="Rate the video.")


@pytest.fixture(scope="module", params=["small", "pretrained"])
def either(request: pytest.FixtureRequest, net: LatentRewardNet) -> LatentRewardNet:
    return net if request.param == "small" else net_of(pretrained(request.getfixturevalue("backbone")))


@torch.inference_mode()
def test_rows_are_independent(either: LatentRewardNet, latents: torch.Tensor) -> None:
    sigmas, prompts = torch.tensor([0.1, 0.5, 0.9]), [ONE, TWO, ONE]
    together = either(latents, sigmas, prompts)
    alone = torch.cat([either(latents[i : i + 1], sigmas[i : i + 1], prompts[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 3)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_latent_level_and_prompt_count(either: LatentRewardNet, latents: torch.Tensor) -> None:
    x, s = latents[:1], torch.tensor([0.5])
    score = either(x, s, [ONE])
    for other in (either(latents[1:2], s, [ONE]), either(x, torch.tensor([0.6]), [ONE]), either(x, s, [TWO])):
        assert (other - score).abs().min() > 1e-4


def test_a_query_sees_those_before_it(net: LatentRewardNet, latents: torch.Tensor) -> None:
    scores = net(latents[:1], torch.tensor([0.5]), [ONE])[0]
    for k, score in enumerate(scores):
        (gradient,) = torch.autograd.grad(score, net.queries, retain_graph=True)
        assert (gradient.abs().sum(1) > 0).tolist() == [i <= k for i in range(3)]


def test_timesteps() -> None:
    rates = 1e4 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(1000 * 0.5 * rates), np.sin(1000 * 0.5 * rates)])
    np.testing.assert_allclose(sinusoid(torch.tensor([500.0]), 8)[0], expected, atol=1e-4)
    assert sinusoid(torch.zeros(1), 4).tolist() == [[1, 1, 0, 0]]


@torch.inference_mode()
def test_patches_are_qwen2_vls_own(latents: torch.Tensor) -> None:
    """Tokens are those of the encoder fed by the image processor's layout: merged patches follow each other."""
    net = net_of(replace(SMALL, merge=2, patch=(2, 1), shape=(3, 4, 4, 6)))
    x = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    patches = []
    for t in range(0, 4, 2):
        for h, w in ((h, w) for h in range(0, 4, 2) for w in range(0, 6, 2)):
            patches += [x[0, :, t : t + 2, h + i, w + j].flatten() for i in range(2) for j in range(2)]
    hidden = net.patches(torch.stack(patches)) + net.time(sinusoid(torch.tensor([300.0]), 256))
    wanted = net.model.visual(hidden, grid_thw=torch.tensor([[2, 4, 6]])).pooler_output
    torch.testing.assert_close(net.look(x, torch.tensor([0.3]))[0], wanted)


@torch.inference_mode()
def test_sequence_is_qwen2_vls_own(net: LatentRewardNet, latents: torch.Tensor) -> None:
    """Qwen2VLModel itself, given the same tokens by their ids, has the same hidden states."""
    x, s, video = latents[:1], torch.tensor([0.5]), 4  # the id of some word stands for the latent's tokens
    seen = net.look(x, s)
    ids, _ = net.read([ONE])
    ids = torch.cat([torch.tensor([[1, *[video] * seen.shape[1], 2]]), ids, torch.tensor([[3, 3, 3]])], 1)
    kinds = torch.zeros_like(ids)
    kinds[:, 1 : 1 + seen.shape[1]] = 2
    positions, _ = net.model.get_rope_index(ids, kinds, video_grid_thw=torch.tensor([net.grid]))
    embedded = net.model.language_model.embed_tokens(ids)
    embedded[:, 1 : 1 + seen.shape[1]], embedded[:, -3:] = seen, net.queries
    out = net.model(inputs_embeds=embedded, position_ids=positions).last_hidden_state
    torch.testing.assert_close(net(x, s, [ONE]), net.head(out[:, -3:])[..., 0], atol=1e-5, rtol=1e-5)


def test_everything_of_a_small_one_trains(latents: torch.Tensor) -> None:
    net = net_of()
    net(latents, torch.rand(3), [ONE, TWO, ONE]).square().sum().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_pretrained_language_model_stays(backbone: Path, latents: torch.Tensor) -> None:
    net = LatentRewardNet(pretrained(backbone))
    net(latents, torch.rand(3), [ONE, TWO, "Anything."]).square().sum().backward()
    frozen = {k for k, _ in net.named_parameters() if k.startswith("model.language_model.")}
    trained = {k for k, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {k for k, _ in net.named_parameters()} - frozen == set(weights(net))
    there = Qwen2VLForConditionalGeneration.from_pretrained(backbone).model
    for k, v in there.language_model.state_dict().items():
        assert torch.equal(net.model.language_model.state_dict()[k], v)
    for part in ("blocks", "merger"):
        for k, v in getattr(there.visual, part).state_dict().items():
            assert torch.equal(getattr(net.model.visual, part).state_dict()[k], v)


def test_a_backbone_saved_without_its_head(backbone: Path, tmp_path: Path) -> None:
    Qwen2VLModel.from_pretrained(backbone).save_pretrained(tmp_path)
    for file in backbone.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    a, b = (LatentRewardNet(pretrained(folder)).model.state_dict() for folder in (backbone, tmp_path))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@torch.inference_mode()
def test_save_and_load(either: LatentRewardNet, latents: torch.Tensor, tmp_path: Path) -> None:
    save(either, tmp_path / "once")
    again = load(tmp_path / "once")
    assert again.config == either.config and not again.training
    arguments = latents, torch.rand(3), [ONE, TWO, ONE]
    torch.testing.assert_close(again(*arguments), either(*arguments), atol=2e-2, rtol=2e-2)  # float16
    save(again, tmp_path / "twice")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert all(p.dtype == torch.float32 for p in again.parameters())


@torch.inference_mode()
def test_a_net_is_asked_for_other_components(latents: torch.Tensor, tmp_path: Path) -> None:
    """A query sees what is before it alone, so the first one's score stays; a query that is known comes along."""
    net, arguments = net_of(), (latents, torch.rand(3), [ONE, TWO, ONE])
    before, queries = net(*arguments), net.queries
    ask(net, ["VQ", "MQ", "TA"])
    assert net.queries is queries
    ask(net, ["VQ", "LAW", "TA"])
    after = net(*arguments)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert (after[:, 1:] != before[:, 1:]).all()
    assert [torch.equal(a, b) for a, b in zip(net.queries, queries, strict=True)] == [True, False, True]
    ask(net, ["LAW"])
    assert net(*arguments).shape == (3, 1) and net.queries.requires_grad
    save(net, tmp_path)
    reward = LatentReward(folder=tmp_path)
    assert LatentReward.named(folder=tmp_path) == reward.components == load(tmp_path).config.components == ("LAW",)
    assert reward([view(latents[:1])]).shape == (1, 1)
    assert LatentReward.named() == ("VQ", "MQ", "TA")


def test_unknown_words(net: LatentRewardNet, latents: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="cannot read 'cat' in 'a cat'"):
        net(latents[:1], torch.rand(1), ["a cat"])


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def spoil_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def spoil_config(**fields: object) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(Bomb())), "safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "safetensors"),
        (spoil_config(architecture="pavrm"), "not 'pavrm'"),
        (spoil_config(colour="red"), "colour"),
        (spoil_config(heads=3), "config.json"),
        (spoil_config(heads=0), "config.json"),
        (spoil_config(layers="many"), "config.json"),
        (spoil_config(shape=[3, 2, 4, 5]), "shape: "),
        (spoil_config(backbone="nowhere"), "backbone: 'nowhere'"),
        (spoil_config(backbone=3), "backbone: 3"),
        (spoil_config(layers=3), "model.language_model.layers.2"),
        (spoil_config(shape=[4, 2, 4, 4]), "patches.proj.weight must be"),
        (spoil_tensors(lambda t: t.pop("head.weight")), "head.weight must be"),
        (spoil_tensors(lambda t: t.update(tail=t.pop("head.weight"))), "head.weight must be"),
        (spoil_tensors(lambda t: t.update(extra=torch.zeros(1))), "extra must be"),
        (
            spoil_tensors(lambda t: t.update(queries=torch.zeros(2, 32))),
            r"queries must be \(3, 32\), there is \(2, 32\)",
        ),
    ],
)
def test_bad_files(
    spoil: Callable[[Path], object],
    says: str,
    net: LatentRewardNet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reward"
    save(net, folder)
    spoil(folder)
    with pytest.raises(ConfigError, match=says) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert not Path("exploded").exists()


def view(latent: torch.Tensor | None, sigma: float = 0.5, prompt: str = ONE) -> View:
    return View(prompt=prompt, sigma=sigma, latent=latent)


def test_the_reward(net: LatentRewardNet, latents: torch.Tensor, tmp_path: Path) -> None:
    assert find("latent") is LatentReward
    save(net, tmp_path)
    reward = LatentReward(folder=tmp_path)
    views = [view(latents[:1]), view(latents[1:2], 0.9, TWO), view(latents[2:], 0.0)]
    rows = reward(views)
    assert rows.shape == (3, 3) and rows.dtype == np.float64 and np.isfinite(rows).all()
    np.testing.assert_array_equal(np.concatenate([reward([v]) for v in views[::-1]])[::-1], rows)
    assert reward([]).shape == (0, 3)
    for bad, found in ((None, "None"), (latents[:1, :, :1], r"\(1, 3, 1, 4, 4\)"), (latents[0], r"\(3, 2, 4, 4\)")):
        with pytest.raises(ValueError, match=rf"\(1, 3, 2, 4, 4\), not {found}"):
            reward([view(bad)])


def test_files(net: LatentRewardNet, backbone: Path, tmp_path: Path) -> None:
    save(net, tmp_path / "small")
    assert [p.name for p in LatentReward.files(folder=tmp_path / "small")] == ["config.json", "model.safetensors"]
    save(LatentRewardNet(pretrained(backbone)), tmp_path / "pretrained")
    found = LatentReward.files(folder=tmp_path / "pretrained")
    assert {p.name for p in backbone.iterdir()} == {p.name for p in found[2:]}
    for other in ("nowhere", 3):
        spoil_config(backbone=other)(tmp_path / "pretrained")
        with pytest.raises(ConfigError, match=f"backbone: {other!r}"):
            LatentReward.files(folder=tmp_path / "pretrained")
    assert [p.name for p in LatentReward.files(folder=tmp_path)] == ["config.json", "model.safetensors"]
