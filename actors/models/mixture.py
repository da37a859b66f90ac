"""An exact flow over a Gaussian mixture: velocity, score and posterior in closed form. A model like any other.

Its folder holds model_index.json alone: `_class_name: GaussianMixture`, `means` (K, C), `stds` (K,), `weights` (K,),
and `captions`, from a text to other weights. `path: vp` makes it a model of noise on DDIM's variance-preserving path.
Latents are points, (1, C, 1, 1, 1); a decoded one is a picture of a dot.
So every policy runs in milliseconds, and what it should find is known.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.models import index
from actors.sampling import solvers
from raysearch.config.fleet import PoolConfig
from raysearch.errors import ConfigError, check

SIDE, REACH = 32, 4.0  # pixels of the picture, and the range of coordinates that it shows


def check_folder(folder: Path, key: str) -> None:
    """Raises ConfigError unless the folder holds a mixture."""
    try:
        Mixture.of(folder)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {str(folder)!r} holds no Gaussian mixture: {error}") from error


@dataclass(frozen=True)
class Mixture:
    """sum_k weights_k N(means_k, stds_k^2), in float64; `weights` may have a row for each latent, (B, K).

    At level s a point is alpha x0 + s noise, alpha = 1 - s; with `vp` sqrt(1 - s^2).
    """

    weights: torch.Tensor
    means: torch.Tensor
    stds: torch.Tensor
    vp: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Mixture":
        parts = [torch.tensor(index(folder)[k], dtype=torch.float64) for k in ("weights", "means", "stds")]
        w, m, s = parts
        if m.ndim != 2 or w.shape != s.shape or len(w) != len(m):
            raise ValueError(f"weights {tuple(w.shape)}, means {tuple(m.shape)} and stds {tuple(s.shape)} do not fit")
        path = index(folder).get("path", "flow")
        if path not in ("flow", "vp"):
            raise ValueError(f"path is flow or vp, not {path}")
        return cls(w / w.sum(), m, s, path == "vp")

    def alpha(self, s: torch.Tensor) -> torch.Tensor:
        return (1 - s.square()).sqrt() if self.vp else 1 - s

    def posterior(self, x: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of x_s (B, C) at level s (B,): probabilities of the components (B, K), and E[x0 | component] (B, K, C)."""
        a, s = self.alpha(s)[:, None], s[:, None]
        variance = (a * self.stds) ** 2 + s**2  # (B, K)
        off = x[:, None] - a[..., None] * self.means
        log_p = self.weights.log() - 0.5 * off.square().sum(-1) / variance - 0.5 * x.shape[1] * variance.log()
        shrink = a * self.stds**2 / variance
        return log_p.softmax(-1), self.means + shrink[..., None] * off

    def denoised(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """E[x0 | x_s], (B, C)."""
        p, x0 = self.posterior(x, s)
        return (p[..., None] * x0).sum(1)

    def velocity(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """(x - E[x0 | x_s]) / s, (B, C), for s > 0: of a flow E[eps - x0 | x_s]."""
        return (x - self.denoised(x, s)) / s[:, None]

    def noise(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """E[eps | x_s], (B, C), for s > 0."""
        return (x - self.alpha(s)[:, None] * self.denoised(x, s)) / s[:, None]

    def score(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The gradient of log p_s, (B, C), for s > 0."""
        return -self.noise(x, s) / s[:, None]

    def log_density(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """log p_s(x), (B,)."""
        a, s = self.alpha(s)[:, None], s[:, None]
        variance = (a * self.stds) ** 2 + s**2
        off = (x[:, None] - a[..., None] * self.means).square().sum(-1)
        constant = 0.5 * x.shape[1] * (2 * torch.pi * variance).log()
        return torch.logsumexp(self.weights.log() - 0.5 * off / variance - constant, -1)


class TextEncoder:
    """A caption's embedding is the weights of the components under it."""

    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        self._captions = index(folder).get("captions", {})
        self._weights = index(folder)["weights"]

    def __call__(self, text: str, length: int) -> np.ndarray:
        weights = np.array(self._captions.get(text, self._weights), dtype=np.float32)
        return (weights / weights.sum())[None, None]  # type: ignore[no-any-return]


class Transformer:
    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        self.dtype, self._mixture = torch.float32, Mixture.of(folder)
        self._levels = (1 - solvers.ddim({}).alphas_cumprod.double()).sqrt()

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, first: list[Any]
    ) -> torch.Tensor:
        """Velocities of latents (B, C, 1, 1, 1) at timesteps (B,) = 1000 s, under component weights text (B, 1, K).

        With `vp` their noise, at DDIM's timesteps.
        """
        m = replace(self._mixture, weights=text[:, 0].double())
        x = latents.flatten(1).double()
        out = m.noise(x, self._levels[timesteps]) if m.vp else m.velocity(x, timesteps.double() / 1000)
        return out.to(latents.dtype).view_as(latents)


@dataclass(frozen=True)
class Geometry:
    in_channels: int
    text_dim: int | None = None
    path: str = "flow"
    per_frame: bool = False
    images: str = "refused"
    pictured: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Geometry":
        m = Mixture.of(folder)
        return cls(m.means.shape[1], path="vp" if m.vp else "flow")

    def check(self, *, num_frames: int, height: int, width: int) -> None:
        """A point has no size: all must be 1."""
        for key, value in (("num_frames", num_frames), ("height", height), ("width", width)):
            check(value == 1, f"model.{key}", value, "1 for a Gaussian mixture")

    def check_shards(self, pool: PoolConfig, *, num_frames: int, height: int, width: int) -> None:
        """A formula has no parts."""
        check(pool.shards == 1, "fleet.denoisers.shards", pool.shards, "1 for a Gaussian mixture")

    def frames(self, latent_frames: int) -> int:
        return latent_frames

    def latent_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        return 1, self.in_channels, 1, 1, 1


class Autoencoder:
    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        self._channels = Mixture.of(folder).means.shape[1]

    def decode(self, latent: torch.Tensor) -> np.ndarray:
        """A white dot at the first two coordinates (x to the right, y up), uint8 (1, SIDE, SIDE, 3)."""
        x, y = (*latent.flatten().double().tolist(), 0.0)[:2]
        grid = (np.arange(SIDE) + 0.5) / SIDE * 2 * REACH - REACH
        dot = np.exp(-0.5 * ((grid[None] - x) ** 2 + (-grid[:, None] - y) ** 2) / 0.25**2)
        return np.rint(255 * dot).astype(np.uint8)[None, ..., None].repeat(3, -1)

    def decode_on(self, latent: torch.Tensor, *, fresh: bool) -> np.ndarray:
        return self.decode(latent)

    def encode_video(self, frames: np.ndarray, num_frames: int, height: int, width: int) -> np.ndarray:
        """Where the dot is in pictures of any size, float32 (1, C, 1, 1, 1): the centre of what is bright.

        Coordinates after the second are 0.
        """
        light = frames.astype(np.float64).mean((0, 3))
        light /= max(light.sum(), 1e-9)
        point = np.zeros((1, self._channels, 1, 1, 1), dtype=np.float32)
        grids = [(np.arange(n) + 0.5) / n * 2 * REACH - REACH for n in light.shape[::-1]]
        where = ((light.sum(0) * grids[0]).sum(), -(light.sum(1) * grids[1]).sum())
        point[0, : min(2, self._channels), 0, 0, 0] = where[: self._channels]
        return point
