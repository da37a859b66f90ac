"""The folder of a learned latent reward: config.json, which names its architecture, and model.safetensors.

Nothing in it is executed: whatever is no safetensors file of that architecture is one clear error.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as dump
from torch import nn

from raysearch.errors import ConfigError, check

FILES = ("config.json", "model.safetensors")


def save(net: nn.Module, folder: Path, architecture: str, config: dict[str, Any], *, half: bool = True) -> None:
    """Write the parameters that `net` trains or was given to keep, as float16 if `half`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in net.state_dict().items()}
    (folder / FILES[0]).write_text(json.dumps({"architecture": architecture, **config}, indent=2) + "\n")
    (folder / FILES[1]).write_bytes(dump({k: v.contiguous() for k, v in state.items()}))


def config_of(folder: Path, architecture: str, key: str = "folder") -> dict[str, Any]:
    """The config of a folder. Raises ConfigError unless it holds a reward of this architecture."""
    for name in FILES:
        check((folder / name).is_file(), key, str(folder), f"a folder with {name}")
    try:
        config = json.loads((folder / FILES[0]).read_text())
        found = config.pop("architecture", None)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError.of(key, str(folder), f"a folder whose {FILES[0]} is a JSON object") from error
    check(found == architecture, key, str(folder), f"a reward of architecture {architecture!r}, not {found!r}")
    try:
        with safe_open(folder / FILES[1], framework="pt"):
            pass
    except Exception as error:
        raise ConfigError.of(key, str(folder), f"a folder whose {FILES[1]} is a safetensors file") from error
    return config  # type: ignore[no-any-return]


def fill(net: nn.Module, folder: Path, key: str = "folder") -> None:
    """Load the folder's weights into `net`. Raises ConfigError where names or shapes differ."""
    with safe_open(folder / FILES[1], framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    own = net.state_dict()
    for name in sorted(own.keys() ^ state.keys()):
        raise ConfigError.of(key, str(folder), f"one with the weights that its config says: {name} does not match")
    for name, value in own.items():
        shapes = f"{tuple(state[name].shape)} instead of {tuple(value.shape)}"
        check(state[name].shape == value.shape, key, str(folder), f"one whose {name} fits its config: it is {shapes}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
