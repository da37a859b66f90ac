"""Aesthetic heads over SigLIP and CLIP at toy size; and every image reward in a run from the command line."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import toy_images as toy
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPModel, SiglipImageProcessorPil, SiglipModel

from actors.rewards import aesthetic
from actors.rewards.aesthetic import Aesthetic
from actors.rewards.clipscore import ClipScore
from actors.rewards.planning import reward
from raysearch.__main__ import main
from raysearch.errors import ConfigError

DEEP = [32, 20, 12, 8, 4, 1]  # of V2.5, whose widths are 1152, 1024, 128, 64, 16, 1


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    return toy.siglip_folder(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return toy.clip_folder(tmp_path_factory.mktemp("clip"))


def by_hand(features: torch.Tensor, head: Path) -> np.ndarray:
    """The ratings of embeddings: normalised, then one matrix product after the other."""
    x = features.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    state = {k: v.double().numpy() for k, v in load_file(head / "model.safetensors").items()}
    for i in range(len(state) // 2):
        x = x @ state[f"{i}.weight"].T + state[f"{i}.bias"]
    return x[:, 0]


def test_siglips_pooled_output_is_graded_of_stretched_frames(siglip, tmp_path):
    head, clip = toy.aesthetic_head(tmp_path, DEEP), toy.frames()
    pixels = SiglipImageProcessorPil(size={"height": 28, "width": 28})(list(clip), return_tensors="pt").pixel_values
    model = SiglipModel.from_pretrained(siglip).eval()
    with torch.inference_mode():
        grades = by_hand(model.vision_model(pixels).pooler_output, head)
    found = Aesthetic(folder=str(siglip), head=head)([toy.view(clip), toy.view(clip, "")])
    np.testing.assert_allclose(found, [[grades.mean(), grades.min()]] * 2, atol=1e-5)
    assert np.ptp(grades) > 0.01


@pytest.mark.parametrize("widths", [[toy.WIDTH, 1], [toy.WIDTH, 10, 6, 4, 3, 1]])
def test_clips_projection_is_graded_of_cropped_frames(clip, tmp_path, widths):
    head, frames = toy.aesthetic_head(tmp_path, widths), toy.frames()
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    pixels = CLIPImageProcessorPil(**size)(list(frames), return_tensors="pt").pixel_values
    model = CLIPModel.from_pretrained(clip).eval()
    with torch.inference_mode():
        grades = by_hand(model.visual_projection(model.vision_model(pixels).pooler_output), head)
    made = Aesthetic(folder=str(clip), head=head)
    np.testing.assert_allclose(made([toy.view(frames)]), [[grades.mean(), grades.min()]], atol=1e-5)
    assert made.model is ClipScore(folder=str(clip)).clip.model


def test_a_row_depends_on_its_view_alone(siglip, tmp_path):
    made = Aesthetic(folder=str(siglip), head=toy.aesthetic_head(tmp_path, DEEP))
    views = [toy.view(toy.frames(n, 31, 47, n)) for n in (1, 20, 5)]
    together = made(views)
    np.testing.assert_allclose(together, np.concatenate([made([v]) for v in views]), atol=1e-5)
    each = np.array([made([toy.view(frame[None])])[0, 0] for frame in views[2].frames])
    np.testing.assert_allclose(together[2], [each.mean(), each.min()], atol=1e-5)


# -- the converter


@pytest.mark.parametrize(
    ("stem", "numbers", "widths"),
    [
        ("scoring_head", [0, 2, 4, 6, 8], [1152, 1024, 128, 64, 16, 1]),  # V2.5
        ("layers", [0, 2, 4, 6, 7], [768, 1024, 128, 64, 16, 1]),  # LAION's improved one, and TRL's
        ("", [0], [768, 1]),  # LAION's linear one: weight and bias alone
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_heads_are_converted_from_the_names_of_each_publication(tmp_path, capsys, stem, numbers, widths, suffix):
    state = toy.randoms(toy.head_shapes(stem, numbers, widths))
    if not stem:
        state = {k.split(".")[-1]: v for k, v in state.items()}
    source = tmp_path / f"head{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, source)
    assert main(["reward", "convert", "aesthetic", str(source), str(tmp_path / "head")]) == 0
    assert f"in a config: {{name: aesthetic, head: {tmp_path / 'head'}}}" in capsys.readouterr().out
    head = aesthetic._head(tmp_path / "head")
    found = load_file(tmp_path / "head" / "model.safetensors")
    assert [net.in_features for net in head] == widths[:-1]
    for i, number in enumerate(numbers):
        for kind in ("weight", "bias"):
            name = f"{stem}.{number}.{kind}" if stem else kind
            assert torch.equal(found[f"{i}.{kind}"], state[name])


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("a file of linear layers alone: it has mean", {"0.weight": (1, 4), "0.bias": (1,), "mean": (4,)}),
        ("or [0, 2, 4, 6, 8], and not [0, 3, 6, 9, 11]", toy.head_shapes("layers", [0, 3, 6, 9, 11], DEEP)),  # reluMSE
        ("and not [0, 2]", toy.head_shapes("0", [0, 2], [4, 2, 1])),  # Sequential(Linear, ReLU, Linear)
        ("short names in ASCII, not '000", {f"{'0' * 5000}.weight": (1, 4), "0.bias": (1,)}),
        ("and the last gives 1: [0, 1]", {"0.weight": (1, 0), "0.bias": (1,)}),
        ("the last gives 1: [32, 20, 0, 8, 4, 1]", toy.head_shapes("x", [0, 2, 4, 6, 8], [32, 20, 0, 8, 4, 1])),
        ("each with a weight and a bias", {"0.weight": (1, 4)}),
        ("each with a weight and a bias", {"0.weight": (1, 4, 1), "0.bias": (1,)}),
        ("the last gives 1: [4, 2]", {"0.weight": (2, 4), "0.bias": (2,)}),
        ("the one before gives", toy.head_shapes("x", [0, 2, 4, 6, 8], DEEP) | {"x.4.weight": (8, 11)}),
    ],
)  # fmt: skip
def test_other_state_dicts_are_no_heads(tmp_path, capsys, said, state):
    torch.save({k: torch.zeros(s) for k, s in state.items()}, tmp_path / "head.pth")
    assert main(["reward", "convert", "aesthetic", str(tmp_path / "head.pth"), str(tmp_path / "head")]) == 2
    line = capsys.readouterr().err
    assert said in line and line.startswith("raysearch: SOURCE: ") and line.count("\n") == 1 and len(line) < 500


# -- mistakes


@pytest.mark.parametrize(
    ("said", "damage"),
    [
        ("a model of type clip or siglip, not vit", lambda f, h: toy.edited(f, model_type="vit")),
        ("all weights of a SiglipVisionModel: post_layernorm.bias is missing",
         lambda f, h: toy.damaged(f, "vision_model.post_layernorm.bias", lambda x: None)),
        ("post_layernorm.bias must be (32,), there is (31,)",
         lambda f, h: toy.damaged(f, "vision_model.post_layernorm.bias", lambda x: x[:31])),
        ("NaN", lambda f, h: toy.damaged(f, "vision_model.post_layernorm.bias", lambda x: x.fill_(torch.nan))),
        ("head: ", lambda f, h: (h / "config.json").unlink()),
        ("describes no aesthetic head", lambda f, h: toy.edited(h, widths=[4, "1"])),
        ("0.weight must be (20, 31), there is (20, 32)", lambda f, h: toy.edited(h, widths=[31, *DEEP[1:]])),
        ("one for embeddings of 32 numbers, as ",
         lambda f, h: [h.rename(h.parent / "old"), toy.aesthetic_head(h.parent, [24, 1])]),
        ("NaN", lambda f, h: toy.damaged(h, "0.bias", lambda x: x.fill_(torch.nan))),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_weights_load(tmp_path, said, damage):
    folder, head = toy.siglip_folder(tmp_path / "siglip"), toy.aesthetic_head(tmp_path, DEEP)
    block = {"name": "aesthetic", "folder": str(folder), "head": str(head)}
    assert reward("rewards.search", block, {}, (), (1, 8, 5, 8, 8)).total((5.0, 1.0)) == 5.0
    damage(folder, head)
    with pytest.raises(ConfigError) as error:
        reward("rewards.search", block, {}, (), (1, 8, 5, 8, 8))
    assert said in str(error.value) and "\n" not in str(error.value)


# -- runs


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "hps", "imagereward", "aesthetic"])
def test_best_of_n_from_the_command_line(tiny, tmp_path, clip, name):
    block = {"name": name, "folder": str(clip)}
    if name == "imagereward":
        block["folder"] = str(toy.image_reward_folder(tmp_path))
    if name == "aesthetic":
        block["head"] = str(toy.aesthetic_head(tmp_path, [toy.WIDTH, 1]))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{path: {tiny}, height: 32, width: 32, num_frames: 9, max_sequence_length: 40}}\n"
        "sampler: {num_steps: 2}\n"
        f"rewards: {{search: {{{', '.join(f'{k}: {v}' for k, v in block.items())}}}}}\n"
        "policy: {name: best_of_n, n: 3}\n"
        f"prompts: [{toy.PROMPT}]\n"
        "fleet: {backend: local}\n"
        f"run_dir: {tmp_path / 'run'}\n"
    )
    assert main(["run", str(config)]) == 0
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    candidates = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    grades = [(c[name], c[f"{name}_min"]) for c in candidates]
    assert len(set(grades)) == 3 and all(low <= mean for mean, low in grades)
    assert row["reward_search"] == pytest.approx(max(mean for mean, _ in grades))
