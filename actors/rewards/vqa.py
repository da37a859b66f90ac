"""VQAScore (2404.01291): the probability that a Qwen-VL answers Yes when it is asked whether a video shows a caption.

Any folder of Qwen2-VL, Qwen2.5-VL or Qwen3-VL in transformers' layout does, here or on the hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Len
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from actors.rewards import backbones, checkpoint, convert, pictures, qwen_vl
from raysearch.config.binding import Such
from raysearch.config.numbers import Count, Dtype
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

QUESTIONS = {"vqa": 'Does this video show "{}"? Please answer yes or no.'}
ANSWERS = {"yes": ("Yes", "yes", "YES"), "no": ("No", "no", "NO")}  # each with and without a space before it
# Tokens' worth of pixels of a frame. Processors of Qwen2-VL and Qwen2.5-VL have the same bound, and 768 as the most;
# that of Qwen3-VL bounds the pixels of all frames together, so that long videos are seen in less detail than here.
LEAST = 128
PATTERNS = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt"]
Question = Annotated[str, Such("a question, with {} in the caption's place", lambda text: bool(text.strip()))]
Questions = Annotated[dict[str, Question], Len(1)]


@dataclass(frozen=True)
class Kind:
    """What differs between the models: the class, the values of pixels, and how a chat begins."""

    model: Any
    values: tuple[tuple[float, ...], ...] = pictures.CLIP
    system: str = qwen_vl.SYSTEM
    stamped: bool = False  # each pair of frames follows its time as a text


KINDS = {
    "qwen2_vl": Kind(Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": Kind(Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": Kind(Qwen3VLForConditionalGeneration, pictures.HALF, "", stamped=True),
}


class Vqa:
    """A component for each question: the probability in [0, 1] that its answer is Yes.

    `questions` are texts by component, with {} in the caption's place. With `weights` they are a checklist. By
    `normalise: none` it is P(yes), a share of the whole vocabulary, and by `yes_no` P(yes) / (P(yes) + P(no)). P(yes)
    is the sum over those of Yes, yes and YES, each with and without a space before it, that are one token; and P(no)
    that over No, no and NO. The model sees `frames` evenly spaced frames, of at most `pixels` pixels each, and knows
    their times in the video.
    """

    components: tuple[str, ...] = ("vqa",)
    needs: Literal["latent", "estimate", "frames"] = "frames"

    @staticmethod
    def named(
        *,
        folder: str,
        questions: dict[str, str] | None,
        normalise: Literal["none", "yes_no"],
        frames: int,
        pixels: int,
        dtype: Dtype,
    ) -> tuple[str, ...]:
        """A component for each question."""
        return tuple(QUESTIONS if questions is None else questions)

    @staticmethod
    def files(
        *,
        folder: str,
        questions: dict[str, str] | None,
        normalise: Literal["none", "yes_no"],
        frames: int,
        pixels: int,
        dtype: Dtype,
    ) -> list[Path]:
        """The config, the weights, the tokenizer and the code of Qwen-VL's inputs."""
        where = located(folder)
        found = sorted({file for pattern in PATTERNS for file in where.glob(pattern) if file.is_file()})
        return [*found, *map(Path, (backbones.__file__, pictures.__file__, qwen_vl.__file__))]

    @staticmethod
    def fits(
        shape: Sequence[int],
        text_dim: int | None,
        *,
        folder: str,
        questions: dict[str, str] | None,
        normalise: Literal["none", "yes_no"],
        frames: int,
        pixels: int,
        dtype: Dtype,
    ) -> None:
        """Raises ConfigError unless the folder is one of a Qwen-VL, whatever the latents are."""
        kind_of(located(folder))
        Words(located(folder))

    def __init__(
        self,
        *,
        folder: str,
        questions: Questions | None = None,
        normalise: Literal["none", "yes_no"] = "none",
        frames: Annotated[int, Ge(2)] = 8,
        pixels: Count = 768 * 28 * 28,
        dtype: Dtype = "bfloat16",
    ) -> None:
        self.questions = QUESTIONS if questions is None else questions
        self.components = tuple(self.questions)
        self.kind = kind_of(where := located(folder))
        self.words = Words(where)
        self.net = backbones.backbone(self.kind.model, where, dtype)
        self.patching = qwen_vl.Patching.of(self.net.config.vision_config, self.kind.values)
        self.normalise, self.frames, self.pixels = normalise, frames, pixels

    def to(self, device: str) -> None:
        """Moves the weights to a device."""
        self.net.to(device)

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), number of questions)."""
        rows = []
        for view in views:
            p = self.answers(view).double().cpu().numpy()
            yes, no = (p[:, self.words.ids[answer]].sum(1) for answer in ("yes", "no"))
            rows.append(yes / (yes + no) if self.normalise == "yes_no" else yes)
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.questions))

    def answers(self, view: "View") -> torch.Tensor:
        """The probability of each token as the first of the answer to each question, float32 (questions, tokens).

        The frames pass the vision tower once.
        """
        assert view.frames is not None
        total = len(view.frames)
        indices = qwen_vl.uniform(total, min(self.frames, max(2, total)))
        chosen, factor = view.frames[indices], self.patching.factor
        h, w = qwen_vl.fitted(chosen.shape[1], chosen.shape[2], factor, LEAST * factor**2, self.pixels)
        patches, grid = (t.to(self.net.device) for t in qwen_vl.patches(qwen_vl.resized(chosen, h, w), self.patching))
        looked = self.net.model.get_video_features(patches, grid, return_dict=True)
        video = self.shown(indices, grid[0].tolist(), view.fps)
        seconds = [self.patching.time * total / view.fps / len(indices)]  # of a row of the grid; Qwen2.5-VL asks for it
        found = []
        for question in self.questions.values():
            text = qwen_vl.chat(video, question.replace("{}", view.prompt), self.kind.system)
            ids, seen = self.words(text, len(patches) // self.patching.merge**2, self.net.device)
            places, _ = self.net.model.get_rope_index(
                ids, 2 * seen.int(), video_grid_thw=grid, second_per_grid_ts=seconds
            )
            answer = self.net(ids, position_ids=places, mm_encoder_outputs={"video": looked}, logits_to_keep=1)
            found.append(answer.logits[0, -1].float().softmax(-1))
        return torch.stack(found)

    def shown(self, indices: Sequence[int], grid: Sequence[int], fps: float) -> str:
        """The visual tokens of frames at `indices` in a video, as the model's own processor lays them out."""
        n = grid[1] * grid[2] // self.patching.merge**2
        if not self.kind.stamped:
            return qwen_vl.seen(qwen_vl.VIDEO, grid[0] * n)
        pairs = [indices[i : i + self.patching.time] for i in range(0, len(indices), self.patching.time)]
        times = [(pair[0] + pair[-1]) / 2 / fps for pair in pairs]
        return "".join(f"<{t:.1f} seconds>{qwen_vl.seen(qwen_vl.VIDEO, n)}" for t in times)


class Words:
    """The tokenizer of a Qwen-VL, and which tokens mean yes and no."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError for a tokenizer that lacks the token of videos, or one for yes or for no."""
        self.tokenizer = qwen_vl.tokenizer(folder)
        (self.video,) = qwen_vl.ids_of(self.tokenizer, [qwen_vl.VIDEO], folder)
        self.ids = {}
        for answer, spellings in ANSWERS.items():
            spelt = [self.tokenizer(b + w, add_special_tokens=False).input_ids for w in spellings for b in ("", " ")]
            self.ids[answer] = sorted({ids[0] for ids in spelt if len(ids) == 1})
            fits = f"a folder whose tokenizer has one token for {' or '.join(spellings)}"
            check(bool(self.ids[answer]), "folder", str(folder), fits)

    def __call__(self, text: str, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (1, L), and where the n visual tokens are. Raises ValueError where a caption brings one more."""
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False).input_ids], device=device)
        seen = ids == self.video
        if int(seen.sum()) != n:
            raise ValueError(f"the caption has the model's own token {qwen_vl.VIDEO}")
        return ids, seen


def located(folder: str) -> Path:
    """The folder of a Qwen-VL, which is here or on the hub. Raises ConfigError."""
    return checkpoint.located(folder, key="folder", patterns=PATTERNS)


def kind_of(folder: Path) -> Kind:
    """Which Qwen-VL a folder has. Raises ConfigError."""
    found = convert.json_of(convert.part(folder, "config.json", "folder"), "folder").get("model_type")
    check(found in KINDS, "folder", str(folder), f"a folder of model_type {', '.join(KINDS)}, not {found!r}")
    check(any(folder.glob("*.safetensors")), "folder", str(folder), "a folder with safetensors files")
    return KINDS[str(found)]
