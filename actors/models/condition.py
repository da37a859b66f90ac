"""What one row of a batch is conditioned on besides its caption."""

from typing import Any, TypeAlias

import torch

# Clean first latent frames, a tensor (1, C, k, H, W); or what an image-to-video model sees of the first frame, a tuple
# of channels (1, C', T, H, W) and maybe an embedding (1, L, D).
Condition: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | None


def clean_frames(condition: Any) -> int:
    """The number of clean first latent frames that a condition, of tensors or of arrays, holds."""
    return 0 if condition is None or isinstance(condition, tuple) else int(condition.shape[2])


def with_clean_frames(latent: torch.Tensor, condition: Condition) -> torch.Tensor:
    """`latent`, (1, C, T, H, W), in which the condition's clean first frames, if it holds any, replace the first."""
    if not isinstance(condition, torch.Tensor):
        return latent
    return torch.cat([condition, latent[:, :, condition.shape[2] :]], 2)
