"""The core of the rewards that compare a frame and its caption by CLIP (2103.00020), in transformers' own classes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from actors.models.weights import pretrained
from actors.rewards import backbones, pictures
from actors.rewards.checkpoint import FILES, located
from raysearch.config.numbers import Count, Dtype
from raysearch.errors import ConfigError, check, told

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"]
LEGACY = 2  # the eos_token_id of old configs, for which transformers takes the highest token as the caption's end


class Clip:
    """A CLIPModel with its tokenizer. Two of the same folder and type share their weights."""

    def __init__(self, folder: str, tokenizer: str | None, dtype: Dtype) -> None:
        self.model = backbones.backbone(CLIPModel, folders(folder, tokenizer)[0], dtype)
        config = self.model.config
        self.side, self.length = config.vision_config.image_size, config.text_config.max_position_embeddings
        self._spell = speller(folder, tokenizer, config.text_config)

    def cosines(self, prompt: str, pixels: torch.Tensor) -> torch.Tensor:
        """The cosine of a caption, cut to the model's length, and each image (T, 3, side, side): float32 (T,)."""
        ids = self._spell(prompt, truncation=True, max_length=self.length, return_tensors="pt").input_ids
        # What these methods return holds the hidden states, too; its pooler_output is the projection.
        text = self.model.get_text_features(input_ids=ids.to(self.model.device)).pooler_output
        return F.normalize(self.images(pixels), dim=-1) @ F.normalize(text.float(), dim=-1)[0]

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """The embeddings of images, float32 (T, D), not normalised."""
        return self.model.get_image_features(  # type: ignore[no-any-return]
            pixel_values=pixels.to(self.model.device, self.model.dtype)
        ).pooler_output.float()


class ClipReward(pictures.Pictured):
    """A reward of a frame and its caption over a CLIPModel, a folder or a hub id, cut to squares as CLIP does.

    `tokenizer` is the folder or hub id of CLIP's tokenizer where `folder` has none.
    """

    def __init__(
        self, *, folder: str, tokenizer: str | None = None, frames: Count = 8, dtype: Dtype = "float32"
    ) -> None:
        self.frames, self.clip = frames, Clip(folder, tokenizer, dtype)

    @staticmethod
    def files(*, folder: str, tokenizer: str | None, frames: int, dtype: Dtype) -> list[Path]:
        """The model, its tokenizer and the code of this core. Raises ConfigError unless the model is a CLIPModel."""
        return files(folder, tokenizer)

    def to(self, device: str) -> None:
        """Moves the model to a device."""
        self.clip.model.to(device)

    def pixels(self, frames: np.ndarray) -> torch.Tensor:
        """What the model reads of frames."""
        return pictures.pixels(pictures.cropped, frames, self.clip.side)

    def grades(self, prompt: str, frames: np.ndarray) -> torch.Tensor:
        """The cosine of a caption and each frame, in [-1, 1]."""
        return self.clip.cosines(prompt, self.pixels(frames))


def folders(folder: str, tokenizer: str | None) -> tuple[Path, Path]:
    """The local folders of a model and its tokenizer. Raises ConfigError."""
    own = TOKENIZER if tokenizer is None else []
    path = located(folder, key="folder", patterns=[*FILES, *own])
    return path, path if tokenizer is None else located(tokenizer, key="tokenizer", patterns=TOKENIZER)


def files(folder: str, tokenizer: str | None) -> list[Path]:
    """The files on which a reward over CLIP depends. Raises ConfigError, before weights load, for what does not fit."""
    path, spelling = folders(folder, tokenizer)
    net = backbones.fitting(CLIPModel, path, "clip")
    speller(folder, tokenizer, net.config.text_config)
    found = [place / name for place, names in ((path, FILES), (spelling, TOKENIZER)) for name in names]
    return [*filter(Path.is_file, found), *map(Path, (__file__, backbones.__file__, pictures.__file__))]


def speller(folder: str, tokenizer: str | None, config: Any) -> Any:
    """The tokenizer of a model whose text_config is `config`. Raises ConfigError for a missing or a foreign one."""
    key, where = ("folder", folder) if tokenizer is None else ("tokenizer", tokenizer)
    path = folders(folder, tokenizer)[1]
    names = {name for name in TOKENIZER if (path / name).is_file()}
    whole = "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names
    check(whole, key, where, "a folder with CLIP's tokenizer: tokenizer.json, or vocab.json and merges.txt")
    try:
        found = pretrained(CLIPTokenizer, path)
    except Exception as error:  # of tokenizers and of transformers
        raise ConfigError.of(key, where, f"a folder whose tokenizer can be read: {told(error)}") from error
    tokens, end = config.vocab_size, config.eos_token_id
    check(len(found) <= tokens, key, where, f"one of at most {tokens} tokens, as the model has: there are {len(found)}")
    fits = f"one whose captions end with the model's token {end}, not {found.eos_token_id}"
    check(end in (LEGACY, found.eos_token_id), key, where, fits)
    return found
