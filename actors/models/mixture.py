"""A family whose models are Gaussian mixtures: velocity, score and posterior are exact, in closed form.

A model's folder holds model_index.json alone: `_class_name: GaussianMixture`, `means` (K, C), `stds` (K,), `weights`
(K,), and `captions`, a mapping from a text to other weights (K,); K counts the mixture's components. With `path: vp`
the model predicts noise on DDIM's variance-preserving path. A latent is a point, (1, C, 1, 1, 1), and decodes to a
picture of a dot. So every policy runs in milliseconds, and the distribution that a policy should reach is known.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from actors.models.condition import Condition
from actors.models.folder import index
from actors.models.frames import eight_bits
from actors.models.source import Source
from actors.sampling import solvers
from raysearch.config.fleet import PoolConfig
from raysearch.errors import ConfigError, check

SIDE, REACH = 32, 4.0  # a picture has SIDE x SIDE pixels and shows coordinates from -REACH to REACH


def check_folder(folder: Path, key: str) -> None:
    """Raises ConfigError, which names `key`, unless the folder holds a mixture."""
    try:
        Mixture.of(folder)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {str(folder)!r} holds no Gaussian mixture: {error}") from error


def token_counter(folder: Path) -> Callable[[str], int]:
    """A function that counts no tokens: a mixture knows captions as a whole."""
    return lambda text: 0


@dataclass(frozen=True)
class Mixture:
    """The mixture sum_k weights_k N(means_k, stds_k^2 I) of x0, in float64, and its noisy versions.

    `means` is (K, C), `stds` (K,); `weights` is (K,), or (B, K) with a row for each point. In all methods x is a point
    x_s = alpha x0 + s eps, (B, C), at noise level s, (B,), where alpha = 1 - s, or with `vp` sqrt(1 - s^2).
    """

    weights: torch.Tensor
    means: torch.Tensor
    stds: torch.Tensor
    vp: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Mixture":
        """The mixture in a folder. Raises KeyError, ValueError or TypeError if the folder's numbers are none."""
        parts = [torch.tensor(index(folder)[k], dtype=torch.float64) for k in ("weights", "means", "stds")]
        w, m, s = parts
        if m.ndim != 2 or w.ndim != 1 or w.shape != s.shape or len(w) != len(m) or m.shape[1] == 0:
            raise ValueError(f"weights {tuple(w.shape)}, means {tuple(m.shape)} and stds {tuple(s.shape)} do not fit")
        captions = index(folder).get("captions", {})
        if not isinstance(captions, dict):
            raise ValueError("captions is no mapping from texts to weights")
        for caption, weights in {"weights": w, **captions}.items():
            given = torch.as_tensor(weights, dtype=torch.float64)
            if given.shape != w.shape or not (given >= 0).all() or not 0 < given.sum() < float("inf"):
                raise ValueError(f"weights must be {len(w)} numbers, none negative, not all 0: {caption} has {weights}")
        if not m.isfinite().all() or not (s > 0).all() or not s.isfinite().all():
            raise ValueError("means must be finite numbers, and stds finite numbers above 0")
        path = index(folder).get("path", "flow")
        if path not in ("flow", "vp"):
            raise ValueError(f"path is flow or vp, not {path}")
        return cls(w / w.sum(), m, s, path == "vp")

    def alpha(self, s: torch.Tensor) -> torch.Tensor:
        """The factor of x0 at level s, of the shape of `s`."""
        return (1 - s.square()).sqrt() if self.vp else 1 - s

    def posterior(self, x: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The components' probabilities given x, (B, K), and E[x0 | x, component], (B, K, C)."""
        a, s = self.alpha(s)[:, None], s[:, None]
        variance = (a * self.stds) ** 2 + s**2  # (B, K)
        off = x[:, None] - a[..., None] * self.means
        log_p = self.weights.log() - 0.5 * off.square().sum(-1) / variance - 0.5 * x.shape[1] * variance.log()
        shrink = a * self.stds**2 / variance
        return log_p.softmax(-1), self.means + shrink[..., None] * off

    def denoised(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The x0 prediction E[x0 | x], (B, C)."""
        p, x0 = self.posterior(x, s)
        return (p[..., None] * x0).sum(1)

    def velocity(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """(x - E[x0 | x]) / s, (B, C), for s > 0; without `vp` this is E[eps - x0 | x]."""
        return (x - self.denoised(x, s)) / s[:, None]

    def noise(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The noise E[eps | x], (B, C), for s > 0."""
        return (x - self.alpha(s)[:, None] * self.denoised(x, s)) / s[:, None]

    def score(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The gradient of log p_s at x, (B, C), for s > 0."""
        return -self.noise(x, s) / s[:, None]

    def log_density(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The log density of x at level s, log p_s(x), (B,)."""
        a, s = self.alpha(s)[:, None], s[:, None]
        variance = (a * self.stds) ** 2 + s**2
        off = (x[:, None] - a[..., None] * self.means).square().sum(-1)
        constant = 0.5 * x.shape[1] * (2 * torch.pi * variance).log()
        return torch.logsumexp(self.weights.log() - 0.5 * off / variance - constant, -1)


class TextEncoder:
    """Embeds a caption as the weights of the components under it."""

    def __init__(self, source: Source) -> None:
        self._captions = index(source.folder).get("captions", {})
        self._weights = index(source.folder)["weights"]

    def __call__(self, text: str, length: int) -> np.ndarray:
        """Weights, float32 (1, 1, K), which sum to 1; the mixture's own for a text that is none of its captions."""
        weights = np.array(self._captions.get(text, self._weights), dtype=np.float32)
        return (weights / weights.sum())[None, None]  # type: ignore[no-any-return]


class Transformer:
    """The exact output of a model that has learnt the mixture perfectly."""

    def __init__(self, source: Source) -> None:
        m, device = Mixture.of(source.folder), source.device
        self.dtype, self._mixture = torch.float32, replace(m, means=m.means.to(device), stds=m.stds.to(device))
        self._levels = (1 - solvers.ddim({}).alphas_cumprod.double()).sqrt().to(device)

    def expert(self, timestep: torch.Tensor) -> int:
        """0: there is one mixture."""
        return 0

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, conditions: Sequence[Condition]
    ) -> torch.Tensor:
        """Velocities (B, C, 1, 1, 1) of `latents` of the same shape at `timesteps` (B,) = 1000 s; with `vp` the noise.

        `text` holds component weights, (B, 1, K). `timesteps` are DDIM's with `vp`. `conditions` are all None.
        """
        m = replace(self._mixture, weights=text[:, 0].double())
        x = latents.flatten(1).double()
        out = m.noise(x, self._levels[timesteps]) if m.vp else m.velocity(x, timesteps.double() / 1000)
        return out.to(latents.dtype).view_as(latents)


@dataclass(frozen=True)
class Geometry:
    """The facts about a mixture that `actors.models` lists; videos have one frame of one pixel."""

    in_channels: int
    text_dim: int | None = None
    path: str = "flow"
    fps: int = 8
    per_frame: bool = False
    images: str = "refused"
    image_to_video: bool = False
    caches: tuple[str, ...] = ("easy", "taylor", "guidance")  # a formula has no blocks

    @classmethod
    def of(cls, folder: Path) -> "Geometry":
        """The geometry of the mixture in a folder."""
        m = Mixture.of(folder)
        return cls(m.means.shape[1], path="vp" if m.vp else "flow")

    def check(self, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError unless all three are 1, since a point has no size."""
        for key, value in (("num_frames", num_frames), ("height", height), ("width", width)):
            check(value == 1, f"model.{key}", value, "1 for a Gaussian mixture")

    def check_shards(self, pool: PoolConfig, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError for more than one shard, since a formula has no parts."""
        check(pool.shards == 1, "fleet.denoisers.shards", pool.shards, "1 for a Gaussian mixture")

    def frames(self, latent_frames: int) -> int:
        """The number of frames, which is that of the latent frames."""
        return latent_frames

    def video_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape (1, SIDE, SIDE, 3) of a point's picture."""
        return 1, SIDE, SIDE, 3

    def latent_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape of a latent, (1, C, 1, 1, 1)."""
        return 1, self.in_channels, 1, 1, 1


class Autoencoder:
    """Draws a point as a picture of a white dot on black, and finds the dot in a picture."""

    def __init__(self, source: Source) -> None:
        self._channels = Mixture.of(source.folder).means.shape[1]

    def decode(self, latent: torch.Tensor) -> np.ndarray:
        """A picture, uint8 (1, SIDE, SIDE, 3), of a dot at the first two coordinates: x to the right, y up."""
        x, y = (*latent.flatten().double().tolist(), 0.0)[:2]
        grid = (np.arange(SIDE) + 0.5) / SIDE * 2 * REACH - REACH
        dot = np.exp(-0.5 * ((grid[None] - x) ** 2 + (-grid[:, None] - y) ** 2) / 0.25**2)
        return eight_bits(torch.from_numpy(dot)[None, ..., None].expand(1, SIDE, SIDE, 3))

    def decode_rows(self, latents: torch.Tensor) -> list[np.ndarray]:
        """The pictures of several points, (N, C, 1, 1, 1): see `decode`."""
        return [self.decode(point) for point in latents.split(1)]

    def decode_part(self, latent: torch.Tensor, *, fresh: bool) -> np.ndarray:
        """The picture of `decode`: no part of a video depends on the part before it."""
        return self.decode(latent)

    def encode_video(self, frames: Iterable[Image.Image], height: int, width: int) -> np.ndarray:
        """The point of the dot in `frames`, of any size, as float32 (1, C, 1, 1, 1).

        The point is the pixels' mean position, weighted by brightness. Coordinates after the second are 0.
        """
        light = np.stack([np.asarray(frame, np.float64) for frame in frames]).mean((0, 3))
        light /= max(light.sum(), 1e-9)
        point = np.zeros((1, self._channels, 1, 1, 1), dtype=np.float32)
        grids = [(np.arange(n) + 0.5) / n * 2 * REACH - REACH for n in light.shape[::-1]]
        where = ((light.sum(0) * grids[0]).sum(), -(light.sum(1) * grids[1]).sum())
        point[0, : min(2, self._channels), 0, 0, 0] = where[: self._channels]
        return point
