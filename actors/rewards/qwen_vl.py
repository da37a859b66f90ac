"""Frames, texts and positions as Qwen2-VL, Qwen2.5-VL and Qwen3-VL read them, and a Qwen2-VL with a head that grades.

transformers' processors of videos need torchvision, which raysearch does without, so this module has its own. Sizes,
samples of frames and patches are those of qwen-vl-utils and of transformers' image processors.

Shapes: T frames of a video; N patches; L tokens; B texts; D the width of the language model.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2VLConfig, Qwen2VLModel
from transformers.initialization import no_init_weights

from actors.models.weights import DTYPES, pretrained
from actors.rewards import checkpoint, convert, pictures
from actors.rewards.backbones import shared
from raysearch.errors import ConfigError, check, told

VIDEO, IMAGE = "<|video_pad|>", "<|image_pad|>"  # one for each visual token
PROMPT = "{text_prompt}"  # what a template has in the caption's place
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"  # Qwen3-VL's chats begin without


@dataclass(frozen=True)
class Patching:
    """How a model cuts frames: patches of `size` pixels squared and `time` frames; `merge` squared of them are a token.

    `mean` and `deviation` are of the red, green and blue of brightness in [0, 1].
    """

    size: int = 14
    time: int = 2
    merge: int = 2
    mean: tuple[float, ...] = pictures.CLIP[0]
    deviation: tuple[float, ...] = pictures.CLIP[1]

    @staticmethod
    def of(vision: Any, values: tuple[tuple[float, ...], ...] = pictures.CLIP) -> "Patching":
        """That of a vision config of transformers; `values` are the mean and the deviation."""
        return Patching(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size, *values)

    @property
    def factor(self) -> int:
        """The pixels by which the height and the width of a frame must be divisible."""
        return self.size * self.merge


def uniform(total: int, n: int) -> list[int]:
    """The indices of n frames out of `total`, evenly spaced from the first to the last."""
    # As qwen-vl-utils has them: float32, in which some halves round to another frame than those of pictures.evenly.
    return torch.linspace(0, total - 1, n).round().long().tolist()


def sampled(total: int, video_fps: float, fps: float) -> list[int]:
    """The indices of about `fps` frames for each second of a video of `total` frames, an even number of them.

    There are at least 4, if the video has them, and at most 768. The one frame of an image is there twice.
    """
    most = max(2, min(768, total) // 2 * 2)
    return uniform(total, 2 * round(min(max(fps * total / video_fps, 4), most) / 2))


def fitted(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The size, divisible by `factor`, to which a frame is resized: about its own within `least`..`most` pixels.

    Raises ValueError for a frame more than 200 times as long as it is wide.
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f"frames of {height} x {width} pixels are longer than 200 times their width")
    h, w = (max(factor, round(side / factor) * factor) for side in (height, width))
    if h * w > most:
        scale = sqrt(height * width / most)
        h, w = (max(factor, floor(side / scale / factor) * factor) for side in (height, width))
    elif h * w < least:
        scale = sqrt(least / (height * width))
        h, w = (ceil(side * scale / factor) * factor for side in (height, width))
    return h, w


def resized(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Frames of a video, uint8 (T, H, W, 3), resized as torchvision does: bicubic, antialiased; uint8 (T, 3, h, w)."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(0, 255).round().byte()


def resized_images(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Images, uint8 (T, H, W, 3), each resized as Pillow does: bicubic; uint8 (T, 3, h, w)."""
    images = [Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC) for f in frames]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def patches(pixels: torch.Tensor, patching: Patching) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised patches, float32 (N, 3 time size size), and their grid, (1, 3): times, rows, columns.

    `pixels` are uint8 (T, 3, H, W) of a size that the factor divides. An odd last frame counts twice. Patches are in
    the order in which the model merges them.
    """
    p, t, s = patching.size, patching.time, patching.merge
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (patching.mean, patching.deviation))
    x = ((pixels.double() / 255).float() - mean) / deviation
    x = torch.cat([x, x[-1:].expand(-len(x) % t, -1, -1, -1)])
    grid = (len(x) // t, x.shape[2] // p, x.shape[3] // p)
    x = x.view(grid[0], t, 3, grid[1] // s, s, p, grid[2] // s, s, p).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(-1, 3 * t * p * p), torch.tensor([grid])


def chat(visual: str, text: str, system: str = SYSTEM) -> str:
    """A user's turn, a picture or video before a text, and the beginning of the model's turn."""
    return f"{system}<|im_start|>user\n{visual}{text}<|im_end|>\n<|im_start|>assistant\n"


def seen(token: str, n: int) -> str:
    """n visual tokens between the marks of their beginning and end."""
    return f"<|vision_start|>{token * n}<|vision_end|>"


def flat(embeddings: torch.Tensor) -> torch.Tensor:
    """Positions 0..L-1 on all three axes, (3, B, L), for embeddings (B, L, D): as text, and not M-RoPE."""
    b, length = embeddings.shape[:2]
    return torch.arange(length, device=embeddings.device).expand(3, b, length)


class Grader(nn.Module):
    """Qwen2-VL whose last hidden states at special tokens are graded by a head, in float32."""

    def __init__(self, config: dict[str, Any], head: Callable[[int], nn.Module], dtype: torch.dtype) -> None:
        """`config` is a Qwen2-VL's and `head` makes the head for a width D. The weights have no values yet."""
        super().__init__()
        with no_init_weights():
            self.qwen = Qwen2VLModel._from_config(Qwen2VLConfig.from_dict(config), dtype=dtype)
            self.rm_head = head(self.qwen.config.text_config.hidden_size)

    def forward(
        self, ids: torch.Tensor, visual: torch.Tensor, patches: torch.Tensor, grid: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """Grades at the tokens `at`, (B, len(at), K), for ids (B, L) of texts that differ in what is seen alone.

        `visual` (L,) marks the visual tokens, and `patches` and `grid` are those of all texts. Positions are `flat`:
        VideoReward and HPSv3 were trained on embeddings without position ids.
        """
        device = self.qwen.device
        ids, visual, patches, grid, at = (t.to(device) for t in (ids, visual, patches, grid, at))
        x = self.qwen.get_input_embeddings()(ids)
        look = self.qwen.visual(patches.to(x.dtype), grid_thw=grid).pooler_output
        x[:, visual] = look.to(x.dtype).view(len(ids), -1, x.shape[-1])
        h = self.qwen.language_model(inputs_embeds=x, position_ids=flat(x), use_cache=False).last_hidden_state
        return self.rm_head(h[:, at].float())


def graded_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A Grader's weights by the names that transformers 4.45 gave them. Raises ConfigError for an unknown name."""
    begins = {"visual.": "qwen.visual.", "model.": "qwen.language_model.", "rm_head.": "rm_head."}
    found = {}
    for name, value in state.items():
        old = next((b for b in begins if name.startswith(b)), None)
        if name != "lm_head.weight":  # it predicts words, and grades read none
            check(old is not None, "SOURCE", name, "a weight of a Qwen2-VL with a head rm_head")
            found[f"{begins[str(old)]}{name.removeprefix(str(old))}"] = value
    return found


class Reader:
    """Texts of a template as token ids, with the places of visual and of special tokens."""

    def __init__(self, folder: Path, visual: str, marks: Sequence[str]) -> None:
        """`folder` has tokenizer/ and template.txt. Raises ConfigError unless both know the special tokens `marks`."""
        self.tokenizer = tokenizer(folder / "tokenizer")
        self.visual, self.marks = visual, tuple(marks)
        self.ids = dict(zip((visual, *marks), ids_of(self.tokenizer, (visual, *marks), folder), strict=True))
        try:
            self.template = (folder / "template.txt").read_bytes().decode()
        except (OSError, ValueError) as error:
            raise ConfigError.of("folder", str(folder), "a folder with template.txt, a text") from error
        for part in (PROMPT, *marks):
            check(self.template.count(part) == 1, "folder", str(folder), f"a folder whose template.txt has one {part}")

    def __call__(self, caption: str, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids (L,) of the text after n visual tokens; where these are (L,); and the indices of the special tokens.

        Raises ValueError for a caption with such tokens.
        """
        text = chat(seen(self.visual, n), self.template.replace(PROMPT, caption))
        ids = torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids)
        at = [(ids == self.ids[mark]).nonzero().flatten() for mark in self.marks]
        if int((ids == self.ids[self.visual]).sum()) != n or any(len(places) != 1 for places in at):
            raise ValueError(f"the caption {caption!r} has one of the model's own tokens {', '.join(self.ids)}")
        return ids, ids == self.ids[self.visual], torch.cat(at)


def located(folder: str) -> Path:
    """The folder of a Grader, which is here or on the hub. Raises ConfigError."""
    return checkpoint.located(folder, key="folder", patterns=[*checkpoint.FILES, "template.txt", "tokenizer/*"])


def files(folder: Path) -> list[Path]:
    """The files on which a Grader's scores depend: those that are read of its folder, and the code."""
    words = sorted(file for file in (folder / "tokenizer").glob("*") if file.is_file())
    return [
        *(folder / name for name in (*checkpoint.FILES, "template.txt")),
        *words,
        Path(__file__),
        Path(pictures.__file__),
    ]


def tokenizer(folder: Path, key: str = "folder") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises ConfigError."""
    check(folder.is_dir(), key, str(folder), "a folder with a tokenizer")
    try:
        return pretrained(AutoTokenizer, folder)
    except Exception as error:  # of many types, for files that are missing or broken
        raise ConfigError.of(key, str(folder), f"a folder with a tokenizer: {told(error)[:200]}") from error


def ids_of(words: PreTrainedTokenizerBase, tokens: Sequence[str], folder: Path, key: str = "folder") -> list[int]:
    """The ids of special tokens. Raises ConfigError if the tokenizer lacks one."""
    known = words.get_vocab()
    for token in tokens:
        check(token in known, key, str(folder), f"a folder whose tokenizer has the token {token}")
    return [known[token] for token in tokens]


@dataclass(frozen=True)
class Grading:
    """What makes a reward of a Grader: its converted folders are of `architecture`, and `head` makes a head for D.

    `visual` is the token of what is seen, and `marks` are the special tokens at which grades are read.
    """

    architecture: str
    head: Callable[[int], nn.Module]
    visual: str
    marks: tuple[str, ...]

    def fits(self, folder: Path) -> None:
        """Raises ConfigError unless a converted folder's weights, tokenizer and template fit; loads no weights."""
        with torch.device("meta"):
            net = self._bare(folder, "float32")
        checkpoint.compare(net.state_dict(), folder)
        self.reader(folder)

    def reader(self, folder: Path) -> Reader:
        """The Reader of a converted folder. Raises ConfigError."""
        return Reader(folder, self.visual, self.marks)

    def grader(self, folder: Path, dtype: str) -> Grader:
        """The Grader of a converted folder, in evaluation mode, with its weights in `dtype`. Raises ConfigError.

        Rewards of one process share it.
        """

        def build() -> Grader:
            net = self._bare(folder, dtype)
            checkpoint.fill(net.state_dict(), folder)
            return net.eval().requires_grad_(False)

        return shared((self.architecture, folder.resolve(), dtype), build)

    def _bare(self, folder: Path, dtype: str) -> Grader:
        config = checkpoint.config_of(folder, self.architecture)
        with checkpoint.described(folder, self.architecture):
            return Grader(config["model"], self.head, DTYPES[dtype])

    def write(self, out: Path, base: Path, state: dict[str, torch.Tensor], template: str, words: Path) -> None:
        """Write a converted folder: upstream's `state` by its old names, under the config of the folder `base`.

        `words` is the folder of the tokenizer, which must know all special tokens. Raises ConfigError.
        """
        ids = ids_of(tokenizer(words, "SOURCE"), (self.visual, *self.marks), words, "SOURCE")
        found = graded_state(state)
        size = next(iter(getattr(found.get("qwen.language_model.embed_tokens.weight"), "shape", ())), 0)
        check(max(ids) < size, "SOURCE", max(ids), f"a token that the weights know, of which there are {size}")
        config = convert.json_of(convert.part(base, "config.json", "--base"))
        with checkpoint.described(base, "Qwen2-VL", "--base"):
            whole = Qwen2VLConfig.from_dict(config)
            whole.text_config.vocab_size = size
            with torch.device("meta"):
                wanted = Grader(whole.to_dict(), self.head, torch.float32).state_dict()
        for name in sorted(wanted.keys() | found.keys()):
            shapes = [tuple(s[name].shape) if name in s else checkpoint.NONE for s in (wanted, found)]
            fits = f"weights of {self.architecture} on --base: {name} must be {shapes[0]}, there is {shapes[1]}"
            check(shapes[0] == shapes[1], "SOURCE", self.architecture, fits)
        with tempfile.TemporaryDirectory() as folder:
            (file := Path(folder) / "template.txt").write_bytes(template.encode())
            files = {"template.txt": file, "tokenizer": words}
            convert.written(out, self.architecture, {"model": whole.to_dict()}, found, files)
