"""The reward of text in videos: does a frame show the words that the caption quotes?

Flow-GRPO (2505.05470) trains image models with such a reward, 1 - edit distance / length of the text. RapidOCR
(github.com/RapidAI/RapidOCR, Apache-2.0) reads the frames with the weights of PP-OCRv6 that lie in its wheel, so
nothing is downloaded.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from actors.rewards import pictures
from actors.rewards.extras import library
from raysearch.config.numbers import Count
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

QUOTED = re.compile(r'"([^"]*)"|[“„]([^“”]*)[“”]|«([^»]*)»')
WEIGHTS = {  # what is read with which file: where text is, whether it is upside down, what it says
    "Det": "PP-OCRv6_det_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
}


def quoted(caption: str) -> list[str]:
    """The texts that a caption has in "double", “typographic” or «angle» quotes, prepared as `plain` does."""
    found = (plain("".join(groups)) for groups in QUOTED.findall(caption))
    return [text for text in found if text]


def plain(text: str) -> str:
    """A text without spaces, which readers lose, and without upper case."""
    return "".join(text.split()).casefold()


def likeness(text: str, read: str) -> float:
    """1 - d / len(text), where d is the edit distance from `text` to that part of `read` that is nearest; in [0, 1].

    So it is 1 if `read` holds the text, whatever else it holds. This is Sellers' algorithm (1980).
    """
    row = [0] * (len(read) + 1)  # the distance of no character to nothing, ending at each place of `read`
    for i, a in enumerate(text, 1):
        before, row = row, [i]
        for j, b in enumerate(read, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return 1 - min(row) / len(text)


def weights() -> dict[str, Path]:
    """The files of `WEIGHTS` in the installed package. Raises ConfigError where the package or a file is missing."""
    folder = Path(str(library("rapidocr", extra="ocr").__file__)).parent / "models"
    library("onnxruntime", extra="ocr")
    found = {part: folder / name for part, name in WEIGHTS.items()}
    for file in found.values():
        check(file.is_file(), "name", "ocr", f"used with a version of rapidocr that ships {file.name}, such as 3.10")
    return found


class Ocr:
    """Component text: how well frames show the texts that the caption quotes, in [0, 1].

    Of the video `frames` frames are read, evenly spaced from the first to the last. A frame's text is that of its
    boxes, from top to bottom and from left to right. A quoted text scores `likeness` in that frame which shows it best,
    and a caption the mean over its quoted texts; spaces and upper case do not count. A caption that quotes nothing
    scores 0 whatever its video shows, so that this reward does not choose between its videos.
    """

    components: tuple[str, ...] = ("text",)
    needs: Literal["latent", "estimate", "frames"] = "frames"

    def __init__(self, *, frames: Count = 4) -> None:
        params: dict[str, object] = {f"{part}.model_path": str(file) for part, file in weights().items()}
        params |= {"Global.log_level": "critical"}
        params |= {"EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads()}
        self.frames = frames
        self._reader = library("rapidocr", extra="ocr").RapidOCR(params=params)

    @staticmethod
    def files(*, frames: int) -> list[Path]:
        """The weights in the installed package, and how frames are chosen. Raises ConfigError for what is missing."""
        return [*weights().values(), Path(pictures.__file__)]

    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), 1)."""
        return np.array([[self._score(view)] for view in views], dtype=np.float64).reshape(len(views), 1)

    def _score(self, view: "View") -> float:
        assert view.frames is not None
        texts = quoted(view.prompt)
        if not texts:
            return 0.0
        read = [self.read(frame) for frame in pictures.chosen(view.frames, self.frames)]
        return float(np.mean([max(likeness(text, r) for r in read) for text in texts]))

    def read(self, frame: np.ndarray) -> str:
        """The text in a frame, uint8 (H, W, 3) in RGB, prepared as `plain` does."""
        found = self._reader(np.ascontiguousarray(frame[..., ::-1]))  # it reads BGR, as OpenCV has images
        return plain("".join(found.txts or ()))
