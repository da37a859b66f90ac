"""Features of frames, and the anchor reward over them (ScalingNoise, Eq. 7)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from actors import features
from actors.features.efficientnet import EfficientNetLite0
from actors.rewards import View
from actors.rewards.consistency import Consistency
from actors.rewards.planning import reward
from actors.tiny import world
from actors.tiny.features import World
from raysearch.errors import ConfigError

RED, BLUE = "a red circle moving left", "a blue square moving up"


def clip(caption: str = RED, seed: int = 0) -> np.ndarray:
    return world.render(caption, np.random.default_rng(seed))


def view(frames, **more) -> View:
    return View(RED, 0.0, frames=frames, **more)


class Means(Consistency):
    """Over features that can be worked out by hand: a frame's mean colour."""

    def __init__(self, anchor: str = "before") -> None:
        self.features = lambda frames: features.unit(frames.mean((1, 2)) + 1e-9)
        self.anchor = anchor


def plain(*colours) -> np.ndarray:
    """Frames of one colour each, 2 x 2 pixels."""
    return np.array(colours, dtype=np.uint8)[:, None, None, :].repeat(2, 1).repeat(2, 2)


R, G = (255, 0, 0), (0, 255, 0)


@pytest.mark.parametrize(
    ("frames", "before", "anchor", "local"),
    [
        (plain(R, R, R), None, 1, 1),
        (plain(R, G, R), None, 0.5, 0),  # every frame counts, not only the last one
        (plain(R, G, G, G), None, 0, 2 / 3),
        (plain(R, G, G, G), plain(G, R), 1, 2 / 3),  # the anchor is the first frame of the chunk before
        (plain(G, R, R), plain(G, R), 0, 0.5),
    ],
)
def test_by_hand(frames, before, anchor, local):
    ((a, b),) = Means()([view(frames, before=before)])
    assert (a, b) == pytest.approx((anchor, local), abs=1e-6)


def test_the_anchor_may_be_the_videos_first_frame():
    v = view(plain(R, R), before=plain(G, G), opening=plain(R, G))
    assert Means("before")([v])[0, 0] == pytest.approx(0, abs=1e-6)
    assert Means("opening")([v])[0, 0] == pytest.approx(1)


def test_the_total_is_equation_7_and_its_ablations_are_weights():
    r = reward("rewards.search", {"name": "consistency"}, {}, (), (1, 8, 5, 8, 8))
    assert r.total((0.25, 0.75)) == 0.5
    assert r.earlier and r.decodes
    local = reward("rewards.search", {"name": "consistency", "weights": {"anchor": 0}}, {}, (), (1, 8, 5, 8, 8))
    assert local.total((0.25, 0.75)) == 0.375


def test_what_the_world_shows_changes_with_colour_shape_and_size_and_not_with_place():
    see = World(None)
    frames = clip()
    same = see(frames)
    assert np.linalg.norm(same, axis=1) == pytest.approx(1)
    assert (same @ same.T).min() > 0.97  # one object on its way
    for other in (clip("a blue circle moving left"), clip("a red square moving left")):
        assert (same @ see(other).T).max() < 0.9
    fading = (world.BACKGROUND + (frames[:1].astype(float) - world.BACKGROUND) * 0.4).astype(np.uint8)
    assert (see(fading) @ same[0])[0] < 0.97
    both = see(clip(f"{RED} and {BLUE}"))
    assert 0.5 < (both[0] @ same[0]) < 0.9


def test_efficientnet_knows_its_own_weights_and_sees_what_is_there():
    net = EfficientNetLite0(None)
    frames = np.concatenate([clip(RED, 0)[:2], clip(BLUE, 1)[:2]])
    d = net(frames)
    assert d.shape == (4, 1280)
    assert np.linalg.norm(d, axis=1) == pytest.approx(1, abs=1e-5)
    alike = d @ d.T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max() + 0.02
    with torch.inference_mode():
        parameters = sum(p.numel() for p in net.net.parameters())
        logits = net.net(torch.zeros(1, 3, 224, 224))
    assert parameters == 4_652_008  # Lite0's, as published
    assert logits.shape == (1, 1000)


def save_vision(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    if kind == "clip":
        vision = {**small, "intermediate_size": 16}
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        text |= {"vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    elif kind == "vit":
        model = ViTModel(ViTConfig(**small, intermediate_size=16))
    else:
        model = Dinov2Model(Dinov2Config(**small, mlp_ratio=1))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return folder


@pytest.mark.parametrize(("name", "kind", "width"), [("dino", "vit", 16), ("dino", "dinov2", 16), ("clip", "clip", 12)])
def test_vision_transformers_are_the_libraries_own(tmp_path, name, kind, width):
    folder = save_vision(tmp_path, kind)
    build = features.find(name)
    assert [f.name for f in build.files(folder)] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    d = build(folder)(frames)
    assert d.shape == (3, width)
    pixels = torch.tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        if kind == "clip":
            whole = CLIPModel.from_pretrained(folder).eval()
            expected = whole.visual_projection(whole.vision_model(pixels).pooler_output)
        else:
            expected = {"vit": ViTModel, "dinov2": Dinov2Model}[kind].from_pretrained(folder).eval()(pixels)
            expected = expected.last_hidden_state[:, 0]
    np.testing.assert_allclose(d, features.unit(expected.numpy()), atol=1e-4)


@pytest.mark.parametrize(
    ("said", "block"),
    [
        ("features: 'dinosaur' is not allowed; it must be one of world, efficientnet, dino, clip", "dinosaur"),
        ("path: None is not allowed; it must be given: a folder", "dino"),
        ("path: '.' is not allowed; it must be left out with features=world", {"features": "world", "path": "."}),
        ("a folder with config.json", {"features": "clip", "path": "."}),
        ("anchor: 'last' is not allowed; it must be one of before, opening", {"anchor": "last"}),
    ],
)
def test_mistakes_are_said_before_anything_loads(said, block):
    block = {"features": block} if isinstance(block, str) else block
    with pytest.raises(ConfigError) as error:
        reward("rewards.search", {"name": "consistency", **block}, {}, (), (1, 8, 5, 8, 8))
    assert str(error.value).startswith("rewards.search.")
    assert said in str(error.value)


def test_another_kind_of_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"path: .* a model of type vit or dinov2, not clip"):
        features.find("dino").files(save_vision(tmp_path, "clip"))


def test_broken_weights_are_refused(tmp_path):
    folder = save_vision(tmp_path, "vit")
    build, weights = features.find("dino"), folder / "model.safetensors"
    tensors, how = load_file(weights), folder / "preprocessor_config.json"
    few = {k: v for k, v in tensors.items() if "attention" not in k}
    save_file(few, weights)
    build.files(folder)
    with pytest.raises(ConfigError, match=r"path: .* whose weights are whole; these are missing: \['.*attention"):
        build(folder)
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match=r"path: .* whose model.safetensors can be read"):
        build.files(folder)
    save_file(tensors, weights)
    for broken in ("{", "[]", '{"image_mean": [0.5]}', '{"image_std": "one"}'):
        how.write_text(broken)
        with pytest.raises(ConfigError, match=r"path: .* image_mean and image_std of three numbers"):
            build.files(folder)


def test_one_frame_is_alike_to_no_other():
    with pytest.raises(ConfigError, match=r"model.num_frames: 1 is not allowed; it must be that of a video"):
        reward("rewards.search", {"name": "consistency"}, {}, (), (1, 8, 1, 8, 8))
