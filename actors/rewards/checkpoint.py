"""The folder of a learned latent reward: config.json, which names its architecture, and model.safetensors.

Nothing in it is executed: whatever is no safetensors file of that architecture is one clear error.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as dump

from raysearch.errors import ConfigError, check

FILES = ("config.json", "model.safetensors")


def save(
    weights: dict[str, torch.Tensor], folder: Path, architecture: str, config: dict[str, Any], *, half: bool = True
) -> None:
    """Write a reward, its weights as float16 if `half`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in weights.items()}
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


def fill(weights: dict[str, torch.Tensor], folder: Path, key: str = "folder") -> None:
    """Load the folder's weights into those of a net. Raises ConfigError where names or shapes differ."""
    with safe_open(folder / FILES[1], framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in sorted(weights.keys() | state.keys()):
        wanted, found = (tuple(x[name].shape) if name in x else "no such tensor" for x in (weights, state))
        fits = f"one whose weights fit its config: {name} must be {wanted}, there is {found}"
        check(wanted == found, key, str(folder), fits)
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(state[name])
