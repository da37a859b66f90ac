"""HPSv2.1, Human Preference Score (2306.09341): a CLIP ViT-H/14 that was trained on rankings of images of a prompt."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from actors.models.weights import quiet
from actors.rewards import pictures
from actors.rewards.clip import TOKENIZER, ClipReward
from actors.rewards.convert import json_of, part, pickled, same_shapes, written
from raysearch.errors import ConfigError, check, told

# OpenCLIP's names and transformers'.
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
BLOCKS = re.compile(
    r"(?P<visual>visual\.)?transformer\.resblocks\.(?P<layer>\d+)\.(?P<stem>[\w.]+)[._](?P<kind>weight|bias)"
)
REST = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


class Hps(ClipReward):
    """Components hps and hps_min, the mean and the minimum over frames of the cosine of caption and frame.

    Of the published weights they lie between about 0.2 and 0.35. A frame is not cropped: its longer side becomes the
    model's input size, and black bars fill the square. `folder` is the CLIPModel that `raysearch reward convert hps`
    writes, or any other.
    """

    components: tuple[str, ...] = ("hps", "hps_min")
    weights: ClassVar[dict[str, float]] = {"hps": 1.0, "hps_min": 0.0}

    def pixels(self, frames: np.ndarray) -> torch.Tensor:
        """What the model reads of frames: whole frames with black bars."""
        return pictures.pixels(pictures.padded, frames, self.clip.side)


def convert(source: Path, out: Path, *, base: Path | None = None) -> None:
    """Write the CLIPModel of an OpenCLIP state dict, such as HPS_v2.1_compressed.pt. Raises ConfigError.

    `base` has the config.json of the CLIPModel that upstream started from, and its tokenizer.
    """
    check(base is not None, "--base", None, "a folder with config.json and the tokenizer of CLIP-ViT-H-14")
    assert base is not None
    config = json_of(part(base, "config.json", "--base"))
    kind = config.get("model_type")
    check(kind == "clip", "--base", str(base), f"a folder of a model of type clip, not {kind}")
    quiet()
    found = renamed(pickled(source))
    try:
        with torch.device("meta"):
            wanted = CLIPModel(CLIPConfig.from_dict(config)).state_dict()
    except Exception as error:
        raise ConfigError(f"--base: {base / 'config.json'} describes no CLIPModel: {told(error)}") from error
    same_shapes(wanted, found, source, f"weights that fit {base / 'config.json'}")
    spelling = {name: base / name for name in TOKENIZER if (base / name).is_file()}
    check(bool(spelling), "--base", str(base), "a folder with the tokenizer's files, too")
    written(out, "clip", config, found, spelling)


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an OpenCLIP model by the names of transformers' CLIPModel. Unknown ones keep their names."""
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if block := BLOCKS.fullmatch(name):
            tower = "vision_model" if block["visual"] else "text_model"
            stem, kind, layer = block["stem"], block["kind"], f"{tower}.encoder.layers.{block['layer']}"
            if stem == "attn.in_proj" and value.ndim:  # the query's, the key's and the value's weights in one tensor
                parts = zip("qkv", value.tensor_split(3), strict=True)
                found |= {f"{layer}.self_attn.{p}_proj.{kind}": v for p, v in parts}
            else:
                found[f"{layer}.{BLOCK.get(stem, stem)}.{kind}"] = value
        elif name in PROJECTIONS and value.ndim == 2:
            found[PROJECTIONS[name]] = value.T  # OpenCLIP multiplies from the right
        else:
            found[REST.get(name, name)] = value
    return found
