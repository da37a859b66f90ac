"""A small decoder of latents, by which candidates on their way are looked at: a net of the TAEHV family.

The files of https://github.com/madebyollin/taehv are read: taew2_1 and taew2_2 for Wan, and others whose decoders have
the same layout of weights, of any depth and width. A decoder is a row of layers, and its file says all but two things
about them: which ones double rows and columns, which are the last ones that can; and which convolutions have a bias,
which are all but those of 1 x 1 and the one after each `Grow`.

It is causal, as Wan's own decoder is: a latent frame's frames depend on that frame and on earlier ones. Shapes are
those of `actors/__init__.py`, with N latents that are decoded together.
"""

import warnings
from collections.abc import Mapping
from math import isqrt, prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from actors.models import folder as folders
from actors.models import header
from actors.models.frames import TOGETHER, eight_bits
from actors.models.source import Source
from raysearch.config.parts import PREVIEW
from raysearch.errors import ConfigError, told

PREFIX = "decoder."


class Clamp(nn.Module):
    """Bends values towards the range -3..3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor of the same shape."""
        return torch.tanh(x / 3) * 3


class Recall(nn.Module):
    """Three convolutions over a frame and the frame before it, besides a skip: TAEHV's MemBlock."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        widths = (2 * inside, outside, outside)
        convs = [nn.Conv2d(n, outside, 3, padding=1) for n in widths]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1, bias=False)

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The next frames of (frames, C, H, W); `before` are those one earlier."""
        return F.relu(self.conv(torch.cat([x, before], 1)) + self.skip(x))


class Grow(nn.Module):
    """Makes several frames of each: TAEHV's TGrow."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, C, H, W) to (frames times as many, C, H, W)."""
        return self.conv(x).reshape(-1, *x.shape[1:])


class Taehv(nn.Module):
    """The decoder whose weights these are, for latents that have C = `channels`.

    A latent frame but the first becomes `temporal` frames, of `spatial` pixels for each row and column of a latent.
    Raises ValueError for weights of another layout, or that decode other latents.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, channels: int, temporal: int, spatial: int) -> None:
        super().__init__()
        own = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
        self.decoder, outside = _layers(own)
        self.patch, self.temporal = isqrt(outside // 3), temporal
        ups = [m for m in self.decoder if isinstance(m, nn.Upsample)]
        most = self.patch * 2 ** len(ups)
        doubled = [n for n in range(len(ups) + 1) if self.patch * 2**n == spatial]
        if 3 * self.patch**2 != outside or not doubled:
            raise ValueError(f"its last layer has {outside} channels and at most {most} pixels for each of a latent")
        for up in ups[: len(ups) - doubled[0]]:
            up.scale_factor = 1.0
        found = own["1.weight"].shape[1], prod(m.times for m in self.decoder if isinstance(m, Grow))
        if found != (channels, temporal):
            made = f"it decodes latents of {found[0]} channels, each to {found[1]} frames"
            raise ValueError(f"{made}, and not of {channels} to {temporal}")
        self.decoder.load_state_dict(own)

    def forward(self, latents: torch.Tensor, at_a_time: int = 0) -> torch.Tensor:
        """Frames, (N, T', 3, H', W') with black 0 and white 1 or beyond, of latents (N, C, T, H, W).

        So many latent frames are decoded at a time; 0 are all, which takes the most memory.
        """
        n, parts, past = len(latents), list[torch.Tensor](), dict[int, torch.Tensor]()
        for part in latents.split(at_a_time or latents.shape[2], 2):
            x = part.transpose(1, 2).flatten(0, 1)
            for i, layer in enumerate(self.decoder):
                if isinstance(layer, Recall):
                    frames = x.unflatten(0, (n, -1))
                    first = past.get(i, torch.zeros_like(frames[:, :1]))
                    past[i] = frames[:, -1:]
                    x = layer(x, torch.cat([first, frames[:, :-1]], 1).flatten(0, 1))
                else:
                    x = layer(x)
            parts.append(F.pixel_shuffle(x, self.patch).unflatten(0, (n, -1)))
        return torch.cat(parts, 1)[:, self.temporal - 1 :]


def _layers(own: Mapping[str, torch.Tensor]) -> tuple[nn.Sequential, int]:
    """The layers of which these are the weights, by number and name; and the channels of the last. ValueError."""
    names = [k.split(".", 1) for k in own]
    if not names or not all(len(k) == 2 and k[0].isdecimal() for k in names):
        raise ValueError(f"it has no weights {PREFIX}0.NAME, {PREFIX}1.NAME and so on")
    shapes = {(int(i), name): own[f"{i}.{name}"].shape for i, name in names}
    last = max(i for i, _ in shapes)
    if last > 2 * len(own) or any(len(s) != (4 if name.endswith("weight") else 1) for (_, name), s in shapes.items()):
        raise ValueError("its weights are not those of two-dimensional convolutions")
    layers: list[nn.Module] = []
    for i in range(last + 1):
        if s := shapes.get((i, "conv.0.weight")):
            layers.append(Recall(s[1] // 2, s[0]))
        elif s := shapes.get((i, "conv.weight")):
            layers.append(Grow(s[1], s[0] // s[1]))
        elif s := shapes.get((i, "weight")):
            layers.append(nn.Conv2d(s[1], s[0], 3, padding=1, bias=(i - 1, "conv.weight") not in shapes))
        elif (i + 1, "conv.weight") in shapes:
            layers.append(nn.Upsample(scale_factor=2.0))
        else:
            layers.append(nn.ReLU() if i else Clamp())
    if (last, "weight") not in shapes or (1, "weight") not in shapes:
        raise ValueError("its layer 1 and its last one are no convolutions")
    return nn.Sequential(*layers), int(shapes[last, "weight"][0])


def read(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file, none of whose code is run. Raises errors of many types."""
    if file.suffix == ".safetensors":
        header.tensors(file)
        return load_file(file)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(file, weights_only=True, map_location="cpu")
    except UnpicklingError as error:  # whose message says how to run the code
        raise ValueError("it holds more than tensors by name, and no code of a file is run") from error
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ValueError("it holds no tensors by name")
    return found


def loaded(file: Path, key: str, **geometry: Any) -> Taehv:
    """The decoder in a file, float32, in evaluation mode. Raises ConfigError, which names `key`; see `Taehv`."""
    with folders.whole(file, key):
        try:
            weights = read(file)
            net = Taehv(weights, **geometry)
            if broken := [k for k, v in net.named_parameters() if not v.isfinite().all()]:
                raise ValueError(f"it has NaN or inf in {broken[0]}")
            with torch.no_grad():
                net(torch.zeros(1, geometry["channels"], 1, 2, 2))  # layers may not fit each other
        except Exception as error:  # of torch, of pickle and of the file's format
            raise ConfigError(f"{key}: {str(file)!r} is no decoder of this model's latents: {told(error)}") from error
    return net.eval().requires_grad_(False)


class Preview:
    """The decoder for looks that a source names. Raises ConfigError unless it decodes the model's latents.

    Latents are in the transformer's scale.
    """

    def __init__(self, source: Source) -> None:
        from actors.models.weights import DTYPES  # which imports diffusers

        assert source.preview is not None
        g, file = source.geometry, source.preview.files["file"]
        net = loaded(file, f"parts.{PREVIEW}.file", channels=g.z_dim, temporal=g.temporal, spatial=g.spatial)
        self._like: dict[str, Any] = {"device": source.device, "dtype": DTYPES[source.preview.dtype or source.dtype]}
        self._net = net.to(**self._like).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fast on CPUs

    @torch.no_grad()
    def decode_rows(self, latents: torch.Tensor) -> list[np.ndarray]:
        """The frames, uint8 (T', H', W', 3), of several latents, (N, C, T, H, W)."""
        together = max(TOGETHER // (len(latents) * latents.shape[3] * latents.shape[4]), 1)
        return list(eight_bits(self._net(latents.to(**self._like), together).movedim(2, -1).float()))


def blank(widths: tuple[int, int], *, channels: int, blocks: int, outside: int) -> dict[str, torch.Tensor]:
    """The weights, not trained, of a decoder of two stages: `blocks` layers that recall, then two frames of each."""
    first, second = widths
    rows: list[nn.Module] = [Clamp(), nn.Conv2d(channels, first, 3, padding=1), nn.ReLU()]
    for width, after in ((first, second), (second, second)):
        rows += [Recall(width, width) for _ in range(blocks)]
        rows += [nn.Upsample(), Grow(width, 2), nn.Conv2d(width, after, 3, padding=1, bias=False)]
    rows += [nn.ReLU(), nn.Conv2d(second, outside, 3, padding=1)]
    return {f"{PREFIX}{k}": v for k, v in nn.Sequential(*rows).state_dict().items()}
