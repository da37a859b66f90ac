"""VideoReward, from what upstream publishes to a score, and what Qwen-VL reads: frames, patches and positions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_rewards as toys
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLImageProcessorPil, Qwen2VLModel

from actors.rewards import View, pictures, planning, qwen_vl, videoalign
from raysearch.__main__ import main
from raysearch.errors import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Upstream's folder, its state dict, the folder of the base, and the converted folder."""
    folder = tmp_path_factory.mktemp("videoreward")
    state = toys.videoreward(folder / "source")
    toys.base(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videoalign, "TEMPLATE_SHA256", toys.SHA256)
        words = [folder / "source", folder / "out", "--base", folder / "base"]
        assert main(["reward", "convert", "videoalign", *map(str, words)]) == 0
    return folder, state


@pytest.fixture(scope="module")
def graded(made):
    return videoalign.VideoAlign(folder=str(made[0] / "out"), dtype="float32")


def cut(pixels: np.ndarray) -> np.ndarray:
    """Patches of frames (T, 3, H, W), one by one, in the order in which four neighbours follow each other."""
    t, _, h, w = pixels.shape
    rows = []
    for pair in range(0, t, 2):
        for y in range(0, h, 28):
            for x in range(0, w, 28):
                for dy in (0, 14):
                    for dx in (0, 14):
                        patch = pixels[pair : pair + 2, :, y + dy : y + dy + 14, x + dx : x + dx + 14]
                        rows.append(patch.transpose(1, 0, 2, 3).reshape(-1))
    return np.stack(rows)


def by_hand(folder: Path, state: dict[str, torch.Tensor], view: View, indices: list[int]) -> np.ndarray:
    """VQ, MQ and TA of frames that need no resizing: adapters beside their layers, and no positions given."""
    plain = {k.removeprefix("base_model.model."): v for k, v in state.items()}
    old = {k.replace(".base_layer.", "."): v for k, v in plain.items() if ".lora_" not in k}
    net = Qwen2VLModel(toys.config(len(old["model.embed_tokens.weight"]))).eval()
    named = {k: v for k, v in old.items() if k.startswith("visual")}
    named |= {k.replace("model.", "language_model.", 1): v for k, v in old.items() if k.startswith("model.")}
    net.load_state_dict(named)
    for name, layer in net.language_model.named_modules():
        if name.endswith("_proj"):
            a, b = (plain[f"model.{name}.lora_{side}.default.weight"] for side in "AB")
            layer.register_forward_hook(lambda _, x, y, a=a, b=b: y + 2 * (x[0] @ a.T) @ b.T)
    pixels = view.frames[indices].transpose(0, 3, 1, 2) / 255
    mean, deviation = (np.array(v).reshape(3, 1, 1) for v in pictures.CLIP)
    patches = torch.tensor(cut((pixels - mean) / deviation), dtype=torch.float32)
    grid = torch.tensor([[len(indices) // 2, view.frames.shape[1] // 14, view.frames.shape[2] // 14]])
    words = toys.tokenizer(folder / "words", *toys.MARKS)
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    text += "<|video_pad|>" * (len(patches) // 4) + "<|vision_end|>" + toys.TEMPLATE.format(text_prompt=view.prompt)
    ids = torch.tensor([words.encode(text + "<|im_end|>\n<|im_start|>assistant\n")])
    with torch.no_grad():
        x = net.language_model.embed_tokens(ids)
        x[ids == words.convert_tokens_to_ids("<|video_pad|>")] = net.visual(patches, grid_thw=grid).pooler_output
        h = net.language_model(inputs_embeds=x).last_hidden_state[0]
        scores = h @ state["base_model.model.rm_head.weight"][0]
    return np.array([scores[ids[0].tolist().index(words.convert_tokens_to_ids(m))].item() for m in toys.MARKS])


def test_the_converted_folder_holds_the_merged_weights(made):
    folder, state = made
    found = load_file(folder / "out" / "model.safetensors")
    assert not [k for k in found if "lora" in k or "lm_head" in k or "base_layer" in k]
    name = "layers.1.mlp.down_proj"
    whole = f"base_model.model.model.{name}"
    a, b = (state[f"{whole}.lora_{side}.default.weight"] for side in "AB")
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    beside = x @ state[f"{whole}.base_layer.weight"].T + 2 * (x @ a.T) @ b.T
    torch.testing.assert_close(x @ found[f"qwen.language_model.{name}.weight"].T, beside)
    assert (folder / "out" / "template.txt").read_text() == toys.TEMPLATE  # its lines keep their trailing spaces


@pytest.mark.parametrize(("fps", "indices"), [(24, [0, 5, 11, 16]), (4, [0, 2, 5, 7, 9, 11, 14, 16])])
def test_a_score_is_that_of_an_independent_computation(made, graded, tmp_path, fps, indices):
    view = toys.view(size=(336, 308), fps=fps)
    raw = by_hand(tmp_path, made[1], view, indices)
    assert np.ptp(raw) > 0.1  # scores of different tokens are apart
    normal = (raw - [3.6757, 1.1646, 2.8105]) / [2.2476, 1.3811, 2.5121]
    np.testing.assert_allclose(graded([view])[0], normal, atol=2e-4)
    stored = videoalign.VideoAlign(folder=str(made[0] / "out"), dtype="float32", normalise=False)
    np.testing.assert_allclose(stored([view])[0], raw, atol=2e-4)


def test_a_frame_has_at_most_200704_pixels(graded):
    large = toys.view(frames=4, size=(480, 832))
    np.testing.assert_array_equal(graded([large]), graded([toys.resized(large, 336, 588)]))


def test_adapters_are_merged_in_float32():
    generator = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(s, generator=generator).bfloat16() for s in ((32, 48), (16, 48), (32, 16)))
    state = dict(
        zip(("x.base_layer.weight", "x.lora_A.default.weight", "x.lora_B.default.weight"), (w, a, b), strict=True)
    )
    exact = (w.double() + 2 * b.double() @ a.double()).bfloat16()
    assert not torch.equal(w + 2 * (b @ a), exact)
    merged = videoalign.merged(state, 2.0)["x.weight"]
    assert merged.dtype == torch.bfloat16
    assert (merged != exact).float().mean() < 1e-3  # float32 and float64 seldom round to different neighbours


def test_a_row_depends_on_its_view_alone_and_on_all_of_it(graded):
    views = [toys.view(), toys.view("a blue square moving left", seed=1), toys.view(frames=1, size=(20, 31))]
    together = graded(views)
    assert together.shape == (3, 3)
    np.testing.assert_array_equal(together, np.concatenate([graded([v]) for v in views]))
    for other in (toys.view("a blue square"), toys.view(seed=1), toys.view(fps=4)):
        assert np.abs(graded([other]) - together[0]).max() > 1e-4
    assert graded([]).shape == (0, 3)


def test_the_rate_can_be_fixed(made, graded):
    fixed = videoalign.VideoAlign(folder=str(made[0] / "out"), dtype="float32", video_fps=4.0)
    np.testing.assert_array_equal(fixed([toys.view(fps=24)]), graded([toys.view(fps=4)]))


def test_a_caption_with_braces_is_inserted_as_it_is_and_one_with_a_mark_is_refused(graded):
    assert np.isfinite(graded([toys.view("a {red} circle {0}")])).all()
    for mark in ("<|VQ_reward|>", "<|video_pad|>"):
        with pytest.raises(ValueError, match="has one of the model's own tokens"):
            graded([toys.view(f"a {mark}")])


@pytest.mark.parametrize(
    ("total", "video_fps", "indices"),
    [
        (17, 24, [0, 5, 11, 16]),
        (81, 16, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),
        (3, 24, [0, 2]),
        (1, 24, [0, 0]),
        (33, 16, [0, 11, 21, 32]),  # 4.1 frames
        (41, 16, [0, 8, 16, 24, 32, 40]),  # 5.1 frames, 2.6 pairs
    ],
)
def test_frames_are_sampled_by_the_rate(total, video_fps, indices):
    assert qwen_vl.sampled(total, video_fps, 2.0) == indices


def test_at_most_768_frames_are_sampled():
    found = qwen_vl.sampled(10_000, 8, 2.0)
    assert (len(found), found[0], found[-1]) == (768, 0, 9_999)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((480, 832), (336, 588)), ((480, 480), (448, 448)), ((64, 64), (336, 336)), ((5, 9), (252, 448))],
)
def test_sizes_are_those_of_qwen_vl(size, wanted):
    assert qwen_vl.fitted(*size, 28, 100_352, 200_704) == wanted


def test_a_sliver_is_refused():
    with pytest.raises(ValueError, match="longer than 200 times"):
        qwen_vl.fitted(1, 201, 28, 100_352, 200_704)


@pytest.mark.parametrize("size", [(37, 53), (101, 29), (224, 224), (611, 333)])
def test_images_become_the_patches_of_the_librarys_own_processor(size):
    frame = toys.view(frames=1, size=size).frames
    bounds = {"shortest_edge": 100_352, "longest_edge": 200_704}
    theirs = Qwen2VLImageProcessorPil(size=bounds)(images=list(frame), return_tensors="pt")
    h, w = qwen_vl.fitted(*size, 28, 100_352, 200_704)
    mine, grid = qwen_vl.patches(qwen_vl.resized_images(frame, h, w), qwen_vl.Patching())
    assert grid.tolist() == theirs.image_grid_thw.tolist()
    torch.testing.assert_close(mine, theirs.pixel_values, rtol=0, atol=0)
    dull = 64 + frame // 2  # Pillow cuts off what overshoots 0..255 between its two passes, and torch does after them
    apart = qwen_vl.resized(dull, h, w).int() - qwen_vl.resized_images(dull, h, w).int()
    assert apart.abs().max() <= 1


def test_two_frames_of_a_video_are_cut_as_their_definition_says():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 56, 84), np.uint8)
    mine, grid = qwen_vl.patches(torch.from_numpy(pixels), qwen_vl.Patching())
    mean, deviation = (np.array(v).reshape(3, 1, 1) for v in pictures.CLIP)
    padded = np.concatenate([pixels, pixels[-1:]])
    np.testing.assert_allclose(mine, cut((padded / 255 - mean) / deviation), atol=1e-5)
    assert grid.tolist() == [[2, 4, 6]]


def test_positions_are_flat_and_not_those_of_m_rope(graded):
    torch.manual_seed(0)
    net = graded.net.qwen
    ids, seen, _ = graded.reader("a red circle", 8)
    x = net.language_model.embed_tokens(ids[None])
    mine = net.language_model(inputs_embeds=x, position_ids=qwen_vl.flat(x)).last_hidden_state
    alone = net.language_model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(mine, alone, rtol=0, atol=0)
    spread, _ = net.get_rope_index(ids[None], 2 * seen[None].int(), video_grid_thw=torch.tensor([[2, 4, 4]]))
    other = net.language_model(inputs_embeds=x, position_ids=spread).last_hidden_state
    assert (other - alone).abs().max() > 1e-3


def test_padding_and_the_batch_move_no_row(graded):
    net = graded.net.qwen
    rows = [graded.reader(caption, 4)[0] for caption in ("a red circle", "a blue square that moves to the left")]
    length = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in rows])
    mask = torch.stack([torch.arange(length) < len(row) for row in rows]).long()
    x = net.language_model.embed_tokens(ids)
    batch = net.language_model(inputs_embeds=x, attention_mask=mask, position_ids=qwen_vl.flat(x)).last_hidden_state
    for row, padded in zip(rows, batch, strict=True):
        x = net.language_model.embed_tokens(row[None])
        alone = net.language_model(inputs_embeds=x, position_ids=qwen_vl.flat(x)).last_hidden_state[0]
        torch.testing.assert_close(padded[: len(row)], alone, rtol=0, atol=1e-5)


def test_weights_in_half_precision_give_about_the_same(made, graded):
    half = videoalign.VideoAlign(folder=str(made[0] / "out"))
    assert half.net.qwen.dtype == torch.bfloat16
    seen = []
    hook = half.net.rm_head.register_forward_hook(lambda _, x, y: seen.append((x[0].dtype, y.dtype)))
    half([toys.view()])
    hook.remove()
    assert seen == [(torch.float32, torch.float32)]  # the head
    np.testing.assert_allclose(half([toys.view()]), graded([toys.view()]), atol=0.2)


def upstream(made, tmp_path: Path, **changes) -> Path:
    """A copy of upstream's folder with tensors of the state dict changed; None takes one away."""
    source = tmp_path / "source"
    state = toys.videoreward(source)
    for name, value in changes.items():
        state[name] = value
    torch.save({k: v for k, v in state.items() if v is not None}, source / "checkpoint-11352" / "model.pth")
    return source


def adapters(source: Path, **values: object) -> None:
    (source / "model_config.json").write_text(json.dumps({"peft_lora_config": values}))


PROJECTION = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"base_model.model.rm_head.weight": torch.zeros(3, 32)}, "rm_head.weight must be (1, 32), there is (3, 32)"),
        ({"base_model.model.rm_head.weight": None}, "rm_head.weight must be (1, 32), there is no such tensor"),
        ({"encoder.weight": torch.zeros(2)}, "SOURCE: 'encoder.weight' is not allowed"),
        ({f"{PROJECTION}.lora_B.default.weight": None}, f"SOURCE: '{PROJECTION[17:]}.lora_A.default.weight' is not"),
        ({f"{PROJECTION}.lora_B.default.weight": torch.zeros(7, 3)}, "shapes are (32, 32), (3, 32) and (7, 3)"),
        ({f"{PROJECTION}.base_layer.weight": torch.tensor(1.0)}, "shapes are (), (3, 32) and (32, 3)"),
        ({"base_model.model.model.embed_tokens.weight": torch.tensor(1.0)}, "weights know, of which there are 0"),
        ({f"{PROJECTION}.base_layer.bias": torch.full((32,), torch.nan)}, "a tensor of finite numbers"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(made, tmp_path, monkeypatch, capsys, changes, line):
    monkeypatch.setattr(videoalign, "TEMPLATE_SHA256", toys.SHA256)
    source = upstream(made, tmp_path, **changes)
    words = [source, tmp_path / "out", "--base", made[0] / "base"]
    assert main(["reward", "convert", "videoalign", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("breaks", "line"),
    [
        (lambda s: None, "DETAILED_PROMPT_WITH_SPECIAL_TOKEN has sha256 fdb6309bac61"),
        (lambda s: (s / "prompt_template.py").write_text("x = 1"), "a text to DETAILED_PROMPT_WITH_SPECIAL_TOKEN"),
        (lambda s: (s / "prompt_template.py").unlink(), "a folder with prompt_template.py"),
        (lambda s: (s / "prompt_template.py").write_text("x ="), "a Python file"),
        (lambda s: (s / "model_config.json").write_text("{}"), "lora_alpha and lora_r"),
        *(
            (lambda s, r=r: adapters(s, lora_r=r, lora_alpha=6), "lora_alpha and lora_r")
            for r in (-1, True, 0, "3", 1e400)
        ),
        (lambda s: (s / "model_config.json").write_text("[" * 100_000), "a JSON file"),
        (lambda s: (s / "checkpoint-11352" / "model.pth").unlink(), "a folder with checkpoint-11352/model.pth"),
        (
            lambda s: toys.tokenizer(s / "checkpoint-11352" / "tokenizer", "<|a|>", *toys.MARKS),
            "weights know, of which",
        ),
        (lambda s: toys.tokenizer(s / "checkpoint-11352" / "tokenizer"), "has the token <|VQ_reward|>"),
    ],
)
def test_a_wrong_folder_of_upstreams_is_one_line(made, tmp_path, monkeypatch, breaks, line):
    source = upstream(made, tmp_path)
    breaks(source)
    if "sha256" not in line:
        monkeypatch.setattr(videoalign, "TEMPLATE_SHA256", toys.SHA256)
    with pytest.raises(ConfigError) as raised:
        videoalign.convert(source, tmp_path / "out", base=made[0] / "base")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_conversion_needs_the_base(made, tmp_path):
    with pytest.raises(ConfigError, match="--base: None is not allowed; it must be the folder of Qwen2-VL-2B"):
        videoalign.convert(made[0] / "source", tmp_path / "out")


def copied(made, tmp_path: Path) -> Path:
    shutil.copytree(made[0] / "out", tmp_path / "mine")
    return tmp_path / "mine"


def without_a_number(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["rm_head.weight"][0, 3] = torch.nan
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("breaks", "line"),
    [
        (
            lambda f: (f / "model.safetensors").unlink(),
            "model.safetensors' is not allowed; it must be an existing file",
        ),
        (lambda f: (f / "template.txt").unlink(), "template.txt' is not allowed; it must be an existing file"),
        (lambda f: (f / "template.txt").write_text("{text_prompt}"), "whose template.txt has one <|VQ_reward|>"),
        (lambda f: toys.tokenizer(f / "tokenizer"), "whose tokenizer has the token <|VQ_reward|>"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"), "a folder with a tokenizer"),
        (lambda f: (f / "config.json").write_text("{}"), "a reward of architecture 'videoalign'"),
        (lambda f: (f / "config.json").write_text(json.dumps({"architecture": "videoalign"})), "describes no"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "a folder with a tokenizer"),
        (shutil.rmtree, "an existing folder"),
        (without_a_number, "rm_head.weight"),
    ],
)
def test_a_broken_converted_folder_is_one_line(made, tmp_path, breaks, line):
    folder = copied(made, tmp_path)
    breaks(folder)
    block = {"name": "videoalign", "folder": str(folder)}
    with pytest.raises(ConfigError) as raised:
        planning.reward("rewards.search", block, {}, (), (1, 16, 5, 4, 4))
    said = str(raised.value)
    assert line in said
    assert "\n" not in said
