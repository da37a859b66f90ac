"""Decoding for looks: each clip once while it is remembered, several together where that is allowed."""

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from actors.models.source import Source

LATEST = 2**28  # bytes: the frames of looks that a scorer remembers
K = TypeVar("K", str, bytes)


class Memory(Generic[K]):
    """Frames by name, of at most so many bytes besides the latest; those longest out of use are forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._nbytes = capacity, 0
        self._held: OrderedDict[K, np.ndarray] = OrderedDict()

    def recall(self, name: K) -> np.ndarray | None:
        """The frames of a name, if they are remembered."""
        if name in self._held:
            self._held.move_to_end(name)
        return self._held.get(name)

    def keep(self, name: K, frames: np.ndarray) -> np.ndarray:
        """Remember the frames of a name, and return them."""
        if (before := self._held.pop(name, None)) is not None:
            self._nbytes -= before.nbytes
        self._held[name] = frames
        self._nbytes += frames.nbytes
        while self._nbytes > self._capacity and len(self._held) > 1:
            self._nbytes -= self._held.popitem(last=False)[1].nbytes
        return frames


@dataclass(frozen=True)
class Clip:
    """What is decoded: a latent, (1, C, T, H, W), of which the last `frames` count; or a state and conditions.

    A `rough` one is on its way, and shown by the decoder for looks if there is one.
    """

    latent: Any
    frames: int = 0
    rough: bool = False

    @property
    def name(self) -> bytes:
        """A digest of all that the frames depend on."""
        # Torch's pickles of one tensor differ.
        read = self.latent.numpy() if isinstance(self.latent, torch.Tensor) else self.latent
        return blake2b(pickle.dumps((read, self.frames, self.rough), protocol=5), digest_size=16).digest()


class Looks:
    """The frames of clips, by a model's own `autoencoder`, or a pipeline's `decoder`, or the source's for looks.

    With `together` clips of one shape are decoded as one batch, which is not bit-exact.
    """

    def __init__(self, source: Source, autoencoder: Any, decoder: Any, *, together: bool) -> None:
        self._pipeline, self._own, self._together = decoder, autoencoder, together
        self._rough = autoencoder if source.preview is None else source.family.Preview(source)
        self._latest = Memory[bytes](LATEST)

    def frames(self, clips: Sequence[Clip]) -> tuple[list[np.ndarray], list[int]]:
        """The frames, uint8 (T, H, W, 3), of each clip, and how many decodes were made for it: 0 or 1.

        They are the caller's own: what is written to them is not remembered.
        """
        names = [c.name for c in clips]
        found = {n: f.copy() for n in names if (f := self._latest.recall(n)) is not None}
        new = {n: c for n, c in zip(names, clips, strict=True) if n not in found}
        for group in self._groups(new):
            rows = self._decoded([new[n] for n in group])
            for n, frames in zip(group, rows, strict=True):
                found[n] = frames[-new[n].frames :]
                self._latest.keep(n, found[n].copy())  # a view holds a larger array, and a reward may write to its own
        made = [int(n in new and names.index(n) == i) for i, n in enumerate(names)]
        return [found[n] for n in names], made

    def _groups(self, new: dict[bytes, Clip]) -> list[list[bytes]]:
        """The names of clips that are decoded together."""
        if not self._together or self._pipeline is not None:
            return [[n] for n in new]
        groups = dict[Any, list[bytes]]()
        for n, c in new.items():
            groups.setdefault((c.rough, c.latent.shape), []).append(n)
        return list(groups.values())

    def _decoded(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        first, *_ = clips
        if self._pipeline is not None:
            return [self._pipeline.frames(*first.latent)]
        decoder = self._rough if first.rough else self._own
        found: list[np.ndarray] = decoder.decode_rows(torch.cat([c.latent for c in clips]))
        return found
