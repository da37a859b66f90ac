"""Attention for training on a CPU, where torch's own is slow at the size of the tiny model in bfloat16."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor


class FastAttention:
    """Stands in for diffusers' `WanAttnProcessor`: the same attention, its products in bfloat16.

    The class attributes are what diffusers looks for in an attention processor.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend from tokens (n, length, width) to themselves, or to a text's embedding; returns the same shape."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        with torch.autocast("cpu", enabled=False):
            q, k, v = (
                x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q.float()), attn.norm_k(k.float()), v.float())
            )
            if rotary_emb is not None:
                q, k = (rotate(x, rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]) for x in (q, k))
            q, k, v = (
                x.transpose(1, 2).bfloat16() for x in (q * q.shape[-1] ** -0.5, k, v)
            )  # (n, heads, length, width of a head)
            out = (q @ k.transpose(2, 3)).float().softmax(-1).bfloat16() @ v
        projected: Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected


def use_fast_attention(transformer: WanTransformer3DModel) -> None:
    """Have every block of a transformer attend by `FastAttention`."""
    for block in transformer.blocks:
        block.attn1.set_processor(FastAttention())
        block.attn2.set_processor(FastAttention())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: neighbouring pairs of x's last axis are turned by the angles of `cos` and `sin`."""
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1).flatten(-2)
