"""Model families, one module each. A model is a folder, and the class in its model_index.json says its family.

A new family is a module in this folder and a line in `FAMILIES`. The module has the names below; the letters of shapes
are in `actors/__init__.py`. The four parts are classes, and each worker builds only the parts that it needs, so a part
reads no other part's files. `folder` is a Path, `dtype` a key of `DTYPES`, `device` "cpu" or "cuda".

check_folder(folder, key) -> None
    Raises ConfigError, which names the config's `key`, unless the folder holds a whole model that this module can run.

Geometry.of(folder) -> Geometry, a frozen dataclass: facts from config files alone; no weights are read.
    path: str               "flow" (x = (1 - sigma) x0 + sigma noise) or "vp" (x = sqrt(1 - sigma^2) x0 + sigma noise)
    text_dim: int | None    D of a caption's embedding, for rewards that read one; None if any D will do
    per_frame: bool         True if the transformer takes a noise level for each latent frame, which a queue needs
    images: str             first frames are "allowed", "required" or "refused"
    image_to_video: bool    True if the transformer sees the first frame in channels of their own
    sees_image: bool        True if the transformer attends to an ImageEncoder's embedding, too; only of image_to_video
    check(*, num_frames, height, width) -> None
        Raises ConfigError for a size of video, in frames and pixels, that the model cannot make.
    check_shards(pool, *, num_frames, height, width) -> None
        Raises ConfigError if the denoisers' `PoolConfig` shards the model in a way that does not fit.
    latent_shape(*, num_frames, height, width) -> tuple
        The shape (1, C, T, H, W) of the latent of a video of this size.
    frames(latent_frames) -> int
        How many frames a video with so many latent frames has.

TextEncoder(folder, *, dtype, device)
    __call__(text, length) -> numpy float32 (1, L, D)
        The embedding of a caption of at most `length` tokens; L is the same for all captions.

Transformer(folder, *, dtype, device), whose attribute `dtype` is the torch.dtype of its embeddings and outputs.
    __call__(latents, timesteps, text, conditions) -> tensor (B, C, T, H, W), without gradient
        The model's output: with `path` "flow" the velocity, noise - x0; with "vp" the noise. `latents` are float32
        (B, C, T, H, W). `timesteps` are the solver's, (B,), which for a flow are 1000 sigma; if `per_frame` also
        (B, T), with 0 for clean frames. `text` is (B, L, D) in `dtype`. `conditions` has one `Condition` for each row.
        Apart from rounding, a row's output does not depend on the other rows. Sharding also reads the attribute
        `model`, a torch module, and sets the attribute `device`.

Autoencoder(folder, *, dtype, device), in which a size is `num_frames`, `height`, `width`, in frames and pixels
    decode(latent) -> numpy uint8 (T', H', W', 3)
        The frames of one latent (1, C, T, H, W). It and `decode_part` make bytes of numbers with `eight_bits`.
    decode_part(latent, *, fresh) -> numpy uint8 (T', H', W', 3)
        The frames of the next latent frames of a video, or with `fresh` of its first ones. The parts, one after the
        other, are the frames that `decode` makes of the whole latent.
    encode_video(frames, height, width) -> numpy float32 (1, C, T, H, W)
        The latent of a clip, whose frames are PIL images that are first stretched to this size.
    encode_image(image, num_frames, height, width) -> numpy float32 (1, C, T, H, W)
        The latent of a PIL image, followed by empty frames. Needed unless `images` is "refused".
    image_channels(image, num_frames, height, width) -> numpy float32 (1, C', T, H, W)
        The channels in which the transformer sees a PIL image as the first frame. Needed if `image_to_video`.

ImageEncoder(folder, *, dtype, device), needed if `sees_image`
    __call__(image) -> numpy float32 (1, L, D)
        The embedding of a PIL image to which the transformer attends, in addition to the caption's.

A family whose folder has scheduler/scheduler_config.json gets the solver's noise schedule from there.
"""

import importlib
import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from huggingface_hub import snapshot_download

from raysearch.errors import ConfigError, check

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILIES = {"WanPipeline": "wan", "WanImageToVideoPipeline": "wan", "GaussianMixture": "mixture"}


# What one row is conditioned on besides its caption: clean first latent frames, a tensor (1, C, k, H, W); or what an
# image-to-video model sees of the first frame, a tuple of channels (1, C', T, H, W) and maybe an embedding (1, L, D).
Condition: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | None


def index(folder: Path) -> dict[str, Any]:
    """The content of the model's model_index.json. Raises OSError if the file cannot be read."""
    found: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return found


def family(folder: Path) -> Any:
    """The module of a model's family, as described above. Raises ConfigError for a folder of no known family."""
    check((folder / "model_index.json").is_file(), "model.path", str(folder), "a folder with a model_index.json")
    name = index(folder).get("_class_name")
    check(name in FAMILIES, "model.path", str(folder), f"a model of class {', '.join(FAMILIES)}, not {name}")
    return importlib.import_module(f"actors.models.{FAMILIES[str(name)]}")


def clean_frames(condition: Any) -> int:
    """The number of clean first latent frames that a condition, of tensors or of arrays, holds."""
    return 0 if condition is None or isinstance(condition, tuple) else int(condition.shape[2])


def with_clean_frames(latent: torch.Tensor, condition: Condition) -> torch.Tensor:
    """`latent`, (1, C, T, H, W), in which the condition's clean first frames, if it holds any, replace the first."""
    if not isinstance(condition, torch.Tensor):
        return latent
    return torch.cat([condition, latent[:, :, condition.shape[2] :]], 2)


def eight_bits(frames: np.ndarray) -> np.ndarray:
    """Decoded frames, in which 0 is black and 1 is white, as uint8; what is beyond is black or white.

    Raises FloatingPointError unless all are finite.
    """
    if not np.isfinite(frames).all():
        raise FloatingPointError("the decoded frames are not finite")
    return np.rint(frames.clip(0, 1) * 255).astype(np.uint8)


def model_folder(path: str) -> Path:
    """The checked folder of a model in diffusers' layout.

    `path` is a folder or a hub id; a hub id's files come from the local cache, else from the hub. Raises ConfigError.
    """
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
