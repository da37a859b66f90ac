"""The state that a denoiser makes and a scorer reads: a latent, and all that denoising needs to go on from there.

Arrays are numpy's, so that Ray shares them between processes without a copy.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import torch

from actors.models.condition import clean_frames, with_clean_frames

Arrays: TypeAlias = np.ndarray | tuple[np.ndarray, ...]


@dataclass(frozen=True)
class State:
    """The state of a clip, or of a queue of frames, at one step of a candidate's trajectory.

    `latent` is float32 (1, C, T, H, W); in a queue's state it holds the latest clean frames, as many as a clip has.
    `velocity`, of the same shape, is the model's velocity at this step, if it was evaluated. `solver` is the solver's
    multistep history, which `actors.sampling.solvers.pack` made; a finished clip and a queue have none. `condition` is
    an `actors.models.Condition` in arrays.

    A queue's state has three more arrays: `queue`, (1, C, T, H, W), the queue frames; `out`, the clean frames that left
    the queue since the last kept part; and with a velocity `levels`, (T,), the noise levels of the frames in the window
    at the queue's tail, which is the window that the velocity belongs to.
    """

    latent: np.ndarray
    velocity: np.ndarray | None = None
    solver: Any = None
    condition: Arrays | None = None
    queue: np.ndarray | None = None
    out: np.ndarray | None = None
    levels: np.ndarray | None = None

    @property
    def clean_frames(self) -> int:
        """The number of the clip's first latent frames that the condition holds clean; 0 of a queue."""
        return clean_frames(self.condition)

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return sum(_nbytes(getattr(self, f.name)) for f in fields(self))

    def noisy(self) -> torch.Tensor:
        """The latent as the model sees it, (1, C, T, H, W).

        In a clip the condition's clean frames are in their place. A queue with a velocity shows its tail's window.
        """
        latent = torch.tensor(self.latent)
        if self.levels is not None:
            latent = torch.cat([latent, torch.tensor(self.queue)], 2)[:, :, -latent.shape[2] :]
        return with_clean_frames(latent, self._clean())

    def x0(self, sigma: float) -> torch.Tensor:
        """The x0 prediction x - sigma v, (1, C, T, H, W); at sigma 0 the latent itself.

        A queue's prediction is that of its tail's window, whose frames have their own levels instead of `sigma`.
        """
        latent = torch.tensor(self.latent)
        if sigma == 0:
            return latent
        if self.levels is None:
            return with_clean_frames(latent - sigma * torch.tensor(self.velocity), self._clean())
        levels = torch.tensor(self.levels).view(-1, 1, 1)
        return with_clean_frames(self.noisy() - levels * torch.tensor(self.velocity), self._clean())

    def plain(self) -> dict[str, np.ndarray]:
        """The arrays of a finished state by name, for a file.

        An image-to-video condition, a tuple, is left out: the parts that go on from this state have their own.
        """
        assert self.solver is None
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v for name, v in values.items() if isinstance(v, np.ndarray)}

    def _clean(self) -> torch.Tensor | None:
        return torch.tensor(self.condition) if self.clean_frames else None


def finished(point: Any) -> torch.Tensor:
    """The latent (1, C, T, H, W) of an obstacle's point: of a finished candidate's state, or of a recording."""
    return torch.tensor(point if isinstance(point, np.ndarray) else point.latent)


def _nbytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_nbytes(v) for v in value.values())
    return sum(_nbytes(v) for v in value) if isinstance(value, list | tuple) else 0
