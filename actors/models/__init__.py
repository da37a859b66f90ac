"""Model families, one module each. A model is a folder, and the class in its model_index.json says its family.

A new family is a module in this folder and a line in `FAMILIES`. The module has the names below; the letters of shapes
are in `actors/__init__.py`. The four parts are classes, and each worker builds only the parts that it needs, so a part
reads no other part's files. `source` is an `actors.models.source.Source`: the folder, and how its parts are loaded.

check_folder(folder, key) -> None
    Raises ConfigError, which names the config's `key`, unless the module can run the model in the folder. Its files
    have been checked before: `folder` and `weights` have what is the same for all families.

token_counter(folder) -> a function (text) -> int
    Counts the tokens of a text as the text encoder reads it, so that a caption is not cut unnoticed.

Geometry.of(folder) -> Geometry, a frozen dataclass: facts from config files alone; no weights are read.
    path: str               "flow" (x = (1 - sigma) x0 + sigma noise) or "vp" (x = sqrt(1 - sigma^2) x0 + sigma noise)
    text_dim: int | None    D of a caption's embedding, for rewards that read one; None if any D will do
    per_frame: bool         True if the transformer takes a noise level for each latent frame, which a queue needs
    fps: int                frames a second of the model's videos
    images: str             first frames are "allowed", "required" or "refused"
    image_to_video: bool    True if the transformer sees the first frame in channels of their own
    caches: tuple[str, ...] the kinds of step caches (raysearch.config.step_cache) that its drafts can have
    sees_image: bool        True if the transformer attends to an ImageEncoder's embedding, too; only of image_to_video
    check(*, num_frames, height, width) -> None
        Raises ConfigError for a size of video, in frames and pixels, that the model cannot make.
    check_shards(pool, *, num_frames, height, width) -> None
        Raises ConfigError if the denoisers' `PoolConfig` shards the model in a way that does not fit.
    latent_shape(*, num_frames, height, width) -> tuple
        The shape (1, C, T, H, W) of the latent of a video of this size.
    video_shape(*, num_frames, height, width) -> tuple
        The shape (T, H, W, 3) of the frames of a video of this size.
    frames(latent_frames) -> int
        How many frames a video with so many latent frames has.

TextEncoder(source)
    __call__(text, length) -> numpy float32 (1, L, D)
        The embedding of a caption of at most `length` tokens; L is the same for all captions.

Transformer(source), whose attribute `dtype` is the torch.dtype of embeddings and outputs.
    __call__(latents, timesteps, text, conditions) -> tensor (B, C, T, H, W), without gradient
        The model's output: with `path` "flow" the velocity, noise - x0; with "vp" the noise. `latents` are float32
        (B, C, T, H, W). `timesteps` are the solver's, (B,), which for a flow are 1000 sigma; if `per_frame` also
        (B, T), with 0 for clean frames. `text` is (B, L, D) in `dtype`. `conditions` has one `Condition` for each row.
        Apart from rounding, a row's output does not depend on the other rows. Sharding also reads the attribute
        `model`, a torch module, and sets the attribute `device`.
    remembering(timesteps, memories) -> context
        Within, rows run their first block and maybe no other, as `actors.sampling.caches.Blocks` says. Needed if
        `caches` has "first_block".

Autoencoder(source), in which a size is `num_frames`, `height`, `width`, in frames and pixels
    decode(latent) -> numpy uint8 (T', H', W', 3)
        The frames of one latent (1, C, T, H, W). It and `decode_part` make bytes with `frames.eight_bits`.
    decode_rows(latents) -> a list of N numpy arrays
        What `decode` makes of each of the latents (N, C, T, H, W), which may be decoded together.
    decode_part(latent, *, fresh) -> numpy uint8 (T', H', W', 3)
        The frames of the next latent frames of a video, or with `fresh` of its first ones. The parts, one after the
        other, are the frames that `decode` makes of the whole latent.
    encode_video(frames, height, width) -> numpy float32 (1, C, T, H, W)
        The latent of a clip, whose frames are PIL images that are first stretched to this size.
    encode_image(image, num_frames, height, width) -> numpy float32 (1, C, T, H, W)
        The latent of a PIL image, followed by empty frames. Needed unless `images` is "refused".
    image_channels(image, num_frames, height, width) -> numpy float32 (1, C', T, H, W)
        The channels in which the transformer sees a PIL image as the first frame. Needed if `image_to_video`.

Preview(source), a small decoder for looks alone, where the family has such decoders
    decode_rows(latents) -> a list of N numpy arrays
        As that of `Autoencoder`.

ImageEncoder(source), needed if `sees_image`
    __call__(image) -> numpy float32 (1, L, D)
        The embedding of a PIL image to which the transformer attends, in addition to the caption's.

The family `pipelines` runs whole pipelines with their own solvers. It has `Conditioner`, `Runs` and `Decoder` in place
of the four parts, and its Geometry's `path` is "own". All other pipelines of diffusers are of this family.

A family whose folder has scheduler/scheduler_config.json gets the solver's noise schedule from there.
"""

from collections.abc import Collection
from pathlib import Path

from actors.models import folder as folders
from actors.models import hub
from raysearch.errors import check

FAMILIES = {"WanPipeline": "wan", "WanImageToVideoPipeline": "wan", "GaussianMixture": "mixture"}
PARTS = {"wan": ("transformer", "text_encoder", "tokenizer", "vae", "scheduler")}  # that a family cannot do without


def family_name(folder: Path, key: str = "model.path", *, own: bool = False) -> str:
    """The name of the module of a model's family. Raises ConfigError for a folder of no known family.

    With `own` a pipeline of diffusers is run as it is, also where its class has a family.
    """
    name = folders.index(folder, key).get("_class_name")
    if isinstance(name, str) and name in FAMILIES and not (own and name.endswith("Pipeline")):
        return FAMILIES[name]
    pipeline = isinstance(name, str) and name.endswith("Pipeline")
    allowed = f"a model of class {', '.join(FAMILIES)}, or a pipeline of diffusers, not {name}"
    check(pipeline, key, str(folder), allowed)
    return "pipelines"


def found(
    path: str, key: str = "model.path", variant: str | None = None, bare: Collection[str] = (), *, own: bool = False
) -> Path:
    """The folder of a model, checked as far as that takes no torch. Raises ConfigError, which names `key`.

    `path` is a folder or a hub id, `org/name` or `org/name@revision`; a hub id's files come from the local cache, else
    from the hub. The weights of the parts that are `bare` are not the folder's.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() and hub.is_id(path):
        folder = hub.fetched(path, key, bare)
    check(folder.is_dir(), key, path, "an existing folder in diffusers' layout")
    folders.check_folder(folder, key, variant, PARTS.get(family_name(folder, key, own=own), ()), bare)
    return folder
