"""ImageReward (2304.05977): BLIP and a head over its cross-attended text, trained on rankings of images."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from actors.models.weights import DTYPES, pretrained
from actors.rewards import checkpoint, linears, pictures
from actors.rewards.backbones import shared
from actors.rewards.convert import pickled, same_shapes, written
from raysearch.config.numbers import Count, Dtype
from raysearch.errors import ConfigError, check, told

KIND = "imagereward"
TOKENIZER = ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
LENGTH = 35  # tokens of a caption
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the head's numbers, over ImageReward's data
HEAD = 64  # features of an attention head in both towers of the published model
VISION = {  # upstream's names and transformers'
    r"cls_token": "embeddings.class_embedding",
    r"pos_embed": "embeddings.position_embedding",
    r"patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"norm\.": "post_layernorm.",
    r"blocks\.(\d+)\.norm([12])\.": r"encoder.layers.\1.layer_norm\2.",
    r"blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
}


class Net(nn.Module):
    """BLIP's two towers and the head, from the sizes in a folder's config.json."""

    def __init__(self, vision: dict[str, Any], text: dict[str, Any], head: list[int]) -> None:
        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        self.text = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        self.head = linears.chain(head)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The head's number, (T,), for a caption (1, L), a mask of its tokens, and each image (T, 3, side, side)."""
        seen = self.vision(pixels.to(next(self.vision.parameters()).dtype)).last_hidden_state
        ids, mask = (x.expand(len(seen), -1) for x in (ids, mask))
        read = self.text(ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        return self.head(read[:, 0].float())[:, 0]  # type: ignore[no-any-return]


class ImageReward(pictures.Pictured):
    """Components imagereward and imagereward_min, the mean and the minimum over frames of ImageReward's score.

    The score is standardised: about -2.5 to 2.5, and 0 for an ordinary image. `folder` is what
    `raysearch reward convert imagereward` writes.
    """

    components: tuple[str, ...] = ("imagereward", "imagereward_min")
    weights: ClassVar[dict[str, float]] = {"imagereward": 1.0, "imagereward_min": 0.0}

    def __init__(self, *, folder: str, frames: Count = 8, dtype: Dtype = "float32") -> None:
        path = _located(folder)

        def build() -> Net:
            net = _described(path)
            net.vision.to(DTYPES[dtype])
            net.text.to(DTYPES[dtype])
            checkpoint.fill(net.state_dict(), path)
            return net.eval().requires_grad_(False)

        self.frames = frames
        self.net: Net = shared((KIND, str(path.resolve()), dtype), build)
        self._spell = _speller(path, self.net)

    @staticmethod
    def files(*, folder: str, frames: int, dtype: Dtype) -> list[Path]:
        """The weights, the tokenizer and the code that all image rewards share. Raises ConfigError."""
        path = _located(folder)
        with torch.device("meta"):
            net = _described(path)
        checkpoint.compare(net.state_dict(), path)
        _speller(path, net)
        found = [path / name for name in (*checkpoint.FILES, *TOKENIZER)]
        return [*filter(Path.is_file, found), Path(linears.__file__), Path(pictures.__file__)]

    def to(self, device: str) -> None:
        """Moves the net to a device."""
        self.net.to(device)

    def grades(self, prompt: str, frames: np.ndarray) -> torch.Tensor:
        """The standardised score of each frame, float32 (T,)."""
        device = next(self.net.parameters()).device
        asked = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
        words = self._spell(prompt, **asked).to(device)
        x = pictures.pixels(pictures.centred, frames, self.net.vision.config.image_size).to(device)
        return (self.net(words.input_ids, words.attention_mask, x) - MEAN) / DEVIATION  # type: ignore[no-any-return]


def _located(folder: str) -> Path:
    return checkpoint.located(folder, key="folder", patterns=[*checkpoint.FILES, *TOKENIZER])


def _described(folder: Path) -> Net:
    config = checkpoint.config_of(folder, KIND)
    with checkpoint.described(folder, "ImageReward"):
        return Net(**config)


def _speller(folder: Path, net: Net) -> Any:
    """The tokenizer in a folder. Raises ConfigError for a missing or a foreign one."""
    spelt = any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
    check(spelt, "folder", str(folder), "a folder with BERT's tokenizer: vocab.txt or tokenizer.json")
    try:
        found = pretrained(BertTokenizer, folder)
    except Exception as error:  # of tokenizers and of transformers
        raise ConfigError.of("folder", str(folder), f"a folder whose tokenizer can be read: {told(error)}") from error
    most = net.text.config.vocab_size
    check(len(found) <= most, "folder", str(folder), f"one of at most {most} tokens: there are {len(found)}")
    return found


def convert(source: Path, out: Path, *, base: Path | None = None) -> None:
    """Write the folder of ImageReward.pt; `base` has the tokenizer of bert-base-uncased. Raises ConfigError."""
    check(base is not None, "--base", None, "a folder with the tokenizer of bert-base-uncased")
    assert base is not None
    spelling = {name: base / name for name in TOKENIZER if (base / name).is_file()}
    check({"vocab.txt", "tokenizer.json"} & spelling.keys() != set(), "--base", str(base), "a folder with vocab.txt")
    state = pickled(source)
    found = renamed(state)
    widths, head = linears.chained({k: v for k, v in state.items() if k.startswith("mlp.")}, source)
    found |= {f"head.{k}": v for k, v in head.items()}
    config = described(found, source) | {"head": widths}
    try:
        with torch.device("meta"):
            wanted = Net(**config).state_dict()
    except ValueError as error:  # of transformers, for widths that its heads of attention do not divide
        raise ConfigError.of("SOURCE", str(source), f"ImageReward's state dict: {told(error)}") from error
    same_shapes(wanted, found, source, "ImageReward's state dict")
    written(out, KIND, config, found, spelling)


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of both towers by the names of `Net`; without projections that the score does not use."""
    found = {}
    for name, value in state.items():
        if name.startswith("blip.text_encoder.") and not name.endswith("position_ids"):
            found[name.replace("blip.text_encoder", "text")] = value
        elif name.startswith("blip.visual_encoder."):
            rest = name.removeprefix("blip.visual_encoder.")
            for pattern, other in VISION.items():
                rest, changed = re.subn(f"^{pattern}", other, rest)
                if changed:
                    break
            found[f"vision.{rest}"] = value
    return found


def described(state: Mapping[str, torch.Tensor], source: Path) -> dict[str, Any]:
    """The sizes of both towers as their config classes take them, read from their tensors. Raises ConfigError."""

    def shape(name: str, dimensions: int) -> torch.Size:
        check(name in state, "SOURCE", str(source), f"ImageReward's state dict: {name} is missing")
        found = state[name].shape
        fits = f"ImageReward's state dict: {name} must have {dimensions} dimensions above 0, not {tuple(found)}"
        check(len(found) == dimensions and min(found) > 0, "SOURCE", str(source), fits)
        return found

    def layers(tower: str) -> int:
        return len({m[1] for k in state if (m := re.match(rf"{tower}\.(\d+)\.", k))})

    (_, places, wide), patch = (
        shape("vision.embeddings.position_embedding", 3),
        shape("vision.embeddings.patch_embedding.weight", 4),
    )
    (tokens, narrow), length = (
        shape("text.embeddings.word_embeddings.weight", 2),
        shape("text.embeddings.position_embeddings.weight", 2),
    )
    vision = {
        "hidden_size": wide,
        "intermediate_size": shape("vision.encoder.layers.0.mlp.fc1.bias", 1)[0],
        "num_hidden_layers": layers("vision.encoder.layers"),
        "num_attention_heads": max(1, wide // HEAD),
        "image_size": patch[-1] * round((places - 1) ** 0.5),
        "patch_size": patch[-1],
        "layer_norm_eps": 1e-6,
    }
    text = {
        "vocab_size": tokens,
        "hidden_size": narrow,
        "encoder_hidden_size": wide,
        "intermediate_size": shape("text.encoder.layer.0.intermediate.dense.bias", 1)[0],
        "num_hidden_layers": layers("text.encoder.layer"),
        "num_attention_heads": max(1, narrow // HEAD),
        "max_position_embeddings": length[0],
        "layer_norm_eps": 1e-12,
    }
    return {"vision": vision, "text": text}
