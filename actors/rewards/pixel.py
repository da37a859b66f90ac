"""The learned pixel reward: a small network that reads decoded frames and the caption.

Its knowledge of the toy world comes from training on the verifier's grades. Convolutions over space and time turn a
clip into tokens, one per place. A convolution over the words of each phrase makes one query per phrase. Queries
attend to the clip's tokens; the result is scaled feature by feature by a linear map of the query, and linear heads
score it. `actors/tiny/training/pixel_reward.py` trained the weights in `actors/assets/pixel-reward`.

Shapes have the letters of `actors/__init__.py` and P phrases of a caption, K captions of a clip.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from safetensors.torch import save as dump
from torch import nn
from torch.nn import functional as F

from actors.rewards import checkpoint
from raysearch.config.binding import bind

if TYPE_CHECKING:
    from actors.rewards import View

ASSETS = Path(__file__).parents[1] / "assets" / "pixel-reward"
JOINT = "and"  # between two phrases of a caption


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """The sizes of a `PixelNet`, as its config.json has them."""

    vocabulary: tuple[str, ...]
    phrase: int = 5  # words of the longest phrase
    shortest: int = 5  # words of the shortest phrase
    phrases: int = 2  # of a caption, at most
    frames: int = 17  # clips of another length are resampled to this many
    size: int = 32  # pixels, height and width of a frame
    lag: int = 4  # frames between the two whose difference shows motion
    stem: int = 32  # channels of the first convolutions
    mid: int = 48  # channels of the next
    width: int = 96  # D of tokens and queries
    heads: int = 4
    blocks: int = 2
    # Each component, and what its score is read of: the whole clip, the caption's phrases (their mean), or both (the
    # product of the two). A component of both suffers from what a clip shows beyond its caption.
    components: tuple[tuple[str, Literal["clip", "phrases", "both"]], ...] = (
        ("VQ", "clip"),
        ("MQ", "phrases"),
        ("TA", "both"),
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the components."""
        return tuple(name for name, _ in self.components)


class Block(nn.Module):
    """Queries attend to a clip's tokens, then to the queries of the same caption, then pass an MLP (norms first)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.seen = nn.MultiheadAttention(width, heads, batch_first=True)
        self.each_other = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, q: torch.Tensor, seen: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
        """Queries of the shape of q (B, K, P + 1, D). seen is (B, L, D); absent (B K, P + 1) marks missing phrases."""
        h = self.seen(self.norms[0](q).flatten(1, 2), seen, seen, need_weights=False)[0]
        q = q + h.view_as(q)
        h = self.norms[1](q).flatten(0, 1)
        q = q + self.each_other(h, h, h, key_padding_mask=absent, need_weights=False)[0].view_as(q)
        return q + self.mlp(self.norms[2](q))


class PixelNet(nn.Module):
    """Scores in [0, 1], (B, K, components), of frames (B, 3, T, H, W) in [-1, 1] and words (B, K, P (phrase + 1) - 1).

    Words are indices into the vocabulary plus 1, 0 where absent. Each phrase has `phrase` words; one word joins two.
    """

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        self.config = c = config
        self.stem = nn.Sequential(
            nn.Conv2d(6, c.stem, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(c.stem, c.stem, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(c.stem, c.mid, 4, 2, 1),
            nn.GroupNorm(8, c.mid),
            nn.GELU(),
        )
        self.trunk = nn.Sequential(
            nn.Conv3d(c.mid, c.mid, (3, 1, 1), padding=(1, 0, 0)),
            nn.GELU(),
            nn.Conv3d(c.mid, c.width, 3, 2, 1),
            nn.GroupNorm(8, c.width),
            nn.GELU(),
            nn.Conv3d(c.width, c.width, 3, (2, 1, 1), 1),
        )
        places = ((c.frames + 3) // 4, c.size // 8, c.size // 8)
        self.places = nn.Parameter(0.02 * torch.randn(c.width, *places))
        self.seen_norm = nn.LayerNorm(c.width)
        self.words = nn.Embedding(len(c.vocabulary) + 1, c.width, padding_idx=0)
        self.phrases = nn.Sequential(
            nn.Conv1d(c.width, c.width, c.phrase, stride=c.phrase + 1), nn.GELU(), nn.Conv1d(c.width, c.width, 1)
        )
        self.whole = nn.Parameter(torch.randn(c.width))
        self.blocks = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.blocks))
        self.norm = nn.LayerNorm(c.width)
        self.held_against = nn.Linear(c.width, c.width)
        phrases, whole = (sum(of != other for _, of in c.components) for other in ("clip", "phrases"))
        self.of_phrase = nn.Linear(c.width, phrases) if phrases else nn.Identity()
        self.of_whole = nn.Linear(c.width, whole) if whole else nn.Identity()

    def look(self, x: torch.Tensor) -> torch.Tensor:
        """A clip's tokens, (B, L, D), for frames (B, 3, T, H, W) in [-1, 1]; no caption is read."""
        b, _, t = x.shape[:3]
        change = x[:, :, self.config.lag :] - x[:, :, : -self.config.lag]
        x = torch.cat([x, F.pad(change, (0, 0, 0, 0, self.config.lag, 0))], 1)
        h = self.stem(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (b, t)).transpose(1, 2)
        return self.seen_norm((self.trunk(h) + self.places).flatten(2).transpose(1, 2))

    def read(self, words: torch.Tensor) -> torch.Tensor:
        """A query for each phrase, (B, K, P, D)."""
        b = len(words)
        return self.phrases(self.words(words).flatten(0, 1).transpose(1, 2)).transpose(1, 2).unflatten(0, (b, -1))

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Scores, (B, K, components), of frames and words as the class says."""
        return self.judge(self.look(x), words)

    def judge(self, seen: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Scores, (B, K, components), of the tokens that `look` returned."""
        q = self.read(words)
        absent = words[..., :: self.config.phrase + 1] == 0
        present = (~absent).to(q.dtype)[..., None]
        asked = q = torch.cat([self.whole + (q * present).sum(2, keepdim=True), q], 2)
        absent = F.pad(absent, (1, 0), value=False).flatten(0, 1)
        for block in self.blocks:
            q = block(q, seen, absent)
        q = self.norm(q) * (1 + self.held_against(asked))
        phrases = iter(((self.of_phrase(q[:, :, 1:]).sigmoid() * present).sum(2) / present.sum(2)).unbind(-1))
        whole = iter(self.of_whole(q[:, :, 0]).sigmoid().unbind(-1))
        read = {"clip": lambda: next(whole), "phrases": lambda: next(phrases)}
        read["both"] = lambda: next(phrases) * next(whole)
        return torch.stack([read[of]() for _, of in self.config.components], -1)


def spell(caption: str, config: PixelConfig) -> list[int]:
    """The word indices of a caption's phrases, each padded with 0 to `phrase` words, and of the words between them.

    Raises ValueError for other captions.
    """
    rows = [phrase.split() for phrase in caption.split(f" {JOINT} ")]
    unknown = [word for row in rows for word in row if word not in config.vocabulary]
    fits = all(config.shortest <= len(row) <= config.phrase for row in rows) and len(rows) <= config.phrases
    if unknown or not fits:
        words = f"{config.shortest} to {config.phrase}" if config.shortest < config.phrase else f"{config.phrase}"
        raise ValueError(
            f"the pixel reward cannot read {caption!r}: it knows one to {config.phrases} phrases of {words} words, "
            f"joined by {JOINT!r}, out of {list(config.vocabulary)}"
        )
    indices: list[int] = []
    for row in [*rows, *([[]] * (config.phrases - len(rows)))]:
        joint = 1 + config.vocabulary.index(JOINT) if indices and row else 0
        indices += [joint] * bool(indices) + [1 + config.vocabulary.index(word) for word in row]
        indices += [0] * (config.phrase - len(row))
    return indices


def resample(frames: np.ndarray, n: int) -> np.ndarray:
    """`n` frames (n, H, W, 3) of a clip (T, H, W, 3): those nearest to n evenly spaced times."""
    return frames if len(frames) == n else frames[np.rint(np.linspace(0, len(frames) - 1, n)).astype(int)]


def to_input(frames: np.ndarray) -> torch.Tensor:
    """Frames uint8 (..., T, H, W, 3) as float32 (..., 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -4).float().div(127.5).sub(1)


def save(net: PixelNet, folder: Path) -> None:
    """Write a net's config.json and model.safetensors to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(net.config), indent=2) + "\n")
    (folder / "model.safetensors").write_bytes(dump({k: v.contiguous() for k, v in net.state_dict().items()}))


def read_config(folder: Path, read: checkpoint.Read = checkpoint.config_of) -> PixelConfig:
    """The config of a folder. Raises ConfigError unless the folder holds a pixel reward."""
    found = read(folder, None, "folder")
    with checkpoint.described(folder, "pixel reward"):
        config = PixelConfig(**bind(PixelConfig, found, "config"))
    checkpoint.check_names(config.names, folder)
    return config


def load(folder: Path) -> PixelNet:
    """The net of a folder, in evaluation mode, without gradients. Raises ConfigError for a folder without one."""
    config = read_config(folder)
    with checkpoint.described(folder, "pixel reward"):
        net = PixelNet(config)
    checkpoint.fill(net.state_dict(), folder)
    return net.eval().requires_grad_(False)


class PixelReward:
    """The learned grades of decoded frames, each in [0, 1]; the components are those of the folder's weights.

    A call raises ValueError for frames of another size, and for captions with words that the net has not learned.
    """

    components: tuple[str, ...] = ("VQ", "MQ", "TA")
    needs: Literal["latent", "estimate", "frames"] = "frames"

    @staticmethod
    def named(*, folder: Path = ASSETS) -> tuple[str, ...]:
        """The components that the folder's config names. Raises ConfigError for a folder without such a config."""
        return read_config(folder, read=checkpoint.settings).names

    @staticmethod
    def files(*, folder: Path = ASSETS) -> list[Path]:
        """The net's config and weights."""
        return [folder / name for name in checkpoint.FILES]

    @staticmethod
    def fits(shape: Sequence[int], text_dim: int | None = None, *, folder: Path = ASSETS) -> None:
        """Raises ConfigError unless the folder holds a net, whatever the latents are."""
        load(folder)  # it is small

    def __init__(self, *, folder: Path = ASSETS) -> None:
        self.net = load(folder)
        self.components = self.net.config.names

    @torch.inference_mode()
    def __call__(self, views: "Sequence[View]") -> np.ndarray:
        """Scores, float64 (len(views), components)."""
        c = self.net.config
        rows = []
        for view in views:
            frames = view.frames
            if frames is None or frames.dtype != np.uint8 or frames.shape[1:] != (c.size, c.size, 3) or len(frames) < 2:
                raise ValueError(f"the pixel reward needs frames: uint8 (frames >= 2, {c.size}, {c.size}, 3)")
            words = torch.tensor([[spell(view.prompt, c)]])
            rows.append(self.net(to_input(resample(frames, c.frames))[None], words)[0, 0].double().numpy())
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.components))
