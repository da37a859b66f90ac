"""The Wan family through diffusers' own classes, a part at a time: text encoder, transformer, autoencoder.

Every formula is WanPipeline's (and, for a first frame, that of WanImageToVideoPipeline with expand_timesteps), so that
a plain sample is bit for bit what the pipeline gives.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm, unpatchify
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, ByT5Tokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

from actors.models import DTYPES, Given, given_frames, index, with_first
from actors.workers import video
from raysearch.config.fleet import PoolConfig
from raysearch.errors import check

PARTS = ("transformer", "text_encoder", "tokenizer", "vae", "scheduler")
MORE = ("image_encoder", "image_processor")  # that some have
TOGETHER = 1024  # pixels of latent frames that are decoded in one pass


def check_folder(folder: Path, key: str) -> None:
    """Raises ConfigError unless the folder holds a Wan pipeline that raysearch can run."""
    for part in PARTS:
        check((folder / part).is_dir(), key, str(folder), f"a folder with {part}/ in it")
    check(index(folder).get("boundary_ratio") is None, key, str(folder), "a Wan pipeline with one transformer")
    g = Geometry.of(folder)
    fits = "one whose transformer takes latents, or latents, a mask and the first frame's latents"
    check(g.in_channels in (g.z_dim, 2 * g.z_dim + g.temporal), key, str(folder), fits)
    if g.sees_image:
        check((folder / "image_encoder").is_dir(), key, str(folder), "a folder with image_encoder/ in it")


class TextEncoder:
    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        tokenizer_class = {"ByT5Tokenizer": ByT5Tokenizer}.get(index(folder)["tokenizer"][1], AutoTokenizer)
        encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=DTYPES[dtype]).to(device).eval()
        self._pipeline = WanPipeline(
            tokenizer=tokenizer_class.from_pretrained(folder / "tokenizer"),
            text_encoder=encoder,
            vae=None,
            scheduler=None,
            transformer=None,
        )
        self._device = device

    @torch.no_grad()
    def __call__(self, text: str, length: int) -> np.ndarray:
        """Embeddings, float32 (1, length, dim), zero beyond the text."""
        embeddings, _ = self._pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=length, device=self._device
        )
        return embeddings.float().cpu().numpy()  # type: ignore[no-any-return]


class ImageEncoder:
    """What an image-to-video model's transformer attends to beside the caption."""

    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        part = folder / "image_encoder"
        self.model = CLIPVisionModel.from_pretrained(part, dtype=DTYPES[dtype]).to(device).eval()
        self._processor = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
        self._device = device

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> np.ndarray:
        """float32 (1, tokens, width)."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        return self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2].float().cpu().numpy()  # type: ignore[no-any-return]


class Transformer:
    """velocity(latent, timestep) under a condition; batches rows with their own timesteps."""

    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        self.dtype, self.device = DTYPES[dtype], device
        self.model = WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=self.dtype).to(device).eval()
        self.expand_timesteps = bool(index(folder).get("expand_timesteps", False))
        self._patch = self.model.config.patch_size

    @torch.no_grad()
    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, first: list[Given]
    ) -> torch.Tensor:
        """Velocities (B, C, T, H, W) of float32 latents.

        timesteps (B,), or one for each latent frame (B, T); text (B, length, dim); first: what each row is
        given.
        """
        return self.velocity(latents, timesteps, text, first)

    def velocity(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, first: list[Given]
    ) -> torch.Tensor:
        """The same with its gradient."""
        if self.expand_timesteps or timesteps.ndim == 2 or any(map(given_frames, first)):
            timesteps = per_token(timesteps, latents, self._patch, [given_frames(f) for f in first])
            latents = torch.cat([with_first(x, f) for x, f in zip(latents.split(1), first, strict=True)])
        seen = [torch.cat(parts) for parts in zip(*(f for f in first if isinstance(f, tuple)), strict=True)]
        if seen:
            latents = torch.cat([latents, seen[0]], 1)
        return self.model(
            hidden_states=latents.to(self.dtype),
            timestep=timesteps,
            encoder_hidden_states=text,
            encoder_hidden_states_image=seen[1].to(self.dtype) if len(seen) > 1 else None,
            return_dict=False,
        )[0]  # type: ignore[no-any-return]


def per_token(
    timesteps: torch.Tensor, latents: torch.Tensor, patch: Sequence[int], given: Sequence[int] | torch.Tensor
) -> torch.Tensor:
    """Timesteps (B, tokens) of latents (B, C, T, H, W), from (B,) or (B, T): 0 in the first frames of a row, as many
    as are given (B,)."""
    _, p_h, p_w = patch
    n, _, frames, height, width = latents.shape
    given = torch.as_tensor(given, device=latents.device)
    asked = torch.arange(frames, device=latents.device) >= given[:, None]
    mask = asked[:, :, None, None].expand(n, frames, height, width).float()
    by_frame = timesteps if timesteps.ndim == 2 else timesteps[:, None]
    return (mask[:, :, ::p_h, ::p_w] * by_frame[:, :, None, None]).flatten(1)


@dataclass(frozen=True)
class Geometry:
    """How a model's latents relate to videos, from its config files alone."""

    in_channels: int  # of the transformer
    z_dim: int  # of the autoencoder
    temporal: int
    spatial: int
    patch: tuple[int, int]
    heads: int
    text_dim: int
    sees_image: bool = False  # its transformer attends to an embedding of the first frame
    path: str = "flow"

    @property
    def pictured(self) -> bool:
        """It makes videos of a first frame only, which it sees beside the latents."""
        return self.in_channels != self.z_dim

    @property
    def images(self) -> str:
        return "required" if self.pictured else "allowed"

    @property
    def per_frame(self) -> bool:
        """It takes a noise level for each latent frame."""
        return not self.pictured

    @classmethod
    def of(cls, folder: Path) -> "Geometry":
        vae = json.loads((folder / "vae" / "config.json").read_text())
        transformer = json.loads((folder / "transformer" / "config.json").read_text())
        _, p_h, p_w = transformer["patch_size"]
        factors = vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)
        heads, text_dim = transformer.get("num_attention_heads", 40), transformer.get("text_dim", 4096)
        channels, sees = (transformer["in_channels"], vae.get("z_dim", 16)), transformer.get("image_dim") is not None
        return cls(*channels, *factors, (p_h, p_w), heads, text_dim, sees)

    def check(self, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError for a size that the model cannot make."""
        for key, value, unit in (("height", height, self.patch[0]), ("width", width, self.patch[1])):
            unit *= self.spatial
            check(value % unit == 0, f"model.{key}", value, f"a multiple of {unit} for this model")
        held = num_frames % self.temporal == 1 % self.temporal
        check(held, "model.num_frames", num_frames, f"1 plus a multiple of {self.temporal}")

    def check_shards(self, pool: PoolConfig, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError unless heads and tokens can be shared out evenly."""
        n = pool.context_shards
        _, _, frames, h, w = self.latent_shape(num_frames=num_frames, height=height, width=width)
        tokens = frames * (h // self.patch[0]) * (w // self.patch[1])
        fits = f"such that {n} context shards divide the model's {self.heads} heads and a video's {tokens} tokens"
        check(self.heads % n == 0 and tokens % n == 0, "fleet.denoisers.shards", pool.shards, fits)

    def frames(self, latent_frames: int) -> int:
        """How many frames so many latent ones are."""
        return 1 + self.temporal * (latent_frames - 1)

    def latent_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """(1, C, T, H, W) of a video's latent."""
        frames = (num_frames - 1) // self.temporal + 1
        return 1, self.z_dim, frames, height // self.spatial, width // self.spatial


def hasten(decoder: nn.Module) -> None:
    """The same sums in another order, on a CPU: for one small clip torch's own take thrice as long."""
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
    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        self.vae = AutoencoderKLWan.from_pretrained(folder / "vae", dtype=DTYPES[dtype]).to(device).eval()
        if device == "cpu":
            hasten(self.vae.decoder)
        self._device = device
        self._processor = VideoProcessor(vae_scale_factor=self.vae.config.scale_factor_spatial)

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape, like = (1, self.vae.config.z_dim, 1, 1, 1), {"device": self._device, "dtype": self.vae.dtype}
        mean = torch.tensor(self.vae.config.latents_mean).view(shape).to(**like)
        return mean, 1.0 / torch.tensor(self.vae.config.latents_std).view(shape).to(**like)

    def decode(self, latent: torch.Tensor) -> np.ndarray:
        """float32 (1, C, T, H, W) -> frames, uint8 (T, H, W, 3)."""
        return self.decode_on(latent, fresh=True)

    @torch.no_grad()
    def decode_on(self, latent: torch.Tensor, *, fresh: bool) -> np.ndarray:
        """The same in parts, which together are what `decode` makes of all at once: `fresh` begins a video.

        The causal cache of the decoder is carried from part to part; nothing else may be decoded in between.
        """
        if fresh:
            self.vae.clear_cache()
        x = self.vae.post_quant_conv(self._scaled(latent))
        # A video's first latent frame goes alone; others go together while their activations are small.
        together = max(TOGETHER // (x.shape[3] * x.shape[4]), 1)
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
        return self._pictures(video.clamp(-1, 1))

    def _scaled(self, latent: torch.Tensor) -> torch.Tensor:
        mean, inverse_std = self._statistics()
        return latent.to(self._device, self.vae.dtype) / inverse_std + mean

    def _pictures(self, video: torch.Tensor) -> np.ndarray:
        return np.rint(self._processor.postprocess_video(video, output_type="np")[0] * 255).astype(np.uint8)

    @torch.no_grad()
    def encode_image(self, image: Image.Image, num_frames: int, height: int, width: int) -> np.ndarray:
        """A picture -> the latent of a first frame, float32 (1, C, 1, H, W), or of a clip that is empty after it."""
        pixels = self._processor.preprocess(image, height=height, width=width).to(self._device, self.vae.dtype)
        clip = F.pad(pixels.unsqueeze(2), (0, 0, 0, 0, 0, num_frames - 1))
        mean, inverse_std = self._statistics()
        latent = (self.vae.encode(clip).latent_dist.mode() - mean) * inverse_std
        return latent.float().cpu().numpy()  # type: ignore[no-any-return]

    def condition(self, image: Image.Image, num_frames: int, height: int, width: int) -> np.ndarray:
        """What an image-to-video model sees of its first frame, float32 (1, 4 + C, T, H, W): where it is, and it."""
        latent = self.encode_image(image, num_frames, height, width)
        mask = np.zeros((1, self.vae.config.scale_factor_temporal, *latent.shape[2:]), np.float32)
        mask[:, :, 0] = 1
        return np.concatenate([mask, latent], 1)

    @torch.no_grad()
    def encode_video(self, frames: np.ndarray, num_frames: int, height: int, width: int) -> np.ndarray:
        """Frames, uint8 (T, H, W, 3), fitted to a size -> their latent, float32 (1, C, T', H', W')."""
        frames = video.fitted(frames, num_frames=num_frames, height=height, width=width)
        pixels = torch.tensor(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        mean, inverse_std = self._statistics()
        moments = self.vae.encode(pixels.to(self._device, self.vae.dtype)).latent_dist
        return ((moments.mode() - mean) * inverse_std).float().cpu().numpy()  # type: ignore[no-any-return]
