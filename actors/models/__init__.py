"""Model families, one file each: `check_folder`, `Geometry`, `TextEncoder`, `Transformer`, `Autoencoder`.

A model is a folder; the class that its model_index.json names says of which family.
"""

import importlib
import json
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import snapshot_download

from raysearch.errors import ConfigError, check

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILIES = {"WanPipeline": "wan", "WanImageToVideoPipeline": "wan", "GaussianMixture": "mixture"}


# What a video is given beside its captions: clean first latent frames (1, C, k, H, W); or what an image-to-video model
# sees of its first frame, a condition of other channels (1, C', T, H, W) and maybe an embedding (1, tokens, width).
Given: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | None


def index(folder: Path) -> dict[str, Any]:
    """The pipeline's model_index.json."""
    found: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return found


def family(folder: Path) -> Any:
    """The module of a model's family. Raises ConfigError."""
    check((folder / "model_index.json").is_file(), "model.path", str(folder), "a folder with a model_index.json")
    name = index(folder).get("_class_name")
    check(name in FAMILIES, "model.path", str(folder), f"a model of class {', '.join(FAMILIES)}, not {name}")
    return importlib.import_module(f"actors.models.{FAMILIES[str(name)]}")


def given_frames(first: Any) -> int:
    """How many of a latent's first frames are given, clean ones."""
    return 0 if first is None or isinstance(first, tuple) else int(first.shape[2])


def with_first(latent: torch.Tensor, first: Given) -> torch.Tensor:
    """`latent` (1, C, T, H, W) with given first frames in their place."""
    return torch.cat([first, latent[:, :, first.shape[2] :]], 2) if isinstance(first, torch.Tensor) else latent


def model_folder(path: str) -> Path:
    """A checked folder in diffusers' layout; a hub id is looked up in the cache, else downloaded."""
    folder = Path(path)
    from actors.models import wan  # which imports this module

    if (
        not folder.is_dir()
        and path.count("/") == 1
        and not path.startswith((".", "/"))
        and not Path(path.split("/")[0]).exists()
    ):
        try:
            folder = Path(
                snapshot_download(path, allow_patterns=[f"{p}/*" for p in wan.PARTS + wan.MORE] + ["model_index.json"])
            )
        except Exception as error:
            raise ConfigError(f"model.path: {path!r} is no folder here, and the model hub cannot give it") from error
    check(folder.is_dir(), "model.path", path, "an existing folder in diffusers' layout")
    family(folder).check_folder(folder, "model.path")
    return folder
