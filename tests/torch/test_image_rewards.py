"""PickScore, CLIPScore and HPS at toy size: pixels, scores, the converter, mistakes, and runs from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_images as toy
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, SiglipImageProcessorPil

from actors.rewards import pictures
from actors.rewards.clipscore import ClipScore
from actors.rewards.hps import Hps
from actors.rewards.pickscore import PickScore
from actors.rewards.planning import reward
from raysearch.__main__ import main
from raysearch.errors import ConfigError

REWARDS = {"pickscore": PickScore, "clipscore": ClipScore, "hps": Hps}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return toy.clip_folder(tmp_path_factory.mktemp("clip"))


# -- which frames, and which pixels


@pytest.mark.parametrize(
    ("length", "n", "expected"),
    [(81, 8, [0, 11, 23, 34, 46, 57, 69, 80]), (5, 8, [0, 1, 2, 3, 4]), (9, 1, [0]), (9, 2, [0, 8])],
)  # fmt: skip
def test_frames_are_spaced_from_the_first_to_the_last(length, n, expected):
    numbered = np.arange(length, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    assert pictures.chosen(numbered, n)[:, 0, 0, 0].tolist() == expected


@pytest.mark.parametrize(("height", "width"), toy.ODD)
@pytest.mark.parametrize("side", [28, 33])
def test_pixels_are_those_of_the_librarys_processors(height, width, side):
    clip = toy.frames(2, height, width)
    images = list(map(Image.fromarray, clip))  # of an array with three rows the library takes these for channels
    theirs = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    found = pictures.pixels(pictures.cropped, clip, side)
    assert torch.equal(found, theirs(images, return_tensors="pt").pixel_values)
    theirs = SiglipImageProcessorPil(size={"height": side, "width": side})
    found = pictures.pixels(pictures.stretched, clip, side, pictures.HALF)
    assert torch.equal(found, theirs(images, return_tensors="pt").pixel_values)


@pytest.mark.parametrize(
    ("size", "corner"),
    [((704, 1280), (0, 92)), ((480, 848), (0, 86)), ((544, 960), (0, 86)), ((848, 480), (86, 0)), ((224, 225), (0, 0)),
     ((224, 227), (0, 2))],
)  # fmt: skip
def test_the_middle_is_torchvisions_where_a_reward_was_trained_with_it(size, corner):
    """torchvision's CenterCrop cuts at int(round((n - side) / 2.0)), and the shorter side is resized to 224."""
    clip = toy.frames(1, *size)
    short = min(size)
    height, width = (224 * n // short for n in size)
    whole = Image.fromarray(clip[0]).resize((width, height), Image.Resampling.BICUBIC)
    top, left = corner
    expected = np.asarray(whole)[top : top + 224, left : left + 224] / 255
    np.testing.assert_allclose(pictures.centred(clip, 224)[0], expected, atol=1e-6)


def bars(frame: np.ndarray, side: int) -> np.ndarray:
    """HPSv2's square of a frame by PIL in floating point, one channel after the other."""
    height, width = (max(1, round(n * side / max(frame.shape[:2]))) for n in frame.shape[:2])
    out = np.zeros((side, side, 3))
    top, left = (side - height) // 2, (side - width) // 2
    for c in range(3):
        channel = Image.fromarray(frame[..., c].astype(np.float32) / 255)
        small = channel.resize((width, height), Image.Resampling.BICUBIC)
        out[top : top + height, left : left + width, c] = np.asarray(small)
    return out


@pytest.mark.parametrize(("height", "width"), [*toy.ODD, (14, 28)])
def test_hps_sees_whole_frames_with_black_bars(height, width):
    clip = toy.frames(2, height, width)
    found = pictures.pixels(pictures.padded, clip, 28).permute(0, 2, 3, 1).numpy()
    mean, deviation = pictures.CLIP
    expected = (np.stack([bars(frame, 28) for frame in clip]) - mean) / deviation
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if height != width:
        np.testing.assert_allclose(found[:, 0, 0], np.tile(-np.array(mean) / deviation, (2, 1)), atol=1e-6)


# -- the scores


def cosines(folder: Path, clip: np.ndarray, prompt: str, pixels: torch.Tensor | None = None) -> np.ndarray:
    """The cosine of a caption and each frame by the library's own processor and forward pass, and numpy."""
    model = CLIPModel.from_pretrained(folder).eval()
    if pixels is None:
        size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
        pixels = CLIPImageProcessorPil(**size)(list(clip), return_tensors="pt").pixel_values
    ids = CLIPTokenizer.from_pretrained(folder)([prompt], return_tensors="pt", truncation=True, max_length=12).input_ids
    with torch.inference_mode():
        out = model(input_ids=ids, pixel_values=pixels)
    a, b = out.image_embeds.double().numpy(), out.text_embeds.double().numpy()[0]
    return (a @ b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b)


def test_pickscore_is_the_scaled_cosine_and_its_minimum(folder):
    clip = toy.frames()
    cos = cosines(folder, clip, toy.PROMPT)
    scale = float(np.exp(CLIPModel.from_pretrained(folder).logit_scale.item()))
    expected = [scale * cos.mean(), scale * cos.min()]
    np.testing.assert_allclose(PickScore(folder=str(folder))([toy.view(clip)]), [expected], rtol=1e-5)
    assert scale > 10 and np.ptp(cos) > 0.01


def test_clipscore_has_two_variants(folder):
    clip = toy.frames(seed=3)
    for variant, scale, prefix in (("percent", 100, ""), ("paper", 2.5, "A photo depicts ")):
        graded = [ClipScore(folder=str(folder), variant=variant)([toy.view(clip, p)])[0] for p in ("red", "up a", "e")]
        cos = [cosines(folder, clip, prefix + p).clip(0) * scale for p in ("red", "up a", "e")]
        np.testing.assert_allclose(graded, [[c.mean(), c.min()] for c in cos], atol=1e-4)


def test_what_does_not_fit_has_a_clipscore_of_0(folder):
    found = {p: ClipScore(folder=str(folder))([toy.view(toy.frames(1), p)])[0, 0] for p in "abcdefgh"}
    signs = {p: cosines(folder, toy.frames(1), p)[0] > 0 for p in found}
    assert set(signs.values()) == {True, False}
    assert {p: score > 0 for p, score in found.items()} == signs


def test_hps_is_the_cosine_of_whole_frames(folder):
    clip = toy.frames()
    mean, deviation = (torch.tensor(x) for x in pictures.CLIP)
    whole = (torch.tensor(np.stack([bars(frame, 28) for frame in clip])).float() - mean) / deviation
    cos = cosines(folder, clip, toy.PROMPT, whole.permute(0, 3, 1, 2))
    np.testing.assert_allclose(Hps(folder=str(folder))([toy.view(clip)]), [[cos.mean(), cos.min()]], atol=1e-5)
    assert abs(cos - cosines(folder, clip, toy.PROMPT)).max() > 1e-3  # cropped ones differ


@pytest.mark.parametrize("name", REWARDS)
def test_a_row_depends_on_its_view_alone(folder, name):
    made = REWARDS[name](folder=str(folder))
    views = [toy.view(toy.frames(n, 31, 47, n), p) for n, p in ((1, "a"), (20, toy.PROMPT), (5, "up " * 30))]
    together = made(views)
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together, np.concatenate([made([v]) for v in views]), atol=1e-5)
    frames = views[2].frames
    each = np.array([made([toy.view(frame[None], views[2].prompt)])[0, 0] for frame in frames])
    np.testing.assert_allclose(together[2], [each.mean(), each.min()], atol=1e-5)
    assert together[0, 0] == together[0, 1]


def test_long_captions_are_cut_and_end_with_the_models_token(folder):
    made = PickScore(folder=str(folder))
    clip = toy.frames(1)
    cut = [
        made([toy.view(clip, p)])[0, 0]
        for p in ("a b c d e f g h i j", "a b c d e f g h i j k l m", "a b c d e f g h i j n")
    ]
    assert cut[0] == cut[1] == cut[2]
    assert made([toy.view(clip, "a b c d e f g h i")])[0, 0] != cut[0]


def test_rewards_of_a_folder_share_its_weights(folder, tmp_path):
    pick, score = PickScore(folder=str(folder)), ClipScore(folder=str(folder))
    assert pick.clip.model is score.clip.model
    half = PickScore(folder=str(folder), dtype="bfloat16")
    assert half.clip.model is not pick.clip.model
    assert (half.clip.model.dtype, pick.clip.model.dtype) == (torch.bfloat16, torch.float32)
    views = [toy.view(toy.frames())]
    np.testing.assert_allclose(half(views), pick(views), atol=0.3)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    apart = PickScore(folder=str(tmp_path), tokenizer=str(folder))
    np.testing.assert_array_equal(apart(views), pick(views))


def test_frames_that_are_no_pictures_are_refused(folder):
    for wrong in (None, np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"hps needs frames: uint8 \(frames, height, width, 3\)"):
            Hps(folder=str(folder))([toy.view(wrong)])


# -- the converter


def fused(state, tower: str, x: torch.Tensor, heads: int, mask: torch.Tensor | None) -> torch.Tensor:
    """OpenCLIP's transformer on x (B, L, D), by torch's own attention over the fused weights."""
    for i in range(2):
        w = {
            k.removeprefix(f"{tower}resblocks.{i}."): v
            for k, v in state.items()
            if k.startswith(f"{tower}resblocks.{i}.")
        }
        d = x.shape[-1]
        y = F.layer_norm(x, (d,), w["ln_1.weight"], w["ln_1.bias"]).transpose(0, 1)
        y, _ = F.multi_head_attention_forward(
            y, y, y, d, heads, w["attn.in_proj_weight"], w["attn.in_proj_bias"], None, None, False, 0.0,
            w["attn.out_proj.weight"], w["attn.out_proj.bias"], training=False, need_weights=False, attn_mask=mask,
        )  # fmt: skip
        x = x + y.transpose(0, 1)
        y = F.layer_norm(x, (d,), w["ln_2.weight"], w["ln_2.bias"])
        y = F.gelu(F.linear(y, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))
        x = x + F.linear(y, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
    return x


def open_clip(state, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """OpenCLIP's embeddings of images (B, 3, 28, 28) and of one text (1, L)."""
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=toy.PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = fused(state, "visual.transformer.", x, 2, None)[:, 0]
    x = (
        F.layer_norm(x, x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
        @ state["visual.proj"]
    )
    length = ids.shape[1]
    y = F.embedding(ids, state["token_embedding.weight"]) + state["positional_embedding"][:length]
    y = fused(state, "transformer.", y, 2, torch.full((length, length), -torch.inf).triu(1))
    y = F.layer_norm(y, y.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x, y[0, ids[0].argmax()][None] @ state["text_projection"]


def published(folder: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A checkpoint as HPSv2 has it, the folder of the model that it began from, and the checkpoint's tensors."""
    base = folder / "base"
    config = toy.clip_config(toy.clip_tokenizer(base))
    config.save_pretrained(base)
    state = toy.open_clip_state(config)
    torch.save({"state_dict": state, "epoch": 1}, folder / "HPS_toy.pt")
    return folder / "HPS_toy.pt", base, state


def test_hps_is_converted_from_openclip(tmp_path):
    source, base, state = published(tmp_path)
    assert main(["reward", "convert", "hps", str(source), str(tmp_path / "hps"), "--base", str(base)]) == 0
    made = Hps(folder=str(tmp_path / "hps"))
    clip = toy.frames()
    pixels = made.pixels(clip)
    ids = CLIPTokenizer.from_pretrained(base)(toy.PROMPT, truncation=True, max_length=12, return_tensors="pt").input_ids
    images, texts = open_clip(state, pixels, ids)
    with torch.inference_mode():
        found = made.clip.model(input_ids=ids, pixel_values=pixels)
    torch.testing.assert_close(found.image_embeds, F.normalize(images, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, F.normalize(texts, dim=-1), atol=1e-5, rtol=0)
    assert made.clip.model.logit_scale == state["logit_scale"]
    cos = F.cosine_similarity(images, texts).numpy()
    np.testing.assert_allclose(made([toy.view(clip)]), [[cos.mean(), cos.min()]], atol=1e-5)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("visual_projection.weight must be (24, 40), there is no such tensor", lambda s: s.pop("visual.proj")),
        ("more must be no such tensor, there is (2,)", lambda s: s.update(more=torch.zeros(2))),
        ("text_model.final_layer_norm.bias must be (32,), there is (3,)",
         lambda s: s.update({"ln_final.bias": torch.zeros(3)})),
        ("in_proj.weight must be no such tensor", lambda s: s.update(
            {"transformer.resblocks.0.attn.in_proj_weight": torch.tensor(1.0)})),
        ("visual.proj must be no such tensor", lambda s: s.update({"visual.proj": torch.zeros(2, 2, 2)})),
        ("must be a tensor of finite numbers", lambda s: s["visual.proj"].fill_(torch.nan)),
    ],
)  # fmt: skip
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, capsys, said, change):
    source, base, state = published(tmp_path)
    change(state)
    torch.save({"state_dict": state}, source)
    assert main(["reward", "convert", "hps", str(source), str(tmp_path / "hps"), "--base", str(base)]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.startswith("raysearch: SOURCE: ") and line.count("\n") == 1
    assert not (tmp_path / "hps").exists()


def test_bases_that_do_not_fit_are_refused(tmp_path, capsys):
    source, base, _ = published(tmp_path)
    command = ["reward", "convert", "hps", str(source), str(tmp_path / "hps")]
    assert main(command) == 2
    assert "--base: None is not allowed; it must be a folder with config.json" in capsys.readouterr().err
    toy.edited(base, model_type="siglip")
    assert main([*command, "--base", str(base)]) == 2
    assert "a folder of a model of type clip, not siglip" in capsys.readouterr().err
    for file in (base / "config.json", base / "tokenizer.json"):
        file.unlink()
    assert main([*command, "--base", str(base)]) == 2
    assert "a folder with config.json" in capsys.readouterr().err


def test_the_published_sizes_are_those_of_vit_h_14():
    """The layout of HPS_v2.1 and of PickScore: what the hub's config of CLIP-ViT-H-14 describes."""
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
    config = CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 14}, projection_dim=1024)
    with torch.device("meta"):
        net = CLIPModel(config)
    assert sum(p.numel() for p in net.parameters()) == 986_109_441


# -- mistakes


def prepared(folder: Path, **more):
    return reward("rewards.search", {"name": "pickscore", "folder": str(folder), **more}, {}, (), (1, 8, 5, 8, 8))


def other_text(folder: Path, **values) -> Path:
    config = json.loads((folder / "config.json").read_text())
    return toy.edited(folder, text_config=config["text_config"] | values)


def other_end(folder: Path) -> None:
    other_text(folder, eos_token_id=7)


def few_tokens(folder: Path) -> None:
    name = "text_model.embeddings.token_embedding.weight"
    toy.damaged(other_text(folder, vocab_size=5, bos_token_id=3, eos_token_id=4, pad_token_id=4), name, lambda x: x[:5])


@pytest.mark.parametrize(
    ("said", "damage"),
    [
        ("a model of type clip, not siglip", lambda f: toy.edited(f, model_type="siglip")),
        ("a folder with config.json", lambda f: (f / "config.json").unlink()),
        ("a folder with model.safetensors", lambda f: (f / "model.safetensors").unlink()),
        ("a folder with CLIP's tokenizer", lambda f: (f / "tokenizer.json").unlink()),
        ("whose tokenizer can be read: ", lambda f: (f / "tokenizer.json").write_text("{")),
        ("one of at most 5 tokens, as the model has: there are 192", few_tokens),
        ("whose captions end with the model's token 7, not 191", other_end),
        ("whose model.safetensors can be read", lambda f: (f / "model.safetensors").write_text("version https://git")),
        ("all weights of a CLIPModel: visual_projection.weight is missing",
         lambda f: toy.damaged(f, "visual_projection.weight", lambda x: None)),
        ("visual_projection.weight must be (24, 40), there is (23, 40)",
         lambda f: toy.damaged(f, "visual_projection.weight", lambda x: x[:23])),
        ("NaN", lambda f: toy.damaged(f, "visual_projection.weight", lambda x: x.fill_(torch.nan))),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_are_refused_before_weights_load(tmp_path, said, damage):
    folder = toy.clip_folder(tmp_path / "clip")
    assert prepared(folder).components == ("pickscore", "pickscore_min")
    damage(folder)
    with pytest.raises(ConfigError) as error:
        prepared(folder)
    assert said in str(error.value)
    assert str(error.value).startswith("rewards.search") and "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused_when_they_load(tmp_path):
    folder = toy.clip_folder(tmp_path / "clip")
    toy.damaged(folder, "text_projection.weight", lambda x: x.fill_(torch.inf))
    with pytest.raises(ConfigError, match=r"folder: .* one of finite weights: text_projection.weight has NaN or inf"):
        PickScore(folder=str(folder))


def test_old_configs_end_captions_with_2_and_mean_the_highest_token(folder, tmp_path):
    old = other_text(toy.clip_folder(tmp_path / "clip"), eos_token_id=2)
    assert prepared(old).components == ("pickscore", "pickscore_min")
    views = [toy.view(toy.frames())]
    np.testing.assert_array_equal(PickScore(folder=str(old))(views), PickScore(folder=str(folder))(views))


def test_arguments_are_checked(folder):
    for said, more in (("frames: 0", {"frames": 0}), ("dtype: 'int8'", {"dtype": "int8"}), ("fold: ", {"fold": "x"})):
        with pytest.raises(ConfigError, match=said):
            prepared(folder, **more)


def test_the_minimum_is_logged_and_weighs_nothing(folder):
    assert prepared(folder).total((3.0, 1.0)) == 3.0
    assert prepared(folder, weights={"pickscore": 0, "pickscore_min": 1}).total((3.0, 1.0)) == 1.0
