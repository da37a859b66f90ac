"""ImageReward at toy size against a forward pass over upstream's layout, written with torch's functions alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_images as toy
from torch.nn import functional as F
from transformers import BertTokenizer, CLIPImageProcessorPil

from actors.rewards import imagereward
from actors.rewards.imagereward import ImageReward
from actors.rewards.planning import reward
from raysearch.__main__ import main
from raysearch.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return toy.image_reward_folder(tmp_path_factory.mktemp("imagereward"))


@pytest.fixture(scope="module")
def state(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder.parent / "ImageReward.pt", weights_only=True)


# -- the published layout, one head of attention in each layer


def layer(state, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def seen(state, pixels: torch.Tensor) -> torch.Tensor:
    """What BLIP's vision transformer gives, (T, L, D)."""
    tower = "blip.visual_encoder"
    kernel, bias = (state[f"{tower}.patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    x = F.conv2d(pixels, kernel, bias, stride=toy.PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{tower}.cls_token"].expand(len(x), 1, -1), x], 1) + state[f"{tower}.pos_embed"]
    for i in range(2):
        block = f"{tower}.blocks.{i}"
        q, k, v = layer(state, f"{block}.attn.qkv", norm(state, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + layer(state, f"{block}.attn.proj", F.scaled_dot_product_attention(q, k, v))
        h = layer(state, f"{block}.mlp.fc1", norm(state, f"{block}.norm2", x, 1e-6))
        x = x + layer(state, f"{block}.mlp.fc2", F.gelu(h))
    return norm(state, f"{tower}.norm", x, 1e-6)


def read(state, ids: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """What BLIP's text encoder gives for the caption (1, L) without padding, beside each image: (T, L, D)."""
    tower = "blip.text_encoder"
    x = state[f"{tower}.embeddings.word_embeddings.weight"][ids]
    x = x + state[f"{tower}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(state, f"{tower}.embeddings.LayerNorm", x, 1e-12).expand(len(images), -1, -1)
    for i in range(2):
        for kind, given in (("attention", None), ("crossattention", images)):
            part = f"{tower}.encoder.layer.{i}.{kind}"
            q, k, v = (
                layer(state, f"{part}.self.{name}", x if given is None or name == "query" else given)
                for name in ("query", "key", "value")
            )
            h = layer(state, f"{part}.output.dense", F.scaled_dot_product_attention(q, k, v))
            x = norm(state, f"{part}.output.LayerNorm", x + h, 1e-12)
        part = f"{tower}.encoder.layer.{i}"
        h = layer(state, f"{part}.output.dense", F.gelu(layer(state, f"{part}.intermediate.dense", x)))
        x = norm(state, f"{part}.output.LayerNorm", x + h, 1e-12)
    return x


def expected(folder: Path, state, clip: np.ndarray, prompt: str) -> np.ndarray:
    """ImageReward's scores of frames; the head is five matrix products."""
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    pixels = CLIPImageProcessorPil(**size)(list(clip), return_tensors="pt").pixel_values
    ids = BertTokenizer.from_pretrained(folder)(prompt, return_tensors="pt").input_ids
    x = read(state, ids, seen(state, pixels))[:, 0].double().numpy()
    for i in (0, 2, 4, 6, 7):
        x = x @ state[f"mlp.layers.{i}.weight"].double().numpy().T + state[f"mlp.layers.{i}.bias"].double().numpy()
    return (x[:, 0] - 0.16717363) / 1.03333950


@pytest.mark.parametrize("prompt", [toy.PROMPT, "a blue square", "up"])
def test_scores_are_those_of_the_published_layout(folder, state, prompt):
    clip = toy.frames(4)
    scores = expected(folder, state, clip, prompt)
    found = ImageReward(folder=str(folder))([toy.view(clip, prompt)])
    np.testing.assert_allclose(found, [[scores.mean(), scores.min()]], rtol=1e-4, atol=1e-4)
    assert np.ptp(scores) > 0.01


def test_frames_are_cut_where_upstream_cuts_them(folder):
    made, clip = ImageReward(folder=str(folder)), toy.frames(2, 28, 31)
    np.testing.assert_array_equal(made([toy.view(clip)]), made([toy.view(clip[:, :, 2:30])]))


def test_padding_does_not_move_the_score(folder):
    made = ImageReward(folder=str(folder))
    words = made._spell("a red circle", padding="max_length", max_length=35, return_tensors="pt")
    assert words.attention_mask.sum() == 5 and words.input_ids.shape == (1, 35)
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = made.net(words.input_ids, words.attention_mask, pixels)
        other = words.input_ids.clone()
        other[:, 5:] = 7
        assert torch.equal(made.net(other, words.attention_mask, pixels), scores)
        assert not torch.equal(made.net(other, torch.ones_like(other), pixels), scores)


def test_captions_are_cut_at_35_tokens(folder):
    made, clip = ImageReward(folder=str(folder)), toy.frames(1)
    long = [made([toy.view(clip, "red " * n + "blue")])[0, 0] for n in (32, 33, 34)]
    assert long[0] != long[1] == long[2]


def test_a_row_depends_on_its_view_alone(folder):
    made = ImageReward(folder=str(folder))
    views = [toy.view(toy.frames(n, 31, 47, n), p) for n, p in ((1, "a"), (20, toy.PROMPT), (5, "red " * 50))]
    together = made(views)
    np.testing.assert_allclose(together, np.concatenate([made([v]) for v in views]), atol=1e-5)
    each = np.array([made([toy.view(frame[None], views[2].prompt)])[0, 0] for frame in views[2].frames])
    np.testing.assert_allclose(together[2], [each.mean(), each.min()], atol=1e-5)


def test_half_precision_keeps_the_head_in_float32(folder):
    half, whole = (ImageReward(folder=str(folder), dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert {p.dtype for p in half.net.head.parameters()} == {torch.float32}
    assert {p.dtype for p in half.net.text.parameters()} == {torch.bfloat16}
    assert ImageReward(folder=str(folder)).net is whole.net
    views = [toy.view(toy.frames())]
    np.testing.assert_allclose(half(views), whole(views), atol=0.5)


def test_published_sizes_are_read_from_the_tensors():
    """BLIP ViT-L/16 at 224 pixels and BERT-base, of whose state dict only names and shapes are made."""
    shapes = {"vision.embeddings.position_embedding": (1, 197, 1024)}
    shapes |= {"vision.embeddings.patch_embedding.weight": (1024, 3, 16, 16)}
    shapes |= {f"vision.encoder.layers.{i}.mlp.fc1.bias": (4096,) for i in range(24)}
    shapes |= {"text.embeddings.word_embeddings.weight": (30524, 768)}
    shapes |= {"text.embeddings.position_embeddings.weight": (512, 768)}
    shapes |= {f"text.encoder.layer.{i}.intermediate.dense.bias": (3072,) for i in range(12)}
    found = imagereward.described({k: torch.empty(s, device="meta") for k, s in shapes.items()}, Path("x"))
    assert {k: found["vision"][k] for k in ("num_hidden_layers", "num_attention_heads", "image_size")} == {
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
    }
    assert (found["vision"]["layer_norm_eps"], found["text"]["layer_norm_eps"]) == (1e-6, 1e-12)
    assert (found["text"]["num_hidden_layers"], found["text"]["num_attention_heads"]) == (12, 12)
    with torch.device("meta"):
        net = imagereward.Net(**found, head=[768, 1024, 128, 64, 16, 1])
    assert sum(p.numel() for p in net.head.parameters()) == 927_969
    assert net.text.encoder.layer[11].crossattention.self.key.in_features == 1024


# -- mistakes


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("vision.embeddings.class_embedding must be (1, 1, 32), there is no such tensor",
         lambda s: s.pop("blip.visual_encoder.cls_token")),
        ("text.embeddings.word_embeddings.weight is missing",
         lambda s: s.pop("blip.text_encoder.embeddings.word_embeddings.weight")),
        ("must be (32, 32), there is (31, 32)",
         lambda s: s.update({"blip.visual_encoder.blocks.1.attn.proj.weight": torch.zeros(31, 32)})),
        ("text.embeddings.word_embeddings.weight must have 2 dimensions above 0, not (0, 24)",
         lambda s: s.update({"blip.text_encoder.embeddings.word_embeddings.weight": torch.zeros(0, 24)})),
        ("vision.embeddings.position_embedding must have 3 dimensions above 0, not (5, 32)",
         lambda s: s.update({"blip.visual_encoder.pos_embed": torch.zeros(5, 32)})),
        ("a file of linear layers, each with a weight and a bias", lambda s: s.pop("mlp.layers.4.bias")),
        ("of which each takes what the one before gives",
         lambda s: s.update({"mlp.layers.4.weight": torch.zeros(8, 11)})),
        ("NaN", lambda s: s["mlp.layers.7.bias"].fill_(torch.nan)),
    ],
)  # fmt: skip
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, capsys, said, change):
    state = toy.image_reward_state(toy.bert_tokenizer(tmp_path / "bert"))
    change(state)
    torch.save(state, tmp_path / "ImageReward.pt")
    command = ["reward", "convert", "imagereward", str(tmp_path / "ImageReward.pt"), str(tmp_path / "out")]
    assert main([*command, "--base", str(tmp_path / "bert")]) == 2
    line = capsys.readouterr().err
    assert said in line and line.startswith("raysearch: SOURCE: ") and line.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main([*command, "--base", str(tmp_path)]) == 2
    assert "--base" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "damage"),
    [
        ("a reward of architecture 'imagereward', not 'pavrm'", lambda f: toy.edited(f, architecture="pavrm")),
        ("describes no ImageReward", lambda f: toy.edited(f, head=[24, 2])),
        ("describes no ImageReward", lambda f: toy.edited(f, more=1)),
        ("vision.embeddings.class_embedding must be (1, 1, 32), there is no such tensor",
         lambda f: toy.damaged(f, "vision.embeddings.class_embedding", lambda x: None)),
        ("head.0.bias must be (20,), there is (19,)", lambda f: toy.damaged(f, "head.0.bias", lambda x: x[:19])),
        ("NaN", lambda f: toy.damaged(f, "head.0.bias", lambda x: x.fill_(torch.nan))),
        ("a folder with model.safetensors", lambda f: (f / "model.safetensors").unlink()),
        ("whose tokenizer can be read: ", lambda f: (f / "tokenizer.json").write_text("{")),
        ("a folder with BERT's tokenizer", lambda f: [(f / n).unlink(missing_ok=True) for n in imagereward.TOKENIZER]),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_are_refused_before_weights_load(tmp_path, said, damage):
    folder = toy.image_reward_folder(tmp_path)
    block = {"name": "imagereward", "folder": str(folder)}
    assert reward("rewards.search", block, {}, (), (1, 8, 5, 8, 8)).total((2.0, 1.0)) == 2.0
    damage(folder)
    with pytest.raises(ConfigError) as error:
        reward("rewards.search", block, {}, (), (1, 8, 5, 8, 8))
    assert said in str(error.value) and "\n" not in str(error.value)
