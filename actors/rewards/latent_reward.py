"""LatSearch's latent reward model: VQ, MQ and TA, or other grades, of a noisy latent, which is never decoded.

The model is transformers' Qwen2-VL with a patch embedding that reads latent channels. An embedding of the noise level
is added to every patch. The vision encoder's tokens go to the language model before an instruction and the caption, as
a video's tokens do in Qwen2-VL. A linear head scores the last hidden states of learned query tokens at the end, one for
each component: [VQ], [MQ], [TA]. The Qwen2-VL is either a small one of any size, or a pre-trained one whose language
model stays frozen.

`actors/tiny/training/latent_backbone.py` trained the small one's first weights. Shapes: see `actors/__init__.py`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed

from actors.models.weights import pretrained
from actors.rewards import checkpoint
from raysearch.config.binding import bind
from raysearch.errors import check

if TYPE_CHECKING:
    from actors.rewards import View

ASSETS = Path(__file__).parents[1] / "assets" / "latent-reward"
ARCHITECTURE = "latent_reward"
COMPONENTS = ("VQ", "MQ", "TA")
SPECIAL = ("<|endoftext|>", "<|vision_start|>", "<|vision_end|>")  # of the small tokenizer; the first one pads
_VIDEO = 2  # the kind of a token for `get_rope_index`; 0 is text


@dataclass(frozen=True, kw_only=True)
class LatentRewardConfig:
    """The sizes of a `LatentRewardNet`, as its config.json has them; those from `vocabulary` on are the small one's."""

    shape: tuple[int, int, int, int]  # of a latent: C, T, H, W
    patch: tuple[int, int] = (1, 2)  # of a latent: frames; rows, which are as many as columns
    components: tuple[str, ...] = COMPONENTS  # each has a query token
    instruction: str = "rate the video :"
    backbone: str | None = None  # a folder with a Qwen2-VL and its tokenizer; None is the small one
    vocabulary: tuple[str, ...] = ()  # every word of a caption
    merge: int = 1  # patches along rows, and along columns, that become one token
    vision_layers: int = 4
    vision_width: int = 160
    vision_heads: int = 4
    layers: int = 4
    width: int = 192
    mlp: int = 512
    heads: int = 4


def build(c: LatentRewardConfig) -> tuple[Qwen2VLModel, Any]:
    """A config's Qwen2-VL, untrained or from its folder, and its tokenizer. Raises ConfigError for other folders."""
    if c.backbone is not None:
        try:
            found = json.loads((Path(c.backbone) / "config.json").read_text()).get("model_type")
        except (OSError, ValueError):
            found = None
        check(found == "qwen2_vl", "backbone", c.backbone, "a folder with a Qwen2-VL")
        model = pretrained(Qwen2VLModel, Path(c.backbone), use_safetensors=True)
        return model, pretrained(AutoTokenizer, Path(c.backbone))
    words = tuple(dict.fromkeys((*SPECIAL, *c.instruction.split(), *c.vocabulary)))
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    half = c.width // c.heads // 2
    rows = (half - half // 4) // 2
    config = Qwen2VLConfig(
        vision_start_token_id=1,
        vision_end_token_id=2,
        vision_config={
            "depth": c.vision_layers,
            "embed_dim": c.vision_width,
            "num_heads": c.vision_heads,
            "hidden_size": c.width,
            "in_channels": c.shape[0],
            "temporal_patch_size": c.patch[0],
            "patch_size": c.patch[1],
            "spatial_merge_size": c.merge,
            "initializer_range": 0.05,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 10.0},  # grids are a few patches wide
        },
        text_config={
            "vocab_size": len(words),
            "hidden_size": c.width,
            "intermediate_size": c.mlp,
            "num_hidden_layers": c.layers,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.heads,
            "bos_token_id": None,
            "eos_token_id": None,
            "initializer_range": 0.05,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10.0,
                "mrope_section": [half // 4, rows, half - half // 4 - rows],  # as Qwen2-VL's 16, 24, 24
            },
        },
    )
    return Qwen2VLModel(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0])


def sinusoid(t: torch.Tensor, width: int) -> torch.Tensor:
    """The embedding (B, width) of numbers t (B,): cosines, then sines, of wavelengths from 2 pi to 2 pi 10^4."""
    rates = torch.exp(-math.log(1e4) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class LatentRewardNet(nn.Module):
    """Scores (B, components) of latents (B, C, T, H, W) at noise levels `sigmas` (B,) with B prompts.

    Raises ConfigError for a shape that patches do not fill, or a backbone folder without a Qwen2-VL.
    """

    def __init__(self, config: LatentRewardConfig) -> None:
        super().__init__()
        self.config = config
        self.model, self.tokenizer = build(config)
        vision, width = self.model.config.vision_config, self.model.config.text_config.hidden_size
        self.merge = vision.spatial_merge_size
        c, t, h, w = config.shape
        frames, rows = config.patch
        fits = t % frames == 0 and h % (rows * self.merge) == 0 and w % (rows * self.merge) == 0
        check(
            fits, "shape", config.shape, f"made of patches {config.patch}, {self.merge} x {self.merge} of them a token"
        )
        self.grid = t // frames, h // rows, w // rows
        # The vision encoder is given embedded patches.
        self.patches = PatchEmbed(rows, frames, c, vision.embed_dim)
        self.model.visual.patch_embed = nn.Identity()
        self.time = nn.Sequential(
            nn.Linear(256, vision.embed_dim), nn.SiLU(), nn.Linear(vision.embed_dim, vision.embed_dim)
        )
        spread = self.model.config.text_config.initializer_range
        self.queries = nn.Parameter(spread * torch.randn(len(config.components), width))
        self.head = nn.Linear(width, 1)
        if config.backbone is not None:
            self.model.visual.float()
            self.model.language_model.requires_grad_(False)

    def forward(
        self, latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[str], first: Any = None
    ) -> torch.Tensor:
        """Scores (B, components). `first`, which PAVRM reads, has no effect here."""
        return self.judge(self.look(latents, sigmas), prompts)

    def look(self, latents: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """A latent's tokens, (B, L, D); no prompt is read."""
        n, (t, h, w) = len(latents), self.grid
        frames, rows = self.config.patch
        m = self.merge
        # Patches that become one token follow each other, as in Qwen2-VL's own preprocessing.
        x = latents.reshape(n, -1, t, frames, h // m, m, rows, w // m, m, rows).permute(0, 2, 4, 7, 5, 8, 1, 3, 6, 9)
        x = self.patches(x.flatten(0, 5).flatten(1)).unflatten(0, (n, -1))
        x = x + self.time(sinusoid(1000 * sigmas, 256))[:, None]
        grid = torch.tensor(self.grid, device=latents.device).expand(n, 3)
        return self.model.visual(x.flatten(0, 1), grid_thw=grid).pooler_output.unflatten(0, (n, -1))

    def judge(self, seen: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores (B, components) of the tokens that `look` returned, with B prompts."""
        return self.scores(self.attend(seen, *self.read(prompts)))

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores (B, components) of hidden states (B, L, D) that end with those of the queries."""
        return self.head(hidden[:, -len(self.queries) :])[..., 0]

    def attend(self, seen: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last hidden states of the text and of the queries behind it, float32 (B, length + components, D).

        `seen` (B, L, D) are the latent's tokens; token ids and mask, (B, length), are those of `read`.
        """
        language, config = self.model.language_model, self.model.config
        (n, length), asked = ids.shape, len(self.queries)
        ids, mask = ids.to(seen.device), mask.to(seen.device)
        edges = torch.tensor([config.vision_start_token_id, config.vision_end_token_id], device=seen.device)
        before, after = language.embed_tokens(edges)[:, None, None].expand(-1, n, 1, -1)
        x = torch.cat([before, seen, after, language.embed_tokens(ids), self.queries.expand(n, -1, -1)], 1)
        ones = mask.new_ones(n, x.shape[1] - length)
        mask = torch.cat([ones[:, :-asked], mask, ones[:, -asked:]], 1)
        kinds = torch.zeros_like(mask)
        kinds[:, 1 : seen.shape[1] + 1] = _VIDEO
        grid = torch.tensor(self.grid).expand(n, 3)
        # Only the shape of the first argument is read.
        positions, _ = self.model.get_rope_index(mask, kinds, video_grid_thw=grid, attention_mask=mask)
        out = language(inputs_embeds=x.to(language.dtype), attention_mask=mask, position_ids=positions, use_cache=False)
        return out.last_hidden_state[:, -length - asked :].float()

    def read(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of instruction and prompt, and their mask, both (B, length), padded at the end.

        Raises ValueError for a word that the small backbone has not learned.
        """
        if self.config.backbone is None:
            for prompt in prompts:
                if unknown := [w for w in prompt.split() if w not in self.config.vocabulary]:
                    raise ValueError(
                        f"the latent reward cannot read {unknown[0]!r} in {prompt!r}: it knows the words "
                        f"{list(self.config.vocabulary)}"
                    )
        texts = [f"{self.config.instruction} {p}" for p in prompts]
        found = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        return found["input_ids"], found["attention_mask"]


def weights(net: LatentRewardNet) -> dict[str, torch.Tensor]:
    """The weights of a net that its folder holds: all but the language model of a pre-trained backbone."""
    left_out = "model.language_model." if net.config.backbone is not None else ()
    return {k: v for k, v in net.state_dict().items() if not k.startswith(left_out)}


def save(net: LatentRewardNet, folder: Path) -> None:
    """Write a net's config and weights to a folder, weights as float16."""
    checkpoint.save(weights(net), folder, ARCHITECTURE, asdict(net.config))


def read_config(folder: Path, key: str = "folder", read: checkpoint.Read = checkpoint.config_of) -> LatentRewardConfig:
    """The config of a folder. Raises ConfigError unless the folder holds a latent reward."""
    found = read(folder, ARCHITECTURE, key)
    with checkpoint.described(folder, "latent reward", key):
        config = LatentRewardConfig(**bind(LatentRewardConfig, found, "config"))
    checkpoint.check_names(config.components, folder, key)
    return config


def load(folder: Path, key: str = "folder") -> LatentRewardNet:
    """The net of a folder, in evaluation mode, float32. Raises ConfigError."""
    config = read_config(folder, key)
    with checkpoint.described(folder, "latent reward", key):
        net = LatentRewardNet(config)
    checkpoint.fill(weights(net), folder, key)
    return net.eval()


def ask(net: LatentRewardNet, components: Sequence[str]) -> None:
    """Give a net a query for each of these components: its own one for a name that it knows, else an untrained one."""
    c, spread = net.config, net.model.config.text_config.initializer_range
    if c.components != tuple(components):
        own = dict(zip(c.components, net.queries.detach(), strict=True))
        queries = [own[name] if name in own else spread * torch.randn_like(net.queries[0]) for name in components]
        net.config, net.queries = replace(c, components=tuple(components)), nn.Parameter(torch.stack(queries))


class LatentReward:
    """The learned grades of a noisy latent, without unit: only their order and differences mean something.

    The components are those that the folder's weights were trained on. A call raises ValueError for a latent of another
    shape, and for a prompt with a word that the net has not learned.
    """

    components: tuple[str, ...] = COMPONENTS
    needs: Literal["latent", "estimate", "frames"] = "latent"

    @staticmethod
    def named(*, folder: Path = ASSETS) -> tuple[str, ...]:
        """The components that the folder's config names. Raises ConfigError for a folder without such a config."""
        return read_config(folder, read=checkpoint.settings).components

    @staticmethod
    def files(*, folder: Path = ASSETS) -> list[Path]:
        """The net's config and weights, and the files of its pre-trained backbone. Raises ConfigError."""
        own = [folder / name for name in checkpoint.FILES]
        backbone = read_config(folder).backbone if own[0].exists() else None
        if backbone is None:
            return own
        check(Path(backbone).is_dir(), "backbone", backbone, "a folder with a Qwen2-VL")
        return [*own, *sorted(p for p in Path(backbone).iterdir() if p.is_file())]

    @staticmethod
    def fits(shape: Sequence[int], text_dim: int | None = None, *, folder: Path = ASSETS) -> None:
        """Raises ConfigError unless the folder holds a latent reward for latents of `shape`, (1, C, T, H, W)."""
        own = read_config(folder).shape
        check(own == tuple(shape[1:]), "folder", str(folder), f"a reward for latents {tuple(shape[1:])}, not {own}")

    def __init__(self, *, folder: Path = ASSETS) -> None:
        self.net = load(folder)
        self.components = self.net.config.components

    def to(self, device: str) -> None:
        """Moves the net to a device."""
        self.net.to(device)

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), components)."""
        wanted = (1, *self.net.config.shape)
        rows = []
        for view in views:
            found = None if view.latent is None else tuple(view.latent.shape)
            if view.latent is None or found != wanted:
                raise ValueError(f"the latent reward was trained for latents {wanted}, not {found}")
            at = self.net.head.weight.device
            scores = self.net(view.latent.float().to(at), torch.tensor([view.sigma], device=at), [view.prompt])
            rows.append(scores[0].double().cpu().numpy())
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.components))
