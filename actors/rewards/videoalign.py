"""VideoReward of VideoAlign (2501.13918): Qwen2-VL 2B that grades a video's quality, its motion and its text alignment.

Upstream is github.com/KwaiVGI/VideoAlign (MIT) with weights `KwaiVGI/VideoReward` (Apache-2.0). `convert` merges its
LoRA adapters into the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from actors.rewards import convert as converting
from actors.rewards import qwen_vl
from raysearch.config.numbers import Dtype, Positive
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

MARKS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")  # the tokens at which a score is read
MEAN, DEVIATION = np.array([3.6757, 1.1646, 2.8105]), np.array([2.2476, 1.3811, 2.5121])  # of upstream's training set
LEAST, MOST = 128 * 28 * 28, 256 * 28 * 28  # pixels of a frame
CHECKPOINT = "checkpoint-11352"
TEMPLATE = ("prompt_template.py", "DETAILED_PROMPT_WITH_SPECIAL_TOKEN")
TEMPLATE_SHA256 = "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700"


def head(width: int) -> nn.Module:
    """What makes a score of a hidden state."""
    return nn.Linear(width, 1, bias=False)


GRADING = qwen_vl.Grading("videoalign", head, qwen_vl.VIDEO, MARKS)


class VideoAlign:
    """Components VQ, MQ and TA: visual quality, motion quality and text alignment, whose sum a policy sees.

    `folder` is one that `raysearch reward convert videoalign` wrote. Normalised scores are deviations from the mean of
    upstream's training set, so about -3..3; LatSearch stores scores that are not. `fps` frames for each second are
    looked at, of a video of the view's own frames a second or, if given, of `video_fps`, which must be true: at a wrong
    rate good videos are graded badly. EvoSearch and LatSearch grade with video_fps 16.
    """

    components: tuple[str, ...] = ("VQ", "MQ", "TA")
    needs: Literal["latent", "estimate", "frames"] = "frames"

    @staticmethod
    def files(*, folder: str, normalise: bool, fps: float, video_fps: float | None, dtype: Dtype) -> list[Path]:
        """The config, the weights, the tokenizer, the template and the code that all Graders share."""
        return qwen_vl.files(qwen_vl.located(folder))

    @staticmethod
    def fits(
        shape: Sequence[int],
        text_dim: int | None,
        *,
        folder: str,
        normalise: bool,
        fps: float,
        video_fps: float | None,
        dtype: Dtype,
    ) -> None:
        """Raises ConfigError unless the folder is one of VideoReward, whatever the latents are."""
        GRADING.fits(qwen_vl.located(folder))

    def __init__(
        self,
        *,
        folder: str,
        normalise: bool = True,
        fps: Positive = 2.0,
        video_fps: Positive | None = None,
        dtype: Dtype = "bfloat16",
    ) -> None:
        where = qwen_vl.located(folder)
        self.reader, self.net = GRADING.reader(where), GRADING.grader(where, dtype)
        self.patching = qwen_vl.Patching.of(self.net.qwen.config.vision_config)
        self.normalise, self.fps, self.video_fps = normalise, fps, video_fps

    def to(self, device: str) -> None:
        """Moves the weights to a device."""
        self.net.to(device)

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 3): VQ, MQ and TA."""
        rows = []
        for view in views:
            assert view.frames is not None
            chosen = view.frames[qwen_vl.sampled(len(view.frames), self.video_fps or view.fps, self.fps)]
            h, w = qwen_vl.fitted(chosen.shape[1], chosen.shape[2], self.patching.factor, LEAST, MOST)
            patches, grid = qwen_vl.patches(qwen_vl.resized(chosen, h, w), self.patching)
            ids, seen, at = self.reader(view.prompt, len(patches) // self.patching.merge**2)
            rows.append(self.net(ids[None], seen, patches, grid, at)[0, :, 0].double().cpu().numpy())
        scores = np.array(rows, dtype=np.float64).reshape(len(rows), 3)
        return (scores - MEAN) / DEVIATION if self.normalise else scores


def merged(state: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Weights W + scale B A of a state dict with LoRA adapters, by the names without PEFT's parts.

    The sum is of float32, and has the type of W. Raises ConfigError for what is no such state dict.
    """
    plain = {k.removeprefix("base_model.model."): v for k, v in state.items()}
    found = {k.replace(".base_layer.", "."): v for k, v in plain.items() if ".lora_" not in k}
    for name in (k for k in plain if ".lora_A." in k):
        layer, weight = name.partition(".lora_A.")[0], f"{name.partition('.lora_A.')[0]}.weight"
        other = f"{layer}.lora_B.default.weight"
        check(weight in found and other in plain, "SOURCE", name, f"beside {layer}.base_layer.weight and {other}")
        w, a, b = found[weight], plain[name], plain[other]
        fits = f"an adapter of {weight}: shapes are {tuple(w.shape)}, {tuple(a.shape)} and {tuple(b.shape)}"
        whole = w.ndim == a.ndim == b.ndim == 2 and b.shape[1] == len(a) and w.shape == (len(b), a.shape[1])
        check(whole, "SOURCE", name, fits)
        found[weight] = (w.float() + scale * (b.float() @ a.float())).to(w.dtype)
    return found


def convert(source: Path, out: Path, *, base: Path | None = None) -> None:
    """Write VideoReward's folder. Raises ConfigError.

    `source` is the hub's folder with VideoAlign's prompt_template.py beside model_config.json; `base` is that of
    Qwen2-VL-2B-Instruct, of which the config is read.
    """
    check(base is not None, "--base", base, "the folder of Qwen2-VL-2B-Instruct")
    assert base is not None
    weights = converting.part(source, f"{CHECKPOINT}/model.pth")
    words = converting.part(source, f"{CHECKPOINT}/tokenizer")
    template = converting.literals(converting.part(source, TEMPLATE[0]), TEMPLATE[1], sha256=TEMPLATE_SHA256)
    adapters = converting.json_of(converting.part(source, "model_config.json"), "SOURCE").get("peft_lora_config")
    numbers: list[Any] = [adapters.get(k) for k in ("lora_alpha", "lora_r")] if isinstance(adapters, dict) else []
    given = bool(numbers) and all(type(n) is int and 0 < n < 10**6 for n in numbers)
    check(given, "SOURCE", str(source), "a folder whose model_config.json has whole numbers lora_alpha and lora_r")
    state = merged(converting.pickled(weights), numbers[0] / numbers[1])
    GRADING.write(out, base, state, template, words)
