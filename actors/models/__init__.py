"""Model families, one file each: `check_folder`, `Geometry`, `TextEncoder`, `Transformer`, `Autoencoder`.

A model is a folder; the class that its model_index.json names says of which family.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from raysearch.errors import check

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILIES = {"WanPipeline": "wan", "WanImageToVideoPipeline": "wan", "GaussianMixture": "mixture"}


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


def with_first(latent: torch.Tensor, first: torch.Tensor | None) -> torch.Tensor:
    """`latent` (1, C, T, H, W) with the clean `first` (1, C, k, H, W) in the place of its first k frames."""
    return latent if first is None else torch.cat([first, latent[:, :, first.shape[2] :]], 2)
