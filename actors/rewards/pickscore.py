"""PickScore (2305.01569): a CLIP ViT-H/14 that was trained on people's choices between two images of a prompt."""

from typing import ClassVar

import numpy as np
import torch

from actors.rewards.clip import ClipReward


class PickScore(ClipReward):
    """Components pickscore and pickscore_min: exp(logit_scale) cos of caption and frame, mean and minimum over frames.

    Of the published weights, `yuvalkirstain/PickScore_v1`, they lie between about 15 and 26. `folder` is a CLIPModel, a
    folder or a hub id; `tokenizer` is one with CLIP's tokenizer where `folder` has none.
    """

    components: tuple[str, ...] = ("pickscore", "pickscore_min")
    weights: ClassVar[dict[str, float]] = {"pickscore": 1.0, "pickscore_min": 0.0}

    def grades(self, prompt: str, frames: np.ndarray) -> torch.Tensor:
        """exp(logit_scale) cos, float32 (T,)."""
        return self.clip.model.logit_scale.float().exp() * super().grades(prompt, frames)
