"""First Block Cache of a Wan transformer on a batch, whose rows decide alone (`actors.sampling.caches.Blocks`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from actors.sampling.caches import Blocks


@contextmanager
def remembering(net: Any, memories: Sequence[Blocks]) -> Iterator[None]:
    """Within, the net runs its first block, and its other blocks on those rows alone whose memory does not hit."""
    blocks = net.blocks
    net.blocks = nn.ModuleList([_Remembered(list(blocks), memories)])
    try:
        yield
    finally:
        net.blocks = blocks


class _Remembered(nn.Module):
    """All blocks as one, which has no modules of its own; the memories have one entry for each row."""

    def __init__(self, blocks: Sequence[nn.Module], memories: Sequence[Blocks]) -> None:
        super().__init__()
        self._all, self._memories = tuple(blocks), memories

    def forward(self, x: torch.Tensor, text: torch.Tensor, time: torch.Tensor, rotary: Any) -> torch.Tensor:
        """Hidden states, (B, L, D), after all blocks."""
        first, *others = self._all
        head = first(x, text, time, rotary)
        added = head - x
        missed = [i for i, m in enumerate(self._memories) if not m.hits(added[i])]
        out = head
        if 0 < len(missed) < len(head):
            out, text, time = (t[missed] for t in (head, text, time))
        for block in others if missed else ():
            out = block(out, text, time, rotary)
        made = dict(zip(missed, out, strict=False))
        rows = []
        for i, m in enumerate(self._memories):
            if i in made:
                m.first, m.others = added[i].clone(), made[i] - head[i]
                rows.append(made[i])
            else:
                assert m.others is not None
                m.saved += 1 - Fraction(1, len(self._all))
                rows.append(m.others + head[i])
        return torch.stack(rows)
