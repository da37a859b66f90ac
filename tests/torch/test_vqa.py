"""VQAScore of each Qwen-VL: against the library's own forward, and a softmax by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
import toy_rewards as toys
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from actors.rewards import View, pictures, planning, qwen_vl, vqa
from raysearch.errors import ConfigError

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
QUESTION = 'Does this video show "a red circle"? Please answer yes or no.'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder and its model for each kind."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (folder, toys.qwen(folder, kind)) for kind, folder in made.items()}


@pytest.fixture(scope="module")
def graded(folders):
    return vqa.Vqa(folder=str(folders["qwen2_vl"][0]), dtype="float32")


def whole(folder, net, kind: str, view: View) -> torch.Tensor:
    """The probabilities of the first token of an answer: one call of the model, which finds its own positions."""
    indices = [0, 2, 5, 7, 9, 11, 14, 16]
    stamped = kind == "qwen3_vl"
    size, factor = (16, 32) if stamped else (14, 28)
    h, w = qwen_vl.fitted(37, 53, factor, 128 * factor**2, 768 * 28 * 28)
    values = ((0.5,) * 3, (0.5,) * 3) if stamped else pictures.CLIP
    shown = qwen_vl.resized(view.frames[indices], h, w)
    patches, grid = qwen_vl.patches(shown, qwen_vl.Patching(size, 2, 2, *values))
    n = h * w // factor**2
    if stamped:
        times = Qwen3VLProcessor._calculate_timestamps(None, list(indices), view.fps, 2)
        video = "".join(f"<{t:.1f} seconds><|vision_start|>{'<|video_pad|>' * n}<|vision_end|>" for t in times)
        system = ""
    else:
        video = f"<|vision_start|>{'<|video_pad|>' * n * 4}<|vision_end|>"
        system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    words = AutoTokenizer.from_pretrained(folder)
    text = f"{system}<|im_start|>user\n{video}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([words.encode(text)])
    kinds = 2 * (ids == words.convert_tokens_to_ids("<|video_pad|>")).int()
    seconds = {"second_per_grid_ts": [2 * 17 / view.fps / 8]} if kind == "qwen2_5_vl" else {}
    with torch.no_grad():
        out = net(ids, pixel_values_videos=patches, video_grid_thw=grid, mm_token_type_ids=kinds, **seconds)
    logits = out.logits[0, -1]
    return logits.exp() / logits.exp().sum()


@pytest.mark.parametrize("fps", [24, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_models_own_probability_of_yes(folders, kind, fps):
    folder, net = folders[kind]
    view = toys.view(fps=fps)
    p = whole(folder, net, kind, view)
    words = AutoTokenizer.from_pretrained(folder)
    yes, no = (sum(p[words.convert_tokens_to_ids(t)].item() for t in spelt) for spelt in toys.ANSWERS)
    plain = vqa.Vqa(folder=str(folder), dtype="float32")
    assert plain([view])[0, 0] == pytest.approx(yes, rel=1e-3)
    shared = vqa.Vqa(folder=str(folder), dtype="float32", normalise="yes_no")
    assert shared([view])[0, 0] == pytest.approx(yes / (yes + no), rel=1e-3)


@pytest.mark.parametrize(("kind", "told"), [("qwen2_vl", False), ("qwen2_5_vl", True), ("qwen3_vl", True)])
def test_the_models_that_know_of_times_are_told_them(folders, kind, told):
    graded = vqa.Vqa(folder=str(folders[kind][0]), dtype="float32", normalise="yes_no")
    slow, fast = graded([toys.view(fps=4), toys.view(fps=24)])[:, 0]
    assert (abs(slow - fast) > 1e-5) == told


def test_a_frame_has_at_most_602112_pixels_by_default(folders):
    graded = vqa.Vqa(folder=str(folders["qwen2_vl"][0]), dtype="float32", frames=2)
    large = toys.view(frames=2, size=(800, 1400))
    np.testing.assert_array_equal(graded([large]), graded([toys.resized(large, 560, 1008)]))


def test_swapped_words_swap_the_score(folders, tmp_path):
    folder, _ = folders["qwen2_vl"]
    other = shutil.copytree(folder, tmp_path / "other")
    state = load_file(other / "model.safetensors")
    words = AutoTokenizer.from_pretrained(folder)
    yes, no = (words.convert_tokens_to_ids(list(spelt)) for spelt in toys.ANSWERS)
    state["lm_head.weight"][yes + no] = state["lm_head.weight"][no + yes]
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    first, second = (vqa.Vqa(folder=str(f), dtype="float32", normalise="yes_no") for f in (folder, other))
    assert first([toys.view()])[0, 0] == pytest.approx(1 - second([toys.view()])[0, 0])
    assert abs(first([toys.view()])[0, 0] - 0.5) > 1e-3


def test_a_folder_with_the_old_names_and_a_tied_head_does(folders, tmp_path):
    """As the hub's Qwen2-VL-2B-Instruct has them."""
    folder, net = folders["qwen2_vl"]
    head = net.model.language_model.embed_tokens.weight.clone()
    old = shutil.copytree(folder, tmp_path / "old")
    new = shutil.copytree(folder, tmp_path / "new")
    state = load_file(new / "model.safetensors")
    save_file(state | {"lm_head.weight": head}, new / "model.safetensors", metadata={"format": "pt"})
    state = {k: v for k, v in toys.old_names(net).items() if k != "lm_head.weight"}
    save_file(state, old / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((old / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (old / "config.json").write_text(json.dumps(config))
    first, second = (vqa.Vqa(folder=str(f), dtype="float32") for f in (old, new))
    np.testing.assert_array_equal(first([toys.view()]), second([toys.view()]))


def test_a_checklist_has_a_component_for_each_question(folders, graded, monkeypatch):
    questions = {"vqa": vqa.QUESTIONS["vqa"], "sharp": "Is the video sharp?", "moves": "Does {} move in {}?"}
    listed = vqa.Vqa(folder=str(folders["qwen2_vl"][0]), dtype="float32", questions=questions)
    passes = []
    listed.net.model.visual.register_forward_hook(lambda *_: passes.append(1))
    row = listed([toys.view()])
    assert listed.components == ("vqa", "sharp", "moves")
    assert row.shape == (1, 3)
    assert len(passes) == 1
    assert row[0, 0] == graded([toys.view()])[0, 0]
    assert len(set(row[0].tolist())) == 3
    other = listed([toys.view("a blue square")])
    assert (other[0] == row[0]).tolist() == [False, True, False]


def test_a_row_depends_on_its_view_alone(graded):
    views = [toys.view(), toys.view("a blue square", seed=1), toys.view(frames=1), toys.view(frames=3)]
    np.testing.assert_array_equal(graded(views), np.concatenate([graded([v]) for v in views]))
    assert len(np.unique(graded(views))) == 4
    assert graded([]).shape == (0, 1)
    with pytest.raises(ValueError, match=r"the model's own token <\|video_pad\|>"):
        graded([toys.view("a <|video_pad|>")])


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ({"questions": {}}, "rewards.search.questions: {} is not allowed"),
        ({"questions": {"a": " "}}, "rewards.search.questions.a: ' ' is not allowed; it must be a question, with {}"),
        ({"questions": {"origin": "Is it?"}}, "no component called 'origin'"),
        ({"normalise": "softmax"}, "rewards.search.normalise: 'softmax' is not allowed"),
        ({"frames": 1}, "rewards.search.frames: 1 is not allowed"),
        ({"weights": {"sharp": 2}}, "rewards.search.weights: 'sharp' is not allowed; it must be one of vqa"),
    ],
)
def test_mistakes_in_a_block_are_one_line_before_anything_is_loaded(folders, block, line):
    block = {"name": "vqa", "folder": str(folders["qwen2_vl"][0]), **block}
    with pytest.raises(ConfigError) as raised:
        planning.reward("rewards.search", block, {}, (), (1, 16, 5, 4, 4))
    assert line in str(raised.value)


def test_a_block_gives_components_their_weights_and_the_model_is_shared(folders):
    block = {"name": "vqa", "folder": str(folders["qwen2_vl"][0]), "dtype": "float32"}
    block |= {"questions": {"sharp": "Is it sharp?", "seen": "Does it show {}?"}, "weights": {"seen": 2}}
    found = planning.reward("rewards.search", block, {}, (), (1, 16, 5, 4, 4))
    assert (found.components, found.weights) == (("sharp", "seen"), (1.0, 2.0))
    first, second = (vqa.Vqa(folder=block["folder"], frames=n, dtype="float32") for n in (4, 8))
    assert first.net is second.net


def without_a_number(folder) -> None:
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"][0, 3] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def without_a_weight(folder) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.surplus"] = state.pop("lm_head.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("breaks", "line"),
    [
        (shutil.rmtree, "an existing folder"),
        (lambda f: (f / "config.json").unlink(), "a folder with config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llava"}'), "qwen2_vl, qwen2_5_vl, qwen3_vl, not"),
        (lambda f: (f / "model.safetensors").unlink(), "a folder with safetensors files"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "is no Qwen2VLForConditionalGeneration: "),
        (lambda f: toys.tokenizer(f, words=()), "whose tokenizer has one token for Yes or yes or YES"),
        (without_a_weight, "Generation: lm_head.weight is missing"),
        (without_a_number, "one of finite weights: lm_head.weight has NaN or inf"),
    ],
)
def test_a_broken_folder_is_one_line(folders, tmp_path, breaks, line):
    folder = shutil.copytree(folders["qwen2_vl"][0], tmp_path / "mine")
    breaks(folder)
    with pytest.raises(ConfigError) as raised:
        vqa.Vqa(folder=str(folder), dtype="float32")
    assert str(raised.value).startswith("folder: ")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
