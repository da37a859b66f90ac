"""PAVRM (Mi et al., "Video Generation Models Are Good Latent Reward Models"): the video model scores its own latents.

The noisy latent, its timestep and the caption's embedding go through a fine-tuned copy of the model's first blocks. One
learned query attends to the tokens, with eight heads; the query is added to the result, and an MLP scores the sum.
Shapes: see `actors/__init__.py`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from actors.models.source import Source
from actors.models.wan import per_token
from actors.models.weights import DTYPES
from actors.rewards import checkpoint
from raysearch.config.binding import bind, coerce
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

ASSETS = Path(__file__).parents[1] / "assets" / "pavrm"
ARCHITECTURE = "pavrm"
COMPONENTS = ("VQ", "MQ", "TA")


@dataclass(frozen=True, kw_only=True)
class PavrmConfig:
    """The sizes of a `PavrmNet`, as its config.json has them."""

    transformer: dict[str, Any]  # the config of a `WanTransformer3DModel` with only the blocks that are used
    heads: int = 8  # of the query's attention
    widths: tuple[int, ...] = (1024, 512)  # of the MLP's hidden layers
    components: tuple[str, ...] = COMPONENTS


class AttentionPool(nn.Module):
    """Attention of one learned query to tokens (B, L, D); its output with the query added, (B, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The pooled tokens, (B, D)."""
        query = self.query.expand(len(tokens), -1, -1)
        return (query + self.attention(query, tokens, tokens, need_weights=False)[0])[:, 0]


class PavrmNet(nn.Module):
    """Scores (B, components) of noisy latents; `transformer` is used as it is, or built untrained from the config."""

    def __init__(self, config: PavrmConfig, transformer: WanTransformer3DModel | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.transformer = transformer or WanTransformer3DModel.from_config(c.transformer)
        # The model's own last layer is kept, but nothing reads its output: it learns nothing.
        self.transformer.proj_out.requires_grad_(False)
        self.transformer.scale_shift_table.requires_grad_(False)
        width = self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim
        self.pool = AttentionPool(width, c.heads)
        sizes = (width, *c.widths)
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*layers, nn.Linear(sizes[-1], len(c.components)))

    def features(
        self, latents: torch.Tensor, sigmas: torch.Tensor, text: torch.Tensor, first: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Tokens (B, L, D) after each block.

        latents are (B, C, T, H, W), sigmas (B,) in [0, 1], text, the captions' embeddings, (B, L, D); `first` (B,) says
        how many of a latent's first frames are given and clean.
        """
        timesteps = 1000 * sigmas
        if first is not None and first.any():
            timesteps = per_token(timesteps, latents, self.transformer.config.patch_size, first)
        tokens: list[torch.Tensor] = []
        hooks = [b.register_forward_hook(partial(_keep, tokens)) for b in self.transformer.blocks]
        try:
            dtype = self.transformer.dtype
            self.transformer(latents.to(dtype), timesteps, text.to(dtype), return_dict=False)
        finally:
            for hook in hooks:
                hook.remove()
        return tokens[: len(hooks)]

    def forward(
        self, latents: torch.Tensor, sigmas: torch.Tensor, text: torch.Tensor, first: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores (B, components); the arguments are those of `features`."""
        return self.mlp(self.pool(self.features(latents, sigmas, text, first)[-1]))


def _keep(tokens: list[torch.Tensor], _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
    tokens.append(output)


def check_model(folder: Path, blocks: int, heads: int) -> dict[str, Any]:
    """The config of a Wan model's transformer.

    Raises ConfigError if it has fewer than `blocks` blocks, or if `heads` does not divide its width.
    """
    found: dict[str, Any] = WanTransformer3DModel.load_config(folder / "transformer")
    has, width = found["num_layers"], found["num_attention_heads"] * found["attention_head_dim"]
    check(1 <= blocks <= has, "reward.blocks", blocks, f"from 1 to {has}, the blocks of {folder}")
    check(heads >= 1 and width % heads == 0, "reward.heads", heads, f"a divisor of the model's width {width}")
    return found


def of_model(
    folder: Path,
    *,
    blocks: int,
    heads: int = 8,
    widths: Sequence[int] = (1024, 512),
    components: Sequence[str] = COMPONENTS,
) -> PavrmNet:
    """An untrained PAVRM over the first `blocks` blocks of a Wan model's folder. Raises ConfigError."""
    check_model(folder, blocks, heads)
    transformer = Source(folder).net("transformer")
    transformer.blocks = transformer.blocks[:blocks]
    transformer.register_to_config(num_layers=blocks)
    public = {k: v for k, v in transformer.config.items() if not k.startswith("_")}
    config = PavrmConfig(transformer=public, heads=heads, widths=tuple(widths), components=tuple(components))
    return PavrmNet(config, transformer)


def save(net: PavrmNet, folder: Path, *, half: bool = True) -> None:
    """Write a net's config and weights to a folder, weights as float16 if `half`."""
    checkpoint.save(net.state_dict(), folder, ARCHITECTURE, asdict(net.config), half=half)


def read_config(folder: Path, key: str = "folder", read: checkpoint.Read = checkpoint.config_of) -> PavrmConfig:
    """The config of a folder. Raises ConfigError unless the folder holds a PAVRM."""
    found = read(folder, ARCHITECTURE, key)
    with checkpoint.described(folder, "PAVRM", key):
        config = PavrmConfig(**bind(PavrmConfig, found, "config"))
    checkpoint.check_names(config.components, folder, key)
    return config


def outline(folder: Path, key: str = "folder") -> PavrmNet:
    """A folder's net on the meta device, without weights. Raises ConfigError unless the folder's weights fit it."""
    config = read_config(folder, key)
    with checkpoint.described(folder, "PAVRM", key), torch.device("meta"):
        fields = get_type_hints(WanTransformer3DModel.__init__)
        for k, v in config.transformer.items():
            check(k in fields, "config.transformer", k, f"one of {', '.join(fields)}")
            coerce(f"config.transformer.{k}", v, fields[k])
        net = PavrmNet(config)
    checkpoint.compare(net.state_dict(), folder, key)
    return net


def load(folder: Path, key: str = "folder") -> PavrmNet:
    """The net of a folder, in evaluation mode, without gradients. Raises ConfigError for a folder without a PAVRM."""
    net = PavrmNet(outline(folder, key).config)
    checkpoint.fill(net.state_dict(), folder, key)
    return net.eval().requires_grad_(False)


def check_inputs(net: PavrmNet, folder: Path, channels: int, text_dim: int | None, key: str = "folder") -> None:
    """Raises ConfigError unless a net takes latents of `channels` and captions' embeddings of width `text_dim`."""
    c = net.transformer.config
    fits = f"a reward for latents of {channels} channels, not {c.in_channels}"
    check(c.in_channels == channels, key, str(folder), fits)
    fits = f"a reward for captions' embeddings of {text_dim} numbers, not {c.text_dim}"
    check(text_dim in (None, c.text_dim), key, str(folder), fits)


class Pavrm:
    """PAVRM's scores of the noisy latent, without unit: only their order and differences mean something.

    The components are those that the folder's weights were trained on.
    """

    components: tuple[str, ...] = COMPONENTS
    needs: Literal["latent", "estimate", "frames"] = "latent"
    reads_text = True

    @staticmethod
    def named(*, folder: Path = ASSETS, dtype: str = "float32") -> tuple[str, ...]:
        """The components that the folder's config names. Raises ConfigError for a folder without such a config."""
        return read_config(folder, read=checkpoint.settings).components

    @staticmethod
    def files(*, folder: Path = ASSETS, dtype: str = "float32") -> list[Path]:
        """The net's config and weights."""
        return [folder / name for name in checkpoint.FILES]

    @staticmethod
    def fits(
        shape: Sequence[int], text_dim: int | None = None, *, folder: Path = ASSETS, dtype: str = "float32"
    ) -> None:
        """Raises ConfigError unless the folder holds a PAVRM for these latents and captions' embeddings."""
        check(dtype in DTYPES, "dtype", dtype, f"one of {', '.join(DTYPES)}")
        check_inputs(outline(folder), folder, shape[1], text_dim)

    def __init__(self, *, folder: Path = ASSETS, dtype: str = "float32") -> None:
        self.net = load(folder).to(DTYPES[dtype])
        self.components = self.net.config.components

    def to(self, device: str) -> None:
        """Moves the net to a device."""
        self.net.to(device)

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), components)."""
        like = self.net.pool.query
        rows = []
        for view in views:
            assert view.latent is not None and view.text is not None
            sigma, first = torch.tensor([view.sigma], device=like.device), torch.tensor([view.first])
            scores = self.net(view.latent.to(like), sigma, view.text.to(like), first)
            rows.append(scores[0].double().cpu().numpy())
        return np.array(rows).reshape(len(rows), len(self.components))
