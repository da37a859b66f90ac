"""HPSv3 (2508.03789): Qwen2-VL 7B that grades how much people like an image for its prompt, on frames of a video.

Upstream is github.com/MizzenAI/HPSv3 (MIT) with weights `MizzenAI/HPSv3`. It was trained on images, so it knows nothing
of motion.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from actors.rewards import convert as converting
from actors.rewards import qwen_vl
from raysearch.config.numbers import Count, Dtype
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

MARKS = ("<|Reward|>",)  # the token at which a score is read
PIXELS = 256 * 28 * 28  # of a frame
CAP, BEST = 15.0, 2  # of hps3_best
TEMPLATE = ("data_collator_qwen.py", "INSTRUCTION", "prompt_with_special_token")
TEMPLATE_SHA256 = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"


def head(width: int) -> nn.Module:
    """What makes the mean and the deviation of a score out of a hidden state. Its weights are float32."""
    layers = nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    return nn.Sequential(*layers)


GRADING = qwen_vl.Grading("hps3", head, qwen_vl.IMAGE, MARKS)


class Hps3:
    """Components hps3, the mean score of frames, and hps3_best, the mean of the best two with 15 as the most.

    `folder` is one that `raysearch reward convert hps3` wrote. `frames` evenly spaced frames are graded. By default
    hps3_best weighs nothing.
    """

    components: tuple[str, ...] = ("hps3", "hps3_best")
    needs: Literal["latent", "estimate", "frames"] = "frames"
    weights: ClassVar[dict[str, float]] = {"hps3": 1.0, "hps3_best": 0.0}

    @staticmethod
    def files(*, folder: str, frames: int, dtype: Dtype) -> list[Path]:
        """The config, the weights, the tokenizer, the template and the code that all Graders share."""
        return qwen_vl.files(qwen_vl.located(folder))

    @staticmethod
    def fits(shape: Sequence[int], text_dim: int | None, *, folder: str, frames: int, dtype: Dtype) -> None:
        """Raises ConfigError unless the folder is one of HPSv3, whatever the latents are."""
        GRADING.fits(qwen_vl.located(folder))

    def __init__(self, *, folder: str, frames: Count = 5, dtype: Dtype = "bfloat16") -> None:
        where = qwen_vl.located(folder)
        self.reader, self.net = GRADING.reader(where), GRADING.grader(where, dtype)
        self.patching = qwen_vl.Patching.of(self.net.qwen.config.vision_config)
        self.frames = frames

    def to(self, device: str) -> None:
        """Moves the weights to a device."""
        self.net.to(device)

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 2): hps3 and hps3_best."""
        rows = []
        for view in views:
            assert view.frames is not None
            chosen = view.frames[sorted(set(qwen_vl.uniform(len(view.frames), self.frames)))]
            scores = np.sort(self.graded(view.prompt, chosen))
            rows.append([scores.mean(), scores[-BEST:].clip(max=CAP).mean()])
        return np.array(rows, dtype=np.float64).reshape(len(rows), 2)

    def graded(self, caption: str, frames: np.ndarray) -> np.ndarray:
        """The score of each of the frames, uint8 (T, H, W, 3), float64 (T,). All frames are graded in one batch."""
        h, w = qwen_vl.fitted(frames.shape[1], frames.shape[2], self.patching.factor, PIXELS, PIXELS)
        images = qwen_vl.resized_images(frames, h, w).repeat_interleave(self.patching.time, 0)  # each stands still
        patches, grid = qwen_vl.patches(images, self.patching)
        grid = torch.cat([torch.ones(len(frames), 1, dtype=torch.long), grid[:, 1:].expand(len(frames), 2)], 1)
        ids, seen, at = self.reader(caption, len(patches) // len(frames) // self.patching.merge**2)
        return self.net(ids.expand(len(frames), -1), seen, patches, grid, at)[:, 0, 0].double().cpu().numpy()


def convert(source: Path, out: Path, *, base: Path | None = None) -> None:
    """Write HPSv3's folder. Raises ConfigError.

    `source` is a folder with HPSv3.safetensors and upstream's data_collator_qwen.py; `base` is that of
    Qwen2-VL-7B-Instruct, of which the config and the tokenizer are read.
    """
    check(base is not None, "--base", base, "the folder of Qwen2-VL-7B-Instruct")
    assert base is not None
    template = converting.literals(converting.part(source, TEMPLATE[0]), *TEMPLATE[1:], sha256=TEMPLATE_SHA256)
    state = converting.tensors(converting.part(source, "HPSv3.safetensors"))
    words = qwen_vl.tokenizer(base, "--base")
    words.add_tokens(list(MARKS), special_tokens=True)
    with tempfile.TemporaryDirectory() as saved:
        words.save_pretrained(saved)
        GRADING.write(out, base, state, template, Path(saved))
