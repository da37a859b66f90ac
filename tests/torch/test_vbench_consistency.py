"""VBench's consistency, against the formula in loops, the library's models, and resizing written out in numpy."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from actors import features
from actors.rewards import View
from actors.rewards.pictures import CLIP
from actors.rewards.planning import reward
from actors.rewards.vbench import Background, Subject, VBenchConsistency, consistency
from raysearch.__main__ import main
from raysearch.errors import ConfigError

SHAPE = (1, 4, 3, 8, 8)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def save(folder: Path, model) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=4), add_pooling_layer=False)
    with torch.no_grad():  # else neither pixels nor positions would count for much
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(std=1 if "embeddings" in name else 0.5)
    return save(tmp_path_factory.mktemp("dino"), model)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    text = {**SMALL, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 16, "patch_size": 4}
    return save(
        tmp_path_factory.mktemp("clip"),
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)),
    )


def noise(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def view(frames: np.ndarray) -> View:
    return View("a dog", 0.0, frames=frames)


def formula(d: np.ndarray) -> float:
    """As VBench's loop has it."""
    total = 0.0
    for i in range(1, len(d)):
        total += (max(0.0, float(d[i] @ d[i - 1])) + max(0.0, float(d[i] @ d[0]))) / 2
    return total / (len(d) - 1)


def test_the_formula_by_hand():
    east, north, west = np.eye(2)[0], np.eye(2)[1], -np.eye(2)[0]
    assert consistency(np.array([east, east, east])) == 1
    assert consistency(np.array([east, north, north])) == pytest.approx((0 + 1 / 2) / 2)
    assert consistency(np.array([east, west, west])) == pytest.approx(1 / 4)  # what is below 0 counts as 0
    assert consistency(np.array([east, north, east])) == pytest.approx((0 + 1 / 2) / 2)
    d = features.unit(np.random.default_rng(0).standard_normal((9, 5)))
    assert consistency(d) == pytest.approx(formula(d))


def kernel(t: np.ndarray, mode: str) -> np.ndarray:
    """Weights at distances t: a triangle, or Keys' cubic with a = -0.75, as torch has it."""
    t = np.abs(t)
    if mode == "bilinear":
        return np.clip(1 - t, 0, None)
    a = -0.75
    near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def rows(size: int, out: int, mode: str) -> np.ndarray:
    """The matrix (out, size) that resizes a line without antialiasing, with edges repeated."""
    matrix = np.zeros((out, size))
    for i in range(out):
        centre = (i + 0.5) * size / out - 0.5
        if mode == "bilinear":
            centre = max(centre, 0.0)
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[i, min(max(j, 0), size - 1)] += kernel(np.array(centre - j), mode)
    return matrix


def resized(frames: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Frames in [0, 1] resized, float64 (T, height, width, 3)."""
    down, across = rows(frames.shape[1], height, mode), rows(frames.shape[2], width, mode)
    return np.einsum("ih,thwc,jw->tijc", down, frames / 255, across)


def tensor(x: np.ndarray, normal) -> torch.Tensor:
    mean, deviation = map(np.array, normal)
    return torch.from_numpy(((x - mean) / deviation).transpose(0, 3, 1, 2).astype(np.float32))


# (height, width) of frames and of what the model sees: 16 pixels on the shorter side, the other rounded down
@pytest.mark.parametrize(("size", "seen"), [((32, 48), (16, 24)), ((45, 32), (22, 16)), ((9, 13), (16, 23))])
def test_the_subject_is_seen_whole(dino, size, seen):
    frames = noise(4, *size)
    model = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
    with torch.inference_mode():
        x = tensor(resized(frames, *seen, "bilinear"), IMAGENET)
        d = model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0].numpy()
    d = features.unit(d)
    np.testing.assert_allclose(Subject(dino)(frames), d, atol=1e-5)
    ours = VBenchConsistency(dino=str(dino), clip=None)
    assert ours([view(frames)]) == pytest.approx(np.array([[formula(d)]]), abs=1e-5)


@pytest.mark.parametrize(("size", "seen"), [((32, 48), (16, 24)), ((45, 32), (22, 16)), ((9, 13), (16, 23))])
def test_the_background_is_the_middle_square(clip, size, seen):
    frames = noise(4, *size)
    x = resized(frames, *seen, "bicubic")
    top, left = round((seen[0] - 16) / 2), round((seen[1] - 16) / 2)
    x = x[:, top : top + 16, left : left + 16]
    model = CLIPModel.from_pretrained(clip).eval()
    with torch.inference_mode():
        d = model.visual_projection(model.vision_model(tensor(x, CLIP)).pooler_output).numpy()
    d = features.unit(d)
    np.testing.assert_allclose(Background(clip)(frames), d, atol=1e-5)
    ours = VBenchConsistency(dino=None, clip=str(clip))
    assert ours([view(frames)]) == pytest.approx(np.array([[formula(d)]]), abs=1e-5)


def test_a_folders_own_normalisation_counts(clip, tmp_path):
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [2.0] * 3}))
    assert np.abs(Background(tmp_path)(noise(2, 16, 16)) - Background(clip)(noise(2, 16, 16))).max() > 0.01


def test_a_still_video_scores_1_and_rows_are_apart(dino, clip):
    both = VBenchConsistency(dino=str(dino), clip=str(clip))
    assert both.components == ("subject", "background")
    views = [view(noise(1, 24, 20).repeat(3, 0)), view(noise(5, 16, 28, seed=1)), view(noise(2, 20, 20, seed=2))]
    scores = both(views)
    assert scores[0] == pytest.approx([1, 1])
    assert (scores[1:] < 0.999).all() and (scores >= 0).all()
    np.testing.assert_array_equal(both(views[::-1]), scores[::-1])
    assert both([]).shape == (0, 2)
    long = noise(40, 16, 16, seed=3)  # more than a batch
    np.testing.assert_allclose(Subject(dino)(long)[-1:], Subject(dino)(long[-1:]), atol=1e-5)


def test_two_rewards_share_a_folders_model(dino, clip):
    one, other = VBenchConsistency(dino=str(dino), clip=str(clip)), VBenchConsistency(dino=str(dino), clip=None)
    assert one._features["subject"]._model is other._features["subject"]._model


def planned(**block):
    return reward("rewards.search", {"name": "vbench_consistency", **block}, {}, (), SHAPE)


def test_a_folder_of_null_leaves_its_component_out(dino, clip):
    assert planned(dino=str(dino), clip=str(clip)).components == ("subject", "background")
    assert planned(dino=str(dino), clip=None).components == ("subject",)
    assert planned(dino=None, clip=str(clip)).components == ("background",)


def test_mistakes_are_one_line_before_weights_load(dino, clip, tmp_path):
    for said, block in [
        (r"dino: None is not allowed; it must be given, or else clip", {"dino": None, "clip": None}),
        (r"dino: .*clip.* a model of type vit, not clip", {"dino": str(clip), "clip": None}),
        (r"clip: .*dino.* a model of type clip, not vit", {"dino": None, "clip": str(dino)}),
        (r"clip: .* a folder with config.json", {"dino": str(dino), "clip": str(tmp_path)}),
        (r"dino: '/nowhere'", {"dino": "/nowhere", "clip": None}),
    ]:
        with pytest.raises(ConfigError, match=f"^rewards.search.{said}") as error:
            planned(**block)
        assert "\n" not in str(error.value)
    block = {"name": "vbench_consistency", "dino": str(dino), "clip": None}
    with pytest.raises(ConfigError, match=r"^rewards.search.model.num_frames: 1 is not allowed"):
        reward("rewards.search", block, {}, (), (1, 4, 1, 8, 8))
    with pytest.raises(ConfigError, match="num_frames: 1 is not allowed"):
        VBenchConsistency(dino=str(dino), clip=None)([view(noise(1, 16, 16))])


def test_missing_weights_are_refused_by_the_folders_key(dino, tmp_path):
    for file in dino.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    few = {k: v for k, v in load_file(dino / "model.safetensors").items() if "attention" not in k}
    save_file(few, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"^dino: .* whose weights are whole; these are missing"):
        VBenchConsistency(dino=str(tmp_path), clip=None)


def test_a_search_runs_from_the_command_line(tiny, dino, clip, tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"model: {{path: {tiny}, height: 32, width: 32, num_frames: 9, max_sequence_length: 40}}\n"
        "sampler: {num_steps: 2}\n"
        "policy: {name: best_of_n, n: 2}\n"
        f"rewards: {{search: {{name: vbench_consistency, dino: {dino}, clip: {clip}}}}}\n"
        "prompts: [a red circle moving left]\n"
        "fleet: {backend: local}\n"
        f"run_dir: {tmp_path / 'run'}\n"
    )
    assert main(["run", str(tmp_path / "config.yaml")]) == 0
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert 0 < row["reward_search"] <= 2 and row["reason"] == ""
    table = pq.read_table(tmp_path / "run" / "candidates.parquet")
    assert {"subject", "background"} <= set(table.column_names)
