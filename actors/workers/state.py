"""What a denoiser makes and a scorer sees: a candidate's latent, and what it takes to go on from it.

Arrays are numpy's, so that Ray shares them between processes without a copy.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models import given_frames, with_first

Arrays: TypeAlias = np.ndarray | tuple[np.ndarray, ...]


@dataclass(frozen=True)
class State:
    """A point of a trajectory.

    `latent` is float32 (1, C, T, H, W); of a queue its clean frames, as many as a clip has. `velocity` is the model's
    at this point. `solver` is the multistep history; a finished state has none. `first` is what the video is given
    beside its captions: see `actors.models.Given`.

    Of a queue, `queue` are the frames that wait, `out` the clean frames since the last kept part, and `levels`, (T,),
    the noise levels of the tail's window, whose velocity is known.
    """

    latent: np.ndarray
    velocity: np.ndarray | None = None
    solver: Any = None
    first: Arrays | None = None
    queue: np.ndarray | None = None
    out: np.ndarray | None = None
    levels: np.ndarray | None = None

    @property
    def given(self) -> int:
        """How many of the latent's first frames are given, clean ones."""
        return given_frames(self.first)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(_nbytes(getattr(self, f.name)) for f in fields(self))

    def noisy(self) -> torch.Tensor:
        """The latent as the model sees it, (1, C, T, H, W): given first frames stay clean; of a queue, its tail."""
        latent = torch.tensor(self.latent)
        if self.levels is not None:
            latent = torch.cat([latent, torch.tensor(self.queue)], 2)[:, :, -latent.shape[2] :]
        return with_first(latent, self._first())

    def x0(self, sigma: float) -> torch.Tensor:
        """The x0 prediction x - sigma v at this point, (1, C, T, H, W); the latent itself where there is no noise."""
        latent = torch.tensor(self.latent)
        if sigma == 0:
            return latent
        if self.levels is None:
            return with_first(latent - sigma * torch.tensor(self.velocity), self._first())
        levels = torch.tensor(self.levels).view(-1, 1, 1)
        return with_first(self.noisy() - levels * torch.tensor(self.velocity), self._first())

    def plain(self) -> dict[str, np.ndarray]:
        """The arrays of a finished state by name, to be kept in a file; what it saw of a picture is over."""
        assert self.solver is None
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v for name, v in values.items() if isinstance(v, np.ndarray)}

    def _first(self) -> torch.Tensor | None:
        return torch.tensor(self.first) if self.given else None


def finished(point: "State | np.ndarray") -> torch.Tensor:
    """The latent of an obstacle's point: a finished candidate's state, or what the encoder made of a file."""
    return torch.tensor(point.latent if isinstance(point, State) else point)


def _nbytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_nbytes(v) for v in value.values())
    return sum(_nbytes(v) for v in value) if isinstance(value, list | tuple) else 0
