"""The Wan family: the parts of diffusers' Wan pipelines, each loaded alone by the worker that needs it.

Every formula is WanPipeline's, or WanImageToVideoPipeline's for a first frame, so that a plain sample is bit for bit
the pipeline's.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm, unpatchify
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, ByT5Tokenizer, CLIPImageProcessorPil

from actors.models import folder as folders
from actors.models.condition import Condition, clean_frames, with_clean_frames
from actors.models.first_block import remembering
from actors.models.folder import index
from actors.models.frames import TOGETHER, eight_bits
from actors.models.source import Source
from actors.models.taehv import Preview as Preview
from actors.models.weights import DTYPES, pretrained
from actors.sampling.caches import Blocks
from raysearch.config import step_cache
from raysearch.config.fleet import PoolConfig
from raysearch.config.numbers import finite
from raysearch.errors import ConfigError, check, told

KINDS = {  # the classes of the parts that are called by more than the pipeline's own code
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "text_encoder": "UMT5EncoderModel",
    "vae": "AutoencoderKLWan",
    "image_encoder": "CLIPVisionModel",
}
FPS = {16: 16, 48: 24}  # of Wan 2.1 and of Wan 2.2 5B, by the channels of their latents


def check_folder(folder: Path, key: str) -> None:
    """Raises ConfigError, which names `key`, unless the folder holds a Wan pipeline that raysearch can run."""
    parts, boundary = folders.parts(folder, key), index(folder).get("boundary_ratio")
    fits = "one whose boundary_ratio is a number in 0..1, and which has a transformer_2, or has neither"
    within = finite(boundary) and 0 <= float(boundary or 0) <= 1
    known = within if "transformer_2" in parts else boundary is None
    check(known, key, str(folder), fits)
    for name, kind in KINDS.items():
        fits = f"one whose {name} is a {kind}"
        check(name not in parts or parts[name].kind == kind, key, str(folder), fits)
    try:
        g = Geometry.of(folder)
        if not all(type(n) is int and n >= 1 for n in (*astuple(g)[:4], *g.patch, g.heads, g.text_dim)):
            raise ValueError(f"a size is no whole number above 0 in {g}")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{key}: the configs in {str(folder)!r} describe no Wan model: {error!r}") from error
    vae = parts["vae"].config
    halvings = len(vae.get("dim_mult", [1, 2, 4, 4])) - 1
    in_time = sum(vae.get("temperal_downsample", [False, True, True])[:halvings])
    made = 2**in_time, 2**halvings * (vae.get("patch_size") or 1)
    fits = f"a file whose scale_factor_temporal and scale_factor_spatial are what its layers make, {made}"
    check((g.temporal, g.spatial) == made, key, str(parts["vae"].config_file), fits)
    mean, std = vae.get("latents_mean", [0.0] * 16), vae.get("latents_std", [1.0] * 16)  # as many as Wan 2.1 has
    known = all(isinstance(n, list) and len(n) == g.z_dim and all(map(finite, n)) for n in (mean, std))
    fits = f"a file with z_dim={g.z_dim} finite latents_mean and latents_std, and these above 0"
    check(known and min(std) > 0, key, str(parts["vae"].config_file), fits)
    try:
        red, blue = (tokenizer(folder)(text).input_ids for text in ("red", "blue"))
    except Exception as error:  # the library's errors have no common type
        raise ConfigError(f"{key}: the tokenizer in {str(folder)!r} cannot be read: {told(error)}") from error
    vocabulary = parts["text_encoder"].config.get("vocab_size", 0)
    known = red != blue and max(red + blue) < vocabulary
    fits = f"one whose tokenizer knows words, as numbers below the text encoder's vocab_size={vocabulary}"
    check(known, key, str(folder), fits)
    fits = "one whose transformer takes latents, or latents, a mask and the first frame's latents"
    check(g.in_channels in (g.z_dim, 2 * g.z_dim + g.temporal), key, str(folder), fits)
    for size in ("in_channels", "out_channels", "patch_size", "text_dim", "image_dim") if g.experts == 2 else ():
        one, two = (parts[name].config.get(size) for name in ("transformer", "transformer_2"))
        check(one == two, key, str(folder), f"one whose transformers have the same {size}, not {one} and {two}")
    if g.sees_image:
        both = {"image_encoder", "image_processor"} <= parts.keys()
        check(both, key, str(folder), f"one whose {folders.INDEX} names image_encoder and image_processor")


def tokenizer(folder: Path) -> Any:
    """The tokenizer of the model in a folder."""
    kind = folders.parts(folder)["tokenizer"].kind
    return pretrained({"ByT5Tokenizer": ByT5Tokenizer}.get(kind, AutoTokenizer), folder / "tokenizer")


def token_counter(folder: Path) -> Callable[[str], int]:
    """A function that counts the tokens of a text as the pipeline reads it."""
    split = tokenizer(folder)
    return lambda text: len(split(prompt_clean(text)).input_ids)


class TextEncoder:
    """Wan's tokenizer and UMT5 encoder."""

    def __init__(self, source: Source) -> None:
        self._pipeline = WanPipeline(
            tokenizer=tokenizer(source.folder),
            text_encoder=source.net("text_encoder"),
            vae=None,
            scheduler=None,
            transformer=None,
        )
        self._device = source.device

    @torch.no_grad()
    def __call__(self, text: str, length: int) -> np.ndarray:
        """The embedding of a text, float32 (1, L, D), padded with zeros or cut to L = `length` tokens."""
        embeddings, _ = self._pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=length, device=self._device
        )
        return embeddings.float().cpu().numpy()  # type: ignore[no-any-return]


class ImageEncoder:
    """The CLIP encoder of image-to-video models; their transformers attend to its embedding and the caption's."""

    def __init__(self, source: Source) -> None:
        self.model = source.net("image_encoder")
        self._processor = pretrained(CLIPImageProcessorPil, source.folder / "image_processor")
        self._device = source.device

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> np.ndarray:
        """The embedding of a picture, float32 (1, L, D)."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        return self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2].float().cpu().numpy()  # type: ignore[no-any-return]


class Transformer:
    """Wan's transformer on a batch whose rows have their own timesteps, captions and conditions.

    Wan 2.2 A14B has two, its experts: one for the timesteps from a boundary on, and one for those below.
    """

    def __init__(self, source: Source) -> None:
        self.dtype, self.device = DTYPES[source.dtype_of("transformer")], source.device
        self.model = source.net("transformer")
        ratio = index(source.folder).get("boundary_ratio")
        self._second = None if ratio is None else source.net("transformer_2")
        self._second_dtype = DTYPES[source.dtype_of("transformer_2")]
        trained = folders.parts(source.folder)["scheduler"].config.get("num_train_timesteps", 1000)
        self._boundary = 0.0 if ratio is None else ratio * trained
        self.expand_timesteps = bool(index(source.folder).get("expand_timesteps", False))
        self._patch = self.model.config.patch_size

    def expert(self, timestep: torch.Tensor) -> int:
        """The number of the expert for a timestep: 0, or 1 below the boundary."""
        return int(self._second is not None and bool(timestep < self._boundary))

    @torch.no_grad()
    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, conditions: Sequence[Condition]
    ) -> torch.Tensor:
        """Velocities (B, C, T, H, W) of float32 latents of the same shape, without gradient.

        `timesteps` is (B,), or (B, T) with one for each latent frame; `text` (B, L, D); `conditions` has one for each
        row. The conditions of an image-to-video model must be tuples of one shape, and all timesteps be of one expert.
        """
        return self.velocity(latents, timesteps, text, conditions)

    def remembering(self, timesteps: torch.Tensor, memories: Sequence[Blocks]) -> AbstractContextManager[None]:
        """A context in which calls at these timesteps leave out blocks, as each row's memory says."""
        return remembering(self._net(timesteps), memories)

    def _net(self, timesteps: torch.Tensor) -> Any:
        """The expert for timesteps, which are all of one."""
        return self._second if self._second is not None and self.expert(timesteps[0]) else self.model

    def velocity(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, conditions: Sequence[Condition]
    ) -> torch.Tensor:
        """The velocities of `__call__`, with gradient."""
        net = self._net(timesteps)
        dtype = self.dtype if net is self.model else self._second_dtype
        clean = [clean_frames(c) for c in conditions]
        if self.expand_timesteps or timesteps.ndim == 2 or any(clean):
            timesteps = per_token(timesteps, latents, self._patch, clean)
            rows = zip(latents.split(1), conditions, strict=True)
            latents = torch.cat([with_clean_frames(x, c) for x, c in rows])
        seen = [torch.cat(parts) for parts in zip(*(c for c in conditions if isinstance(c, tuple)), strict=True)]
        if seen:
            latents = torch.cat([latents, seen[0]], 1)
        return net(
            hidden_states=latents.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=text.to(dtype),
            encoder_hidden_states_image=seen[1].to(dtype) if len(seen) > 1 else None,
            return_dict=False,
        )[0].to(self.dtype)  # type: ignore[no-any-return]


def per_token(
    timesteps: torch.Tensor, latents: torch.Tensor, patch: Sequence[int], clean: Sequence[int] | torch.Tensor
) -> torch.Tensor:
    """A timestep for each token, (B, L), from `timesteps`, (B,) or (B, T), of latents (B, C, T, H, W).

    `patch` is the size of a token in latent frames, rows and columns; `clean`, (B,), is the number of a row's clean
    first frames, whose tokens get timestep 0.
    """
    _, p_h, p_w = patch
    n, _, frames, height, width = latents.shape
    clean = torch.as_tensor(clean, device=latents.device)
    noisy = torch.arange(frames, device=latents.device) >= clean[:, None]
    mask = noisy[:, :, None, None].expand(n, frames, height, width).float()
    by_frame = timesteps if timesteps.ndim == 2 else timesteps[:, None]
    return (mask[:, :, ::p_h, ::p_w] * by_frame[:, :, None, None]).flatten(1)


@dataclass(frozen=True)
class Geometry:
    """The facts about a Wan model that `actors.models` lists, and how latents relate to videos, from config files."""

    in_channels: int  # channels of the transformer's input
    z_dim: int  # channels C of a latent
    temporal: int  # frames for each latent frame after the first
    spatial: int  # pixels for each row or column of a latent
    patch: tuple[int, int]  # rows and columns of a latent in one token
    heads: int
    text_dim: int
    sees_image: bool = False  # True if the transformer attends to an embedding of the first frame
    experts: int = 1  # transformers, each for timesteps of its own
    path: str = "flow"
    caches: tuple[str, ...] = tuple(step_cache.KINDS)

    @property
    def image_to_video(self) -> bool:
        """True for an image-to-video model, whose transformer sees the first frame in channels of their own."""
        return self.in_channels != self.z_dim

    @property
    def images(self) -> str:
        """Whether a prompt may have a first frame: "required", "allowed" or "refused"."""
        return "required" if self.image_to_video else "allowed" if self.per_frame else "refused"

    @property
    def fps(self) -> int:
        """Frames a second of the model's videos."""
        return FPS.get(self.z_dim, 8)

    @property
    def per_frame(self) -> bool:
        """True if the transformer takes a noise level for each latent frame."""
        return not self.image_to_video and self.experts == 1

    @staticmethod
    def sizes(transformer: dict[str, Any]) -> tuple[Any, ...]:
        """The fields `in_channels`, `patch`, `heads`, `text_dim` and `sees_image`, from a transformer's config."""
        _, p_h, p_w = transformer["patch_size"]
        heads, text_dim = transformer.get("num_attention_heads", 40), transformer.get("text_dim", 4096)
        return transformer["in_channels"], (p_h, p_w), heads, text_dim, transformer.get("image_dim") is not None

    @classmethod
    def of(cls, folder: Path) -> "Geometry":
        """The geometry of the model in a folder. Raises OSError or KeyError if config is missing."""
        vae = json.loads((folder / "vae" / "config.json").read_text())
        transformer = json.loads((folder / "transformer" / "config.json").read_text())
        factors = vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)
        channels, patch, heads, text_dim, sees = cls.sizes(transformer)
        experts = 1 if index(folder).get("boundary_ratio") is None else 2
        return cls(channels, vae.get("z_dim", 16), *factors, patch, heads, text_dim, sees, experts)

    def check(self, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError for a size, in frames and pixels, that the model cannot make."""
        for key, value, unit in (("height", height, self.patch[0]), ("width", width, self.patch[1])):
            unit *= self.spatial
            check(value % unit == 0, f"model.{key}", value, f"a multiple of {unit} for this model")
        held = num_frames % self.temporal == 1 % self.temporal
        check(held, "model.num_frames", num_frames, f"1 plus a multiple of {self.temporal}")

    def check_shards(self, pool: PoolConfig, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError unless each context shard gets as many heads and as many tokens as the others."""
        n = pool.context_shards
        check(pool.shards == 1 or self.experts == 1, "fleet.denoisers.shards", pool.shards, "1 with two transformers")
        _, _, frames, h, w = self.latent_shape(num_frames=num_frames, height=height, width=width)
        tokens = frames * (h // self.patch[0]) * (w // self.patch[1])
        fits = f"such that {n} context shards divide the model's {self.heads} heads and a video's {tokens} tokens"
        check(self.heads % n == 0 and tokens % n == 0, "fleet.denoisers.shards", pool.shards, fits)

    def frames(self, latent_frames: int) -> int:
        """The number of frames that so many latent frames decode to."""
        return 1 + self.temporal * (latent_frames - 1)

    def video_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape (T, H, W, 3) of the frames of a video of this size."""
        return num_frames, height, width, 3

    def latent_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape (1, C, T, H, W) of the latent of a video of this size, in frames and pixels."""
        frames = (num_frames - 1) // self.temporal + 1
        return 1, self.z_dim, frames, height // self.spatial, width // self.spatial


def hasten(decoder: nn.Module) -> None:
    """Replace a decoder's convolutions and norms by faster ones for CPUs, which sum in another order.

    With torch's own, decoding one small clip takes three times as long.
    """
    for module in decoder.modules():
        if isinstance(module, nn.Conv3d):
            module._conv_forward = partial(_onednn, module)  # type: ignore[method-assign]
        elif isinstance(module, WanRMS_norm) and module.channel_first:
            module.forward = partial(_rms_norm, module)


def _onednn(conv: nn.Conv3d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, *geometry)


def _rms_norm(norm: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    length = x.float().square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    return (x / length).to(x.dtype) * norm.scale * norm.gamma + norm.bias


class Autoencoder:
    """Wan's causal video autoencoder; the methods take and return latents in the transformer's scale."""

    def __init__(self, source: Source) -> None:
        self.vae = source.net("vae")
        if source.device == "cpu":
            hasten(self.vae.decoder)
        self._device = source.device
        self._processor = VideoProcessor(vae_scale_factor=self.vae.config.scale_factor_spatial)

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape, like = (1, self.vae.config.z_dim, 1, 1, 1), {"device": self._device, "dtype": self.vae.dtype}
        mean = torch.tensor(self.vae.config.latents_mean).view(shape).to(**like)
        return mean, 1.0 / torch.tensor(self.vae.config.latents_std).view(shape).to(**like)

    def decode(self, latent: torch.Tensor) -> np.ndarray:
        """The frames, uint8 (T', H', W', 3), of a latent, float32 (1, C, T, H, W)."""
        return self.decode_part(latent, fresh=True)

    def decode_rows(self, latents: torch.Tensor) -> list[np.ndarray]:
        """The frames of several latents, (N, C, T, H, W), decoded together while these are small: see `decode`."""
        rows = max(TOGETHER // (latents.shape[3] * latents.shape[4]), 1)
        return [clip for part in latents.split(rows) for clip in self._decoded(part, fresh=True)]

    def decode_part(self, latent: torch.Tensor, *, fresh: bool) -> np.ndarray:
        """The frames, uint8 (T', H', W', 3), of the next latent frames of a video; with `fresh` of its first ones.

        The frames of all parts are those that `decode` makes of the whole latent. The decoder's causal cache is carried
        from part to part, so no other video may be decoded in between.
        """
        return self._decoded(latent, fresh=fresh)[0]

    @torch.no_grad()
    def _decoded(self, latent: torch.Tensor, *, fresh: bool) -> np.ndarray:
        """The frames, uint8 (N, T', H', W', 3), of the next latent frames of N videos."""
        if fresh:
            self.vae.clear_cache()
        if self.vae.use_tiling:
            assert fresh  # tiles know no frames before: `raysearch.config` refuses them in such videos
            pixels = self.vae.decode(self._scaled(latent), return_dict=False)[0]
            return eight_bits((pixels.permute(0, 2, 3, 4, 1) * 0.5 + 0.5).float())
        x = self.vae.post_quant_conv(self._scaled(latent))
        # A video's first latent frame goes alone; others go together while their activations are small.
        together = max(TOGETHER // (len(x) * x.shape[3] * x.shape[4]), 1)
        alone = int(fresh)
        starts = [*range(alone), *range(alone, x.shape[2], together)]
        parts = []
        for start, stop in pairwise([*starts, x.shape[2]]):
            self.vae._conv_idx = [0]
            cache = {"feat_cache": self.vae._feat_map, "feat_idx": self.vae._conv_idx}
            parts.append(self.vae.decoder(x[:, :, start:stop], **cache, first_chunk=fresh and start == 0))
        video = torch.cat(parts, 2)
        if self.vae.config.patch_size is not None:
            video = unpatchify(video, patch_size=self.vae.config.patch_size)
        return eight_bits((video.permute(0, 2, 3, 4, 1) * 0.5 + 0.5).float())

    def _scaled(self, latent: torch.Tensor) -> torch.Tensor:
        mean, inverse_std = self._statistics()
        return latent.to(self._device, self.vae.dtype) / inverse_std + mean

    @torch.no_grad()
    def encode_image(self, image: Image.Image, num_frames: int, height: int, width: int) -> np.ndarray:
        """The latent, float32 (1, C, T, H, W), of a clip that begins with the picture and is empty after it."""
        pixels = self._processor.preprocess(image, height=height, width=width).to(self._device, self.vae.dtype)
        clip = F.pad(pixels.unsqueeze(2), (0, 0, 0, 0, 0, num_frames - 1))
        mean, inverse_std = self._statistics()
        latent = (self.vae.encode(clip).latent_dist.mode() - mean) * inverse_std
        return latent.float().cpu().numpy()  # type: ignore[no-any-return]

    def image_channels(self, image: Image.Image, num_frames: int, height: int, width: int) -> np.ndarray:
        """The channels in which an image-to-video model sees its first frame, float32 (1, temporal + C, T, H, W).

        They are a mask, 1 in the first latent frame and 0 after it, and the latent of `encode_image`.
        """
        latent = self.encode_image(image, num_frames, height, width)
        mask = np.zeros((1, self.vae.config.scale_factor_temporal, *latent.shape[2:]), np.float32)
        mask[:, :, 0] = 1
        return np.concatenate([mask, latent], 1)

    @torch.no_grad()
    def encode_video(self, frames: Iterable[Image.Image], height: int, width: int) -> np.ndarray:
        """The latent, float32 (1, C, T, H, W), of frames that are stretched to a size."""
        size = (width, height)
        fitted = np.stack([np.asarray(frame.resize(size, Image.Resampling.LANCZOS)) for frame in frames])
        pixels = torch.tensor(fitted).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        mean, inverse_std = self._statistics()
        moments = self.vae.encode(pixels.to(self._device, self.vae.dtype)).latent_dist
        return ((moments.mode() - mean) * inverse_std).float().cpu().numpy()  # type: ignore[no-any-return]
