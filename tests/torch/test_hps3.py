"""HPSv3, from what upstream publishes to a score."""

import numpy as np
import pytest
import torch
import toy_rewards as toys
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen2VLModel

from actors.rewards import hps3
from actors.shipped import find
from raysearch.__main__ import main
from raysearch.errors import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with upstream's files, the base and the converted folder; and upstream's weights."""
    folder = tmp_path_factory.mktemp("hps3")
    state = toys.hps3(folder / "source")
    toys.base(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hps3, "TEMPLATE_SHA256", toys.HPS_SHA256)
        words = [folder / "source", folder / "out", "--base", folder / "base"]
        assert main(["reward", "convert", "hps3", *map(str, words)]) == 0
    return folder, state


@pytest.fixture(scope="module")
def graded(made):
    return find("hps3")(folder=str(made[0] / "out"), dtype="float32")


def by_hand(folder, state, caption: str, frame: np.ndarray) -> float:
    """The mean of one image, whose pixels are those of transformers' own processor, with no positions given."""
    net = Qwen2VLModel(toys.config(len(state["model.embed_tokens.weight"]))).eval()
    named = {k: v for k, v in state.items() if k.startswith("visual")}
    named |= {k.replace("model.", "language_model.", 1): v for k, v in state.items() if k.startswith("model.")}
    net.load_state_dict(named)
    bounds = {"shortest_edge": 200_704, "longest_edge": 200_704}
    pixels = Qwen2VLImageProcessorPil(size=bounds)(images=[Image.fromarray(frame)], return_tensors="pt")
    words = AutoTokenizer.from_pretrained(folder / "base")
    words.add_tokens(["<|Reward|>"], special_tokens=True)
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    text += "<|image_pad|>" * (len(pixels.pixel_values) // 4) + "<|vision_end|>"
    text += toys.INSTRUCTION.format(text_prompt=caption) + toys.ASKED + "<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([words.encode(text)])
    with torch.no_grad():
        x = net.language_model.embed_tokens(ids)
        seen = net.visual(pixels.pixel_values, grid_thw=pixels.image_grid_thw).pooler_output
        x[ids == words.convert_tokens_to_ids("<|image_pad|>")] = seen
        h = net.language_model(inputs_embeds=x).last_hidden_state[0]
        y = h[ids[0] == words.convert_tokens_to_ids("<|Reward|>")][0]
        for i in (0, 3):
            y = (state[f"rm_head.{i}.weight"] @ y + state[f"rm_head.{i}.bias"]).clamp(min=0)
        return float((state["rm_head.5.weight"] @ y + state["rm_head.5.bias"])[0])


def test_frames_are_graded_as_an_independent_computation_grades_images(made, graded):
    view = toys.view(frames=9, size=(37, 53))
    scores = [by_hand(*made, view.prompt, view.frames[i]) for i in (0, 2, 4, 6, 8)]
    assert np.ptp(scores) > 1e-3
    row = graded([view])[0]
    np.testing.assert_allclose(row, [np.mean(scores), np.mean(sorted(scores)[-2:])], atol=1e-5)


def test_the_best_frames_are_capped(graded, monkeypatch):
    monkeypatch.setattr(graded, "graded", lambda caption, frames: np.array([1.0, 20.0, 3.0, 14.0, 2.0]))
    assert graded([toys.view(frames=9)]).tolist() == [[8.0, 14.5]]
    assert find("hps3").weights == {"hps3": 1.0, "hps3_best": 0.0}


def test_a_row_depends_on_its_view_alone_and_an_image_has_one_frame(graded):
    views = [toys.view(frames=9), toys.view("a blue square", frames=1, seed=1)]
    together = graded(views)
    np.testing.assert_array_equal(together, np.concatenate([graded([v]) for v in views]))
    assert together[1, 0] == together[1, 1]
    assert np.abs(graded([toys.view("a blue square", frames=9)]) - together[:1]).max() > 1e-4


def test_the_head_stays_in_float32(made):
    half = hps3.Hps3(folder=str(made[0] / "out"))
    assert half.net.qwen.dtype == torch.bfloat16
    assert {p.dtype for p in half.net.rm_head.parameters()} == {torch.float32}


def test_mistakes_are_one_line(made, tmp_path):
    source = made[0] / "source"
    with pytest.raises(ConfigError, match=r"INSTRUCTION \+ prompt_with_special_token has sha256 f6ee57479d4e"):
        hps3.convert(source, tmp_path / "out", base=made[0] / "base")
    with pytest.raises(ConfigError, match="--base: None is not allowed; it must be the folder of Qwen2-VL-7B"):
        hps3.convert(source, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"a folder with data_collator_qwen\.py"):
        hps3.convert(tmp_path, tmp_path / "out", base=made[0] / "base")
